package sbom

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestGoProgram finds the build information of this test itself, with its table of sections and without.
func TestGoProgram(t *testing.T) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "usr/bin/tool"), program)
	got := lines(scanned(t, dir))
	stdlib := "pkg:golang/stdlib@" + strings.TrimPrefix(goVersion(runtime.Version()), "go") + " stdlib [] usr/bin/tool"
	if !strings.Contains(got, stdlib) || !strings.Contains(got, "pkg:golang/builder builder ") {
		t.Errorf("got\n%s", got)
	}
	clear(program[40:48]) // e_shoff
	clear(program[58:64]) // e_shentsize, e_shnum, e_shstrndx
	write(t, filepath.Join(dir, "usr/bin/tool"), program)
	if again := lines(scanned(t, dir)); again != got {
		t.Errorf("without sections: got\n%swant\n%s", again, got)
	}
}

// TestModules reads the forms in which compilers wrote build information, for machines of all kinds.
func TestModules(t *testing.T) {
	frame := strings.Repeat("x", 16)
	modules := frame + "path\tx.org/App\nmod\tx.org/App\t(devel)\t\ndep\tx.org/a/v2\tv2.0.0\th1:a=\n" +
		"dep\tx.org/b\tv1.0.0\n=>\tx.org/fork\tv1.0.1\th1:b=\ndep\tx.org/c\tv1.0.0\n=>\t./c\t\t\n" + frame
	want := "pkg:golang/stdlib@1.17 stdlib [] bin/p\npkg:golang/x.org/a/v2@v2.0.0 x.org/a/v2 [] bin/p\npkg:golang/x.org/app x.org/App [] bin/p\n" +
		"pkg:golang/x.org/c@v1.0.0 x.org/c [] bin/p\npkg:golang/x.org/fork@v1.0.1 x.org/fork [] bin/p\n"
	for name, p := range map[string]goProgram{
		"inline, 64 bits":               {binary.LittleEndian, 8, true},
		"pointers, 64 bits":             {binary.LittleEndian, 8, false},
		"inline, 32 bits, big-endian":   {binary.BigEndian, 4, true},
		"pointers, 32 bits, big-endian": {binary.BigEndian, 4, false},
		"pointers, 32 bits":             {binary.LittleEndian, 4, false},
		"pointers, 64 bits, big-endian": {binary.BigEndian, 8, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "bin/p"), p.bytes("go1.17 X:x", modules))
			if got := lines(scanned(t, dir)); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// goProgram makes programs without code: one segment of data, with build information.
type goProgram struct {
	order  binary.AppendByteOrder
	word   int
	inline bool
}

func (p goProgram) number(b []byte, n uint64) []byte {
	if p.word == 4 {
		return p.order.AppendUint32(b, uint32(n))
	}
	return p.order.AppendUint64(b, n)
}

func (p goProgram) bytes(version, modules string) []byte {
	const at, base = 0x100, 0x400000 // where the segment begins in the file, and in memory
	data := append([]byte(infoMark), byte(p.word), 0)
	if p.inline {
		data[15] = 2
		data = append(data, make([]byte, 16)...)
		for _, text := range []string{version, modules} {
			data = append(binary.AppendUvarint(data, uint64(len(text))), text...)
		}
	} else {
		data = p.number(p.number(data, base+0x40), base+0x60) // of the texts' headers
		data = append(data, make([]byte, 0x40-len(data))...)
		data = p.number(p.number(data, base+0x80), uint64(len(version)))
		data = append(data, make([]byte, 0x60-len(data))...)
		data = p.number(p.number(data, base+0x100), uint64(len(modules)))
		data = append(append(data, make([]byte, 0x80-len(data))...), version...)
		data = append(append(data, make([]byte, 0x100-len(data))...), modules...)
	}
	b := append([]byte{0x7f, 'E', 'L', 'F', byte(p.word / 4), 1}, make([]byte, 10)...)
	if p.order.String() == "BigEndian" {
		b[5] = 2
	}
	b = append(b, make([]byte, 8)...)                                   // type, machine, version
	b = p.number(p.number(p.number(b, 0), uint64(16+8+3*p.word+16)), 0) // entry, segments, sections
	b = append(b, make([]byte, 6)...)                                   // flags, size
	for _, n := range []int{8 + 6*p.word, 1, 0, 0, 0} {                 // segments, sections, names
		b = p.order.AppendUint16(b, uint16(n))
	}
	b = p.order.AppendUint32(b, loadSegment)
	if p.word == 8 {
		b = p.order.AppendUint32(b, writableFlag)
	}
	for _, n := range []uint64{at, base, base, uint64(len(data)), uint64(len(data))} {
		b = p.number(b, n)
	}
	if p.word == 4 {
		b = p.order.AppendUint32(b, writableFlag)
	}
	b = append(append(b, make([]byte, at-len(b))...), data...)
	return append(b, make([]byte, minProgram)...)
}

// TestRustProgram reads the list of crates that `cargo auditable` left in a program: the program itself, a crate that it
// uses, and one that only built it.
func TestRustProgram(t *testing.T) {
	crates, err := os.ReadFile("testdata/dep-v0.zlib")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, c := range map[string]struct {
		section []byte
		want    string
	}{
		"whole":   {crates, "pkg:cargo/app@0.3.0 app [] bin/p\npkg:cargo/dep@1.2.3 dep [] bin/p\n"},
		"cut":     {crates[:40], "unread bin/p: its list of crates: unexpected EOF\n"},
		"no zlib": {[]byte("text"), "unread bin/p: its list of crates is not compressed by zlib\n"},
		"none":    {nil, "unread bin/p: its list of crates is not compressed by zlib\n"},
	} {
		write(t, filepath.Join(dir, "bin/p"), sectioned(cratesSection, c.section))
		if got := lines(scanned(t, dir)); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", name, got, c.want)
		}
	}
}

