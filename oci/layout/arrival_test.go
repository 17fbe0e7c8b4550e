package layout_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"builder/oci"
	"builder/oci/layout"
)

// receive fills an arrival from r in a goroutine and returns how that ended.
func receive(t *testing.T, ctx context.Context, l *layout.Layout, d oci.Descriptor, r io.Reader) (*layout.Arrival, <-chan error) {
	t.Helper()
	a, done := layout.NewArrival(), make(chan error, 1)
	go func() {
		done <- l.Receive(ctx, d, func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }, a)
	}()
	return a, done
}

// TestArrivalWhileItComes reads bytes before the next ones are there.
func TestArrivalWhileItComes(t *testing.T) {
	l := create(t, layout.Options{})
	data := bytes.Repeat([]byte("layer"), 100)
	d := oci.NewDescriptor("application/octet-stream", data)
	in, out := io.Pipe()
	a, done := receive(t, t.Context(), l, d, in)
	first, second := a.Reader(), a.Reader()
	if _, err := out.Write(data[:300]); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 300)
	if _, err := io.ReadFull(first, got); err != nil || !bytes.Equal(got, data[:300]) {
		t.Fatalf("the first part reads as %q, %v", got, err)
	}
	if has, _ := l.Has(t.Context(), d); has {
		t.Error("the layout has a blob that is still coming")
	}
	go func() {
		out.Write(data[300:])
		out.Close()
	}()
	rest, err := io.ReadAll(first)
	if err != nil || !bytes.Equal(rest, data[300:]) {
		t.Errorf("the rest reads as %q, %v", rest, err)
	}
	if all, err := io.ReadAll(second); err != nil || !bytes.Equal(all, data) {
		t.Errorf("another reader gets %q, %v", all, err)
	}
	if err := errors.Join(<-done, a.Close()); err != nil {
		t.Fatal(err)
	}
	if has, err := l.Has(t.Context(), d); !has || err != nil {
		t.Errorf("the blob is not there when it has come: %v", err)
	}
}

// TestArrivalThatFails gives no reader an end that looks like a whole blob.
func TestArrivalThatFails(t *testing.T) {
	data := []byte("what the descriptor names")
	d := oci.NewDescriptor("application/octet-stream", data)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	lost := errors.New("connection lost")
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		want error
	}{
		"other bytes": {t.Context(), bytes.NewReader(bytes.ToUpper(data)), oci.ErrMismatch},
		"too short":   {t.Context(), bytes.NewReader(data[:5]), oci.ErrMismatch},
		"too long":    {t.Context(), bytes.NewReader(append(data, 'x')), oci.ErrMismatch},
		"lost":        {t.Context(), io.MultiReader(bytes.NewReader(data[:5]), errReader{lost}), lost},
		"canceled":    {canceled, bytes.NewReader(data), context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			l := create(t, layout.Options{})
			a, done := receive(t, c.ctx, l, d, c.r)
			if _, err := io.ReadAll(a.Reader()); !errors.Is(err, c.want) {
				t.Errorf("a reader's end is %v, not %v", err, c.want)
			}
			if err := <-done; !errors.Is(err, c.want) {
				t.Errorf("the error is %v, not %v", err, c.want)
			}
			if has, _ := l.Has(t.Context(), d); has {
				t.Error("the layout has it all the same")
			}
			a.Close()
		})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
