package sqlite

import (
	"encoding/binary"
	"errors"
	"io"

	"builder/builder/sbom/extent"
)

// The write-ahead log (section 4.1): a header, then frames of a header and a page each.
const (
	logHeader   = 32
	frameHeader = 24
	logMagic    = 0x377f0682 // and 1 more where checksums are made of big-endian numbers
	logVersion  = 3007000
)

// log is what was committed to a write-ahead log.
type log struct {
	r      *io.SectionReader
	frames map[uint32]int64 // where the newest content of a page begins
	pages  int64            // of the database after the last commit
}

// readLog reads the frames up to the last commit. A log that is empty, or that belongs to an earlier time, has none.
func readLog(r *io.SectionReader, page int64) (*log, error) {
	l := &log{r: r, frames: map[uint32]int64{}}
	head, err := extent.Read(r, 0, logHeader)
	if err != nil {
		return l, nil
	}
	var order binary.ByteOrder = binary.LittleEndian
	magic := binary.BigEndian.Uint32(head)
	if magic&1 == 1 {
		order = binary.BigEndian
	}
	var s sum
	s.add(head[:24], order)
	if magic&^1 != logMagic || binary.BigEndian.Uint32(head[4:]) != logVersion || !s.is(head[24:]) {
		return l, nil
	}
	if int64(binary.BigEndian.Uint32(head[8:])) != page {
		return nil, errors.New("its write-ahead log has pages of another size")
	}
	return l, l.read(page, order, head[16:24], s)
}

// read reads frames for as long as they have the log's salt and the sum of all that is before them.
func (l *log) read(page int64, order binary.ByteOrder, salt []byte, s sum) error {
	open := map[uint32]int64{} // what no commit follows yet
	for at := int64(logHeader); at+frameHeader+page <= l.r.Size(); at += frameHeader + page {
		b, err := extent.Read(l.r, at, frameHeader+page)
		if err != nil {
			return err
		}
		s.add(b[:8], order)
		s.add(b[frameHeader:], order)
		if string(b[8:16]) != string(salt) || !s.is(b[16:]) {
			return nil
		}
		open[binary.BigEndian.Uint32(b)] = at + frameHeader
		if pages := binary.BigEndian.Uint32(b[4:]); pages != 0 { // a commit
			l.pages = int64(pages)
			for n, at := range open {
				l.frames[n] = at
			}
			clear(open)
		}
	}
	return nil
}

// sum is the checksum of a log (section 4.2).
type sum [2]uint32

func (s *sum) add(b []byte, order binary.ByteOrder) {
	for ; len(b) >= 8; b = b[8:] {
		s[0] += order.Uint32(b) + s[1]
		s[1] += order.Uint32(b[4:]) + s[0]
	}
}

func (s sum) is(b []byte) bool {
	return binary.BigEndian.Uint32(b) == s[0] && binary.BigEndian.Uint32(b[4:]) == s[1]
}
