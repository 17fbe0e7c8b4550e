package layer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// block is one entry of a tar as it stands there, put together by hand: its header's fields, whatever they say, and the
// blocks behind it.
type block struct {
	kind         byte
	name, link   string
	size         string // the field as it is, "" for the length of body
	magic        string // ustar's unless given
	prefix, body string
}

func (b block) bytes() []byte {
	h := make([]byte, 512)
	copy(h, b.name)
	copy(h[100:], "0000755\x00")
	copy(h[108:], "0000000\x000000000\x00")
	size := b.size
	if size == "" {
		size = fmt.Sprintf("%011o\x00", len(b.body))
	}
	copy(h[124:136], size)
	copy(h[136:], "00000000000\x00        ")
	h[156] = b.kind
	copy(h[157:257], b.link)
	magic := b.magic
	if magic == "" {
		magic = "ustar\x0000"
	}
	copy(h[257:], magic)
	copy(h[345:500], b.prefix)
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	body := []byte(b.body)
	return append(h, append(body, make([]byte, -len(body)&511)...)...)
}

func rawTar(blocks ...block) []byte {
	var all []byte
	for _, b := range blocks {
		all = append(all, b.bytes()...)
	}
	return append(all, make([]byte, 1024)...)
}

// records are the body of an extended header.
func records(pairs ...string) string {
	var text strings.Builder
	for _, p := range pairs {
		n := len(p) + 3
		for n != len(fmt.Sprint(n))+len(p)+2 {
			n++
		}
		fmt.Fprintf(&text, "%d %s\n", n, p)
	}
	return text.String()
}

const gnuMagic = "ustar  \x00"

// strangeTars are read in more than one way by the tar readers there are: what one takes for a file's content is an entry
// for another, so that something could get past whoever looks an archive through. Left out is a prefix beside GNU's magic,
// which Go 1.8 wrote into honest layers and every reader of images in Go heeds.
func strangeTars() map[string][]byte {
	hidden := string(block{kind: '0', name: "hidden", body: "hidden"}.bytes())
	file := block{kind: '0', name: "file", body: "x"}
	pax := func(pairs ...string) block { return block{kind: 'x', name: "pax", body: records(pairs...)} }
	global := func(pairs ...string) block { return block{kind: 'g', name: "global", body: records(pairs...)} }
	long := func(name string) block {
		return block{kind: 'L', name: "././@LongLink", magic: gnuMagic, body: name + "\x00"}
	}
	sized := func(kind byte, size string) block {
		return block{kind: kind, name: "sized", link: "to", size: size, body: hidden}
	}
	large := make([]byte, 12)
	large[0] = 0x80
	binary.BigEndian.PutUint64(large[4:], uint64(len(hidden)))
	return map[string][]byte{
		"size in pax":            rawTar(pax(fmt.Sprint("size=", len(hidden))), sized('0', "00000000000\x00"), file),
		"no size in pax":         rawTar(pax("size=0"), sized('0', ""), file),
		"size twice":             rawTar(pax("size=0", fmt.Sprint("size=", len(hidden))), sized('0', ""), file),
		"size in a global":       rawTar(global(fmt.Sprint("size=", len(hidden))), sized('0', "00000000000\x00"), file),
		"size for what is next":  rawTar(pax(fmt.Sprint("size=", len(hidden))), long("long"), sized('0', "00000000000\x00"), file),
		"negative size in pax":   rawTar(pax("size=-512"), sized('0', ""), file),
		"size of blanks":         rawTar(sized('0', "            "), file),
		"size with garbage":      rawTar(sized('0', "2000x\x00\x00\x00\x00\x00\x00\x00"), file),
		"size with a blank":      rawTar(sized('0', "   2000 \x00\x00\x00\x00"), file),
		"size in base 256":       rawTar(sized('0', string(large)), file),
		"negative in base 256":   rawTar(sized('0', strings.Repeat("\xff", 10)+"\xfe\x00"), file),
		"directory with a size":  rawTar(sized('5', ""), file),
		"link with a size":       rawTar(sized('2', ""), file),
		"hard link with a size":  rawTar(block{kind: '0', name: "to", body: "y"}, sized('1', ""), file),
		"fifo with a size":       rawTar(sized('6', ""), file),
		"old directory":          rawTar(block{kind: 0, name: "old/", magic: "\x00", body: hidden}, file),
		"contiguous file":        rawTar(sized('7', ""), file),
		"two extended headers":   rawTar(pax("path=first"), pax("path=second"), file),
		"path twice":             rawTar(pax("path=first", "path=second"), file),
		"empty path":             rawTar(pax("path="), file),
		"path with a NUL":        rawTar(pax("path=a\x00b"), file),
		"path in a global":       rawTar(global("path=global"), file, block{kind: '0', name: "more", body: "z"}),
		"two long names":         rawTar(long("first"), long("second"), file),
		"long name, then pax":    rawTar(long("long"), pax("path=pax"), file),
		"pax, then long name":    rawTar(pax("path=pax"), long("long"), file),
		"pax, then global":       rawTar(pax("path=pax"), global("comment=x"), file),
		"long name with a NUL":   rawTar(long("a\x00b"), file),
		"prefix of ustar":        rawTar(block{kind: '0', name: "file", prefix: "dir", body: "x"}),
		"link's path in pax":     rawTar(pax("linkpath=pax"), block{kind: '2', name: "link", link: "header"}, file),
		"link's path for a file": rawTar(pax("linkpath=pax"), file),
		"record without an end":  rawTar(block{kind: 'x', name: "pax", body: "20 path=first"}, file),
		"record that is longer":  rawTar(block{kind: 'x', name: "pax", body: "999 path=first\n"}, file),
		"one empty block":        append(append(file.bytes(), make([]byte, 512)...), rawTar(block{kind: '0', name: "behind", body: "y"})...),
		"two empty blocks":       append(rawTar(file), rawTar(block{kind: '0', name: "behind", body: "y"})...),
		"sparse, by its header":  rawTar(block{kind: 'S', name: "sparse", magic: gnuMagic, body: hidden}, file),
		"sparse, by pax":         rawTar(pax("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=sparse", "GNU.sparse.realsize=1"), block{kind: '0', name: "x", body: "1\n0\n1\n" + strings.Repeat("\x00", 506) + "y"}, file),
		"two long links":         rawTar(block{kind: 'K', name: "././@LongLink", magic: gnuMagic, body: "gnu\x00"}, pax("linkpath=pax"), block{kind: '2', name: "link"}),
		"name of a sparse file":  rawTar(pax("GNU.sparse.name=sparse"), file),
		"a volume's label":       rawTar(block{kind: 'V', name: "label", magic: gnuMagic}, file),
		"unknown kind":           rawTar(sized('Q', ""), file),
	}
}

