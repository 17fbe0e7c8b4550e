package oci

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// Check refuses a descriptor that no content can have: a digest that is not a
// well-formed sha256 or sha512, a negative size, a document or config larger
// than may be read.
func Check(d Descriptor) error {
	if err := CheckDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%s: %w: size %d", d.Digest, ErrInvalid, d.Size)
	}
	if IsDocument(d.MediaType) && d.Size > MaxManifest {
		return fmt.Errorf("%s: %w: a manifest of %d bytes, more than %d", d.Digest, ErrInvalid, d.Size, MaxManifest)
	}
	return nil
}

// CheckDigest refuses a digest that is not sha256:HEX or sha512:HEX in full
// length and lower case.
func CheckDigest(d digest.Digest) error {
	err := d.Validate()
	if err == nil && d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		err = digest.ErrDigestUnsupported
	}
	if err != nil {
		return fmt.Errorf("digest %.150q: %w: %w", string(d), ErrInvalid, err)
	}
	return nil
}

// verified passes bytes through and answers the last read with an error unless
// all of them together are what d names.
type verified struct {
	r      io.Reader
	c      io.Closer // may be nil
	d      Descriptor
	hash   hash.Hash
	n      int64
	end    error // sticky
	tell   func(n int64)
	reopen func() (io.ReadCloser, error)
}

// Verify reads r and ends with io.EOF only if the bytes were exactly those that
// d names; otherwise with an error that wraps ErrMismatch. A reader that Verify
// made for the same content and that nobody has read from is returned as it is,
// so bytes are hashed once however many hands they pass through.
func Verify(r io.Reader, d Descriptor) io.Reader {
	if v, ok := r.(*verified); ok && v.n == 0 && v.end == nil && v.d.Digest == d.Digest && v.d.Size == d.Size {
		return v
	}
	v := &verified{r: r, d: d}
	if v.end = Check(d); v.end == nil {
		v.hash = d.Digest.Algorithm().Hash()
	}
	return v
}

// Read implements io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	if v.end != nil || len(p) == 0 {
		return 0, v.end
	}
	// One byte more than promised is asked for, to see that the end is the end.
	if left := v.d.Size - v.n; int64(len(p)) > left {
		p = p[:left+1]
	}
	n, err := v.r.Read(p)
	v.n += int64(n)
	if v.n > v.d.Size {
		v.end = fmt.Errorf("%s: %w: more than %d bytes", v.d.Digest, ErrMismatch, v.d.Size)
		return 0, v.end
	}
	v.hash.Write(p[:n])
	if n > 0 && v.tell != nil {
		v.tell(v.n)
	}
	if err != nil {
		v.end = v.verdict(err)
	}
	return n, v.end
}

// verdict turns the end of the stream into what the reader is told.
func (v *verified) verdict(err error) error {
	if err == io.ErrUnexpectedEOF || (err == io.EOF && v.n < v.d.Size) {
		return fmt.Errorf("%s: %w: ended after %d of %d bytes: %w", v.d.Digest, ErrMismatch, v.n, v.d.Size, io.ErrUnexpectedEOF)
	}
	if err != io.EOF {
		return err
	}
	if got := digest.NewDigest(v.d.Digest.Algorithm(), v.hash); got != v.d.Digest {
		return fmt.Errorf("%s: %w: the bytes have digest %s", v.d.Digest, ErrMismatch, got)
	}
	return io.EOF
}

// Close closes what is read from.
func (v *verified) Close() error {
	if v.c == nil {
		return nil
	}
	return v.c.Close()
}

// Reopen implements Reopener.
func (v *verified) Reopen() (io.ReadCloser, error) {
	if v.reopen == nil {
		return nil, errors.New("content cannot be read twice")
	}
	return v.reopen()
}

// ReadAll fetches d from src, verified, into memory. Content larger than limit
// bytes is refused unread; memory grows with what arrives, not with what d says.
func ReadAll(ctx context.Context, src Source, d Descriptor, limit int64) ([]byte, error) {
	if err := Check(d); err != nil {
		return nil, err
	}
	if d.Size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, more than %d", d.Digest, ErrInvalid, d.Size, limit)
	}
	rc, err := src.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(Verify(rc, d))
}
