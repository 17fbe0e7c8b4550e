package layer

import (
	"errors"
	"io"
)

// Limits bounds what one layer or archive may unpack to; zero is no bound.
type Limits struct {
	MaxBytes   int64 // sum of the sizes of all files
	MaxEntries int64 // entries of the tar
	MaxTar     int64 // the tar itself, with all that follows its end, in bytes
}

// LimitsFor are the limits of what comes from outside, packed in so many bytes: far beyond anything honest, so that what gzip
// and zstd make of ten megabytes of zeros, or the header of a sparse file of nothing, comes to an end. Real layers grow by
// three to ten when they are unpacked, those of a file system's image by some fifty.
func LimitsFor(packed int64) Limits {
	const bytes, entries, ratio = 64 << 30, 4 << 20, 100
	packed = max(0, min(packed, 1<<50))
	most := bytes + ratio*packed
	return Limits{MaxBytes: most, MaxTar: most, MaxEntries: entries + packed/ratio}
}

// errTooLarge is what a bounded reader ends with.
var errTooLarge = errors.New("the tar is larger than it may be")

// bounded ends a stream that yields too much: zeros after the end of the archive count like any other bytes.
type bounded struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
