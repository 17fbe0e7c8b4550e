// Package tarball turns a tar that somebody hands over into a directory: a build context on standard input, or one that
// was downloaded. It also tells by the first bytes whether what was handed over is a tar at all.
//
// It does not know where the bytes come from, and nothing of Dockerfiles; how tars are unpacked without harm is the
// business of package layer.
package tarball

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"builder/oci/layer"
	"builder/overlay"
)

// SniffLen is how many of the first bytes Sniff wants.
const SniffLen = 512

// Defaults for Limits: far beyond any honest context, small enough for a disk.
const (
	DefaultMaxBytes   = 64 << 30
	DefaultMaxEntries = 4 << 20
)

// Limits bounds what a tar may unpack to; zero is the default of each.
type Limits struct {
	MaxBytes   int64 // of the plain tar, and of all files together
	MaxEntries int64 // files, directories and links
}

// Sniff tells by the first SniffLen bytes, or all if there are fewer, whether a stream is an archive: gzip, bzip2, xz and
// zstd by their magic numbers, a plain tar by its first header. Whatever else it is, it is text.
func Sniff(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	// A zstd stream may begin with a frame to be skipped (RFC 8878, 3.1.2).
	if len(head) >= 8 && binary.LittleEndian.Uint32(head)&^0xf == 0x184d2a50 {
		return true
	}
	return isTarHeader(head)
}

// isTarHeader tells whether head begins with a header of any kind of tar: its sum of all bytes is right, the sum's own field
// counted as blanks. What follows the header, which may be that of a long name or of attributes, need not be there.
func isTarHeader(head []byte) bool {
	const at, end = 148, 156
	if len(head) < SniffLen {
		return false
	}
	want, err := strconv.ParseUint(strings.Trim(string(head[at:end]), " \x00"), 8, 32)
	sum := uint64((end - at) * ' ')
	for i, b := range head[:SniffLen] {
		if i < at || i >= end {
			sum += uint64(b)
		}
	}
	return err == nil && sum == want
}

// Unpack unpacks a tar, plain or compressed as Sniff knows it, into the empty directory dir. Files belong to whom
// the tar says. The tar is taken to be hostile: names that lead out of dir are refused, links are made
// but never followed out of it, and what goes beyond the limits ends it. An error leaves dir half filled. newest is the
// latest time of an entry.
func Unpack(ctx context.Context, r io.Reader, dir string, limits Limits) (newest time.Time, err error) {
	if limits.MaxBytes == 0 {
		limits.MaxBytes = DefaultMaxBytes
	}
	if limits.MaxEntries == 0 {
		limits.MaxEntries = DefaultMaxEntries
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return newest, fmt.Errorf("unpack: %w", err)
	}
	if len(entries) > 0 {
		return newest, fmt.Errorf("unpack: directory %s is not empty", dir)
	}
	plain, kind, err := layer.DecompressAny(r)
	if err != nil {
		return newest, fmt.Errorf("unpack: %w", err)
	}
	seen := &seen{r: plain}
	o := layer.ExtractOptions{
		Dir: ".", Newest: &newest,
		Limits: layer.Limits{MaxBytes: limits.MaxBytes, MaxTar: limits.MaxBytes, MaxEntries: limits.MaxEntries},
	}
	err = layer.Extract(ctx, seen, dir, overlay.Stack{}, o)
	if err == nil && !seen.any {
		err = errors.New("unpack: it is empty")
	}
	if err != nil && kind != "" {
		err = fmt.Errorf("%w (compressed with %s)", err, kind)
	}
	return newest, errors.Join(err, plain.Close())
}

// seen tells whether a stream had anything at all.
type seen struct {
	r   io.Reader
	any bool
}

// Read implements io.Reader.
func (s *seen) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.any = s.any || n > 0
	return n, err
}
