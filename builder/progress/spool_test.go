package progress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// gate is a writer that blocks until it is opened.
type gate struct {
	open chan struct{}
	buf  bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	return g.buf.Write(b)
}

// A writer that takes nothing does not stop the build; all output, more than
// memory is given for it, arrives once it takes again.
func TestBlockedWriterLosesNothing(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	p := New(Plain, g, Options{})
	s := p.Step("s")
	s.Start()
	const lines = 3 * spoolMemory / 1000
	for i := range lines {
		fmt.Fprintf(s, "%06d %s\n", i, strings.Repeat("x", 1000))
	}
	s.Done("")
	close(g.open)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(g.buf.String()) {
		var number, got int
		var stamp float64
		if _, err := fmt.Sscanf(line, "#%d %f %d", &number, &stamp, &got); err != nil {
			continue
		}
		if got != n {
			t.Fatalf("line %d where %d was due", got, n)
		}
		n++
	}
	if n != lines {
		t.Errorf("%d of %d lines", n, lines)
	}
}

// Close gives up on a writer that never takes anything, and says so.
func TestBlockedForever(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	p := New(Plain, g, Options{Grace: 50 * time.Millisecond})
	s := p.Step("s")
	s.Start()
	fmt.Fprintln(s, "line")
	s.Done("")
	if err := p.Close(); err == nil {
		t.Error("lost output is not reported")
	}
	close(g.open)
	<-p.out.gone
}

func TestSlowWriterIsWaitedFor(t *testing.T) {
	r, w := io.Pipe()
	p := New(Plain, w, Options{Grace: 200 * time.Millisecond})
	s := p.Step("s")
	s.Start()
	for range 100 {
		fmt.Fprintln(s, strings.Repeat("x", spoolChunk/10))
	}
	s.Done("")
	var wg sync.WaitGroup
	total := 0
	wg.Go(func() {
		buf := make([]byte, spoolChunk)
		for {
			n, err := r.Read(buf)
			total += n
			if err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	w.Close()
	wg.Wait()
	if total < 100*(spoolChunk/10) {
		t.Errorf("%d bytes arrived", total)
	}
}

// A reader that went away costs the output, not the build.
func TestClosedPipe(t *testing.T) {
	for _, mode := range []Mode{Plain, TTY, RawJSON} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		p := New(mode, w, Options{})
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { noisyStep(p, i) })
		}
		wg.Wait()
		if err := p.Close(); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: %v", mode, err)
		}
		w.Close()
	}
}

func TestFullDisk(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	p := New(Plain, f, Options{})
	noisyStep(p, 1)
	if err := p.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
}

// The runtime kills a process that writes to a broken pipe through descriptor
// 1 or 2. The spool must not be killed: a child process with such a standard
// error builds to its end.
func TestBrokenStandardErrorDoesNotKill(t *testing.T) {
	if os.Getenv("PROGRESS_TEST_CHILD") != "" {
		p := New(Plain, os.Stderr, Options{})
		noisyStep(p, 1)
		p.Close()
		fmt.Println("alive")
		os.Exit(0)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	or, ow, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer or.Close()
	child, err := os.StartProcess("/proc/self/exe", []string{"child", "-test.run=^TestBrokenStandardErrorDoesNotKill$"},
		&os.ProcAttr{Env: append(os.Environ(), "PROGRESS_TEST_CHILD=1"), Files: []*os.File{nil, ow, w}})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	ow.Close()
	out, _ := io.ReadAll(or)
	state, err := child.Wait()
	if err != nil || !state.Success() || !strings.Contains(string(out), "alive") {
		t.Errorf("%v %v %q", err, state, out)
	}
}
