package rpmdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Package is what is read of a package's header. A text that the header does not have is "".
type Package struct {
	Name, Version, Release string
	Epoch                  uint32
	HasEpoch               bool
	Arch, License, Vendor  string
	Source                 string // the file name of the source package
}

// Tags of a header, and the types of their values (rpm.org, "RPM V4 Package Format").
const (
	tagName      = 1000
	tagVersion   = 1001
	tagRelease   = 1002
	tagEpoch     = 1003
	tagVendor    = 1011
	tagLicense   = 1014
	tagArch      = 1022
	tagSourceRPM = 1044

	typeInt32  = 4
	typeString = 6
)

const (
	maxEntries  = 0xffff
	maxText     = 4096 // bytes of a text that is believed
	headerIntro = 8    // bytes before the index: its entries, and the bytes of data behind it
	indexEntry  = 16   // bytes: tag, type, place in the data, number of values
)

// parse reads a header as databases have it, without its magic.
func parse(b []byte) (p Package, err error) {
	if len(b) < headerIntro {
		return p, fmt.Errorf("%w: a header of %d bytes", ErrDamaged, len(b))
	}
	entries, size := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	if b = b[headerIntro:]; entries > maxEntries || entries*indexEntry+size > int64(len(b)) {
		return p, fmt.Errorf("%w: a header of %d entries in %d bytes", ErrDamaged, entries, len(b))
	}
	index, data := b[:entries*indexEntry], b[entries*indexEntry:][:size]
	for ; len(index) > 0; index = index[indexEntry:] {
		at := binary.BigEndian.Uint32(index[8:])
		if int64(at) < size {
			p.set(binary.BigEndian.Uint32(index), binary.BigEndian.Uint32(index[4:]), data[at:])
		}
	}
	if p.Name == "" {
		return p, fmt.Errorf("%w: a package without a name", ErrDamaged)
	}
	return p, nil
}

// set takes a value over, if it is of one of the tags that are read.
func (p *Package) set(tag, kind uint32, data []byte) {
	if tag == tagEpoch && kind == typeInt32 && len(data) >= 4 {
		p.Epoch, p.HasEpoch = binary.BigEndian.Uint32(data), true
	}
	field := p.field(tag)
	if end := bytes.IndexByte(data[:min(len(data), maxText)], 0); field != nil && kind == typeString && end >= 0 {
		*field = string(data[:end])
	}
}

// field is where the text of a tag goes; nil if it is not read.
func (p *Package) field(tag uint32) *string {
	switch tag {
	case tagName:
		return &p.Name
	case tagVersion:
		return &p.Version
	case tagRelease:
		return &p.Release
	case tagVendor:
		return &p.Vendor
	case tagLicense:
		return &p.License
	case tagArch:
		return &p.Arch
	case tagSourceRPM:
		return &p.Source
	}
	return nil
}
