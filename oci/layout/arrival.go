package layout

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"builder/oci"

	"github.com/opencontainers/go-digest"
)

// Arrival is a blob on its way into a layout. Any number of readers follow it: each gets the bytes from the first on as
// they come, and io.EOF only when all of them were found to be what the descriptor names.
type Arrival struct {
	mu   sync.Mutex
	grew *sync.Cond
	file *os.File // for reading; nil before the first byte
	n    int64    // bytes that are in file
	end  error    // io.EOF or why the blob did not come; nil while it comes
}

// NewArrival returns one that Receive will fill. Who makes it calls Close when no reader is left.
func NewArrival() *Arrival {
	a := &Arrival{}
	a.grew = sync.NewCond(&a.mu)
	return a
}

// Receive is Put of what fetch yields, which those who read a may follow.
func (l *Layout) Receive(ctx context.Context, d oci.Descriptor, fetch func(context.Context) (io.ReadCloser, error), a *Arrival) error {
	err := l.receive(ctx, d, fetch, a)
	if err != nil {
		a.finish(err)
		return err
	}
	a.finish(io.EOF)
	return nil
}

func (l *Layout) receive(ctx context.Context, d oci.Descriptor, fetch func(context.Context) (io.ReadCloser, error), a *Arrival) error {
	if err := oci.Check(d); err != nil {
		return err
	}
	r, err := fetch(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = l.ingest(ctx, func(f *os.File) (digest.Digest, error) {
		if err := a.begin(f.Name()); err != nil {
			return "", err
		}
		return d.Digest, fill(ctx, io.MultiWriter(f, a), d, r)
	})
	if err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	return nil
}

// Deliver is Receive of a blob that the layout has, since somebody else brought it.
func (l *Layout) Deliver(d oci.Descriptor, a *Arrival) error {
	err := a.begin(l.Path(d.Digest))
	if err != nil {
		err = fmt.Errorf("read %s in %s: %w", d.Digest, l.dir, err)
		a.finish(err)
		return err
	}
	a.skip(d.Size)
	a.finish(io.EOF)
	return nil
}

func (a *Arrival) begin(path string) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.file, err = os.Open(path)
	return err
}

// Write counts bytes that are in the file.
func (a *Arrival) Write(p []byte) (int, error) {
	a.skip(int64(len(p)))
	return len(p), nil
}

func (a *Arrival) skip(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n += n
	a.grew.Broadcast()
}

// Fail ends an arrival that nobody will fill.
func (a *Arrival) Fail(err error) { a.finish(err) }

func (a *Arrival) finish(end error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.end = end
	a.grew.Broadcast()
}

// Close lets go of the bytes. Receive must have returned.
func (a *Arrival) Close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// Reader returns a reader from the first byte on. It waits for bytes until Receive returns, so a canceled context reaches
// it by way of Receive.
func (a *Arrival) Reader() io.Reader { return &follower{a: a} }

// follower reads an arrival.
type follower struct {
	a   *Arrival
	off int64
}

// Read implements io.Reader.
func (f *follower) Read(p []byte) (int, error) {
	there, err := f.a.wait(f.off)
	if err != nil {
		return 0, err
	}
	n, err := f.a.file.ReadAt(p[:min(int64(len(p)), there-f.off)], f.off)
	f.off += int64(n)
	return n, err
}

// wait returns how many bytes are there, when there are more than off, or else how the blob ended. A blob that was found
// wrong is not read to its end.
func (a *Arrival) wait(off int64) (int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.n <= off && a.end == nil {
		a.grew.Wait()
	}
	if a.end != nil && (a.end != io.EOF || a.n <= off) {
		return 0, a.end
	}
	return a.n, nil
}