// sectioned is a program of one section and that of the sections' names.
func sectioned(name string, content []byte) []byte {
	const head, entry = 64, 64
	order := binary.LittleEndian
	names := append([]byte("\x00"+name), 0)
	b := make([]byte, head+2*entry)
	copy(b, "\x7fELF\x02\x01\x01")
	order.PutUint16(b[54:], 56) // bytes of a segment's entry, of which there are none
	order.PutUint64(b[40:], head)
	order.PutUint16(b[58:], entry)
	order.PutUint16(b[60:], 2)
	order.PutUint16(b[62:], 1)
	for i, part := range [][]byte{content, names} {
		e := b[head+i*entry:]
		order.PutUint32(e, uint32(1-i))
		order.PutUint64(e[24:], uint64(len(b)))
		order.PutUint64(e[32:], uint64(len(part)))
		b = append(b, part...)
	}
	return append(b, make([]byte, minProgram)...)
}

// TestDamagedPrograms holds that no change of any byte of a program's tables makes it cost more than it is worth.
func TestDamagedPrograms(t *testing.T) {
	head := make([]byte, minProgram)
	copy(head, "\x7fELF\x02\x01\x01")
	for i := 4; i < 64; i += 2 {
		for _, b := range []byte{0, 1, 0x40, 0x7f, 0xff} {
			damaged := append([]byte(nil), head...)
			for k := i; k < min(i+8, 64); k++ {
				damaged[k] = b
			}
			path := filepath.Join(t.TempDir(), "p")
			write(t, path, damaged)
			if err := os.Truncate(path, 1<<40); err != nil { // sparse: every offset is in the file
				t.Skip(err)
			}
			if got := lines(scanned(t, filepath.Dir(path))); got != "" {
				t.Errorf("bytes from %d are %#x: %s", i, b, got)
			}
			os.Remove(path)
		}
	}
}

func FuzzBuildInfo(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := readELF(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))))
		if err != nil {
			return
		}
		if _, _, err := e.buildInfo(); err == nil && len(b) < infoHead {
			t.Error("a program of less than its head")
		}
		if found, err := e.content(cratesSection, maxCrates); err == nil && len(found) > len(b) {
			t.Error("a section of more than the file")
		}
	})
}