// A few bytes that promise a terabyte, or yield one of zeros behind the archive's end, come to an end by the limits that all
// archives from outside have.
func TestBombs(t *testing.T) {
	needRoot(t)
	hole := func(size string) []byte {
		sparse := records("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=sparse", "GNU.sparse.realsize="+size)
		return rawTar(block{kind: 'x', name: "pax", body: sparse}, block{kind: '0', name: "x", body: "0\n" + strings.Repeat("\x00", 510)})
	}
	small := Limits{MaxBytes: 1 << 20, MaxTar: 1 << 20}
	for name, c := range map[string]struct {
		tar    io.Reader
		limits Limits
		want   string
	}{
		"a terabyte of a hole": {bytes.NewReader(hole(fmt.Sprint(1 << 40))), LimitsFor(100), "more than"},
		"eight exbibytes":      {bytes.NewReader(hole("9223372036854775807")), LimitsFor(1 << 62), "more than"},
		"zeros behind the end": {io.MultiReader(bytes.NewReader(rawTar()), endlessZeros{}), small, "larger than it may be"},
		"zeros in a file":      {io.MultiReader(bytes.NewReader(block{kind: '0', name: "f", size: "77777777777\x00"}.bytes()), endlessZeros{}), small, "more than"},
	} {
		if err := Unpack(t.Context(), c.tar, t.TempDir(), nil, c.limits); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	honest := LimitsFor(50 << 30) // a model of fifty gigabytes that cannot be compressed, and one that can
	if honest.MaxBytes < 2<<40 || LimitsFor(1).MaxBytes != 64<<30+100 || LimitsFor(1<<62).MaxBytes < 0 {
		t.Errorf("%+v", honest)
	}
}

type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) { return copy(p, make([]byte, len(p))), nil }

// TestStrangeTars holds what we make of a tar against GNU tar: the same files, or none because it is refused. What GNU tar
// refuses itself hides nothing.
func TestStrangeTars(t *testing.T) {
	needRoot(t)
	taken := 0
	for name, data := range strangeTars() {
		dir := t.TempDir()
		ours, err := listed(dir+"/ours", func(to string) error { return Unpack(t.Context(), bytes.NewReader(data), to, nil, Limits{}) })
		gnu, gnuErr := listed(dir+"/gnu", func(to string) error { return piped(data, "tar", "-C", to, "-xpf", "-") })
		if err == nil {
			taken++
		}
		if err == nil && gnuErr == nil && ours != gnu {
			t.Errorf("%s: we find %s, tar finds %s", name, ours, gnu)
		}
	}
	if taken < 20 {
		t.Errorf("only %d of the archives are taken", taken)
	}
}

func piped(data []byte, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	return nil
}

// listed tells what fill puts into a new directory: names, kinds, sizes of files and targets of links.
func listed(dir string, fill func(dir string) error) (string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	err := fill(dir)
	var all []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		rel, _ := filepath.Rel(dir, path)
		if info, err := d.Info(); err == nil && rel != "." {
			text := rel + " " + d.Type().String()
			if d.Type().IsRegular() {
				text += fmt.Sprint(" ", info.Size())
			}
			if to, err := os.Readlink(path); err == nil {
				text += " " + to
			}
			all = append(all, text)
		}
		return nil
	})
	return strings.Join(all, ", "), err
}
