package sbom

import (
	"encoding/binary"
	"errors"
	"io"
	"runtime/debug"
	"strings"

	"builder/overlay"
)

// minProgram is the size in bytes below which no program made by Go is: the smallest have some 600 kB.
const minProgram = 64 << 10

// program lists what a program was built of, as compilers note it: the modules of one by Go, the crates of one by Rust.
// Other programs tell nothing.
func (s *scan) program(at string, n *overlay.Node) error {
	f, err := n.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	e, err := readELF(io.NewSectionReader(f, 0, n.Stat.Size))
	if err == nil {
		err = s.modules(at, e)
	}
	if e != nil && errors.Is(err, errNoInfo) {
		err = s.crates(at, e)
	}
	if errors.Is(err, errNoInfo) {
		return nil
	}
	return err
}

// modules lists what a Go program was built of; errNoInfo if it is none.
func (s *scan) modules(at string, e *elf) error {
	version, modules, err := e.buildInfo()
	if err != nil {
		return err
	}
	s.module(at, &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(goVersion(version), "go")})
	info, err := debug.ParseBuildInfo(modules)
	if err != nil {
		return err
	}
	s.module(at, &info.Main)
	for _, m := range info.Deps {
		s.module(at, m)
	}
	return nil
}

// goVersion is the release in "go1.26.1 X:experiment"; "" of a compiler that is none.
func goVersion(version string) string {
	version, _, _ = strings.Cut(version, " ")
	if !strings.HasPrefix(version, "go") {
		return ""
	}
	return version
}

// module adds a module, or what replaces it. One that was built where it was written has no version.
func (s *scan) module(at string, m *debug.Module) {
	if m.Replace != nil && m.Replace.Version != "" {
		m = m.Replace
	}
	name, version := word(m.Path), word(m.Version)
	if version == "(devel)" {
		version = ""
	}
	id := purl{kind: "golang", version: version}
	id.namespace, id.name = cutNamespace(strings.ToLower(name))
	s.add(at, id, Package{Name: name, Version: version})
}

// Where the build information of a Go program lies (runtime.buildInfo in debug/buildinfo): in the section of this name,
// at a multiple of 16, behind this mark.
const (
	infoSection = ".go.buildinfo"
	infoMark    = "\xff Go buildinf:"
	infoAlign   = 16
	infoHead    = 32 // bytes before the texts
)

// Bounds of what is believed: the build information of the largest programs has some 100 kB.
const (
	maxInfo     = 4 << 20
	maxInfoScan = 1 << 20 // bytes searched for the mark
)

var (
	errNoInfo  = errors.New("it does not say what it was built of")
	errBadInfo = errors.New("its build information is damaged")
)

// buildInfo reads the compiler's version and the text about modules. It is debug/buildinfo for ELF alone, which believes no
// number in the file before it is checked, and is a twentieth of the code.
func (e *elf) buildInfo() (version, modules string, err error) {
	at, err := e.infoAt()
	if err != nil {
		return "", "", err
	}
	head, err := e.bytes(at, infoHead)
	if err != nil {
		return "", "", errBadInfo
	}
	if head[15]&2 != 0 { // the texts follow, since Go 1.18
		version, next, err := e.lengthAndText(at + infoHead)
		if err == nil {
			modules, _, err = e.lengthAndText(next)
		}
		return version, trimFrame(modules), err
	}
	if version, err = e.pointedText(head[16:]); err == nil {
		modules, err = e.pointedText(head[16+e.word:])
	}
	return version, trimFrame(modules), err
}

// trimFrame takes off the 16 bytes by which the text is found in memory, before and after it.
func trimFrame(text string) string {
	if len(text) < 33 || text[len(text)-17] != '\n' {
		return ""
	}
	return text[16 : len(text)-16]
}

// lengthAndText reads a text after its length, and where the next one is.
func (e *elf) lengthAndText(at int64) (string, int64, error) {
	b, err := e.bytes(at, min(10, e.r.Size()-at))
	if err != nil {
		return "", 0, errBadInfo
	}
	n, used := binary.Uvarint(b)
	if used <= 0 || n > maxInfo {
		return "", 0, errBadInfo
	}
	at += int64(used)
	text, err := e.bytes(at, int64(n))
	if err != nil {
		return "", 0, errBadInfo
	}
	return string(text), at + int64(n), nil
}

// pointedText reads a text through the address of its address and length, as Go up to 1.17 had it.
func (e *elf) pointedText(b []byte) (string, error) {
	at, ok := e.offset(e.number(b))
	header, err := e.bytes(at, int64(2*e.word))
	if !ok || err != nil {
		return "", errBadInfo
	}
	n := e.number(header[e.word:])
	at, ok = e.offset(e.number(header))
	if !ok || n > maxInfo {
		return "", errBadInfo
	}
	text, err := e.bytes(at, int64(n))
	if err != nil {
		return "", errBadInfo
	}
	return string(text), nil
}
