package progress

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spoolMemory is how many bytes wait in memory for a slow writer; what is
	// more waits in a file. 4 MiB hold the output of most builds.
	spoolMemory = 4 << 20
	// spoolChunk is the most that is handed to the writer at once. A pipe holds
	// 64 KiB: smaller pieces show sooner that somebody still reads.
	spoolChunk = 16 << 10
	// defaultGrace is how long close waits for a writer that takes nothing.
	defaultGrace = 5 * time.Second
)

// spool is a writer that never blocks and loses nothing: one goroutine carries
// the bytes to the real writer, as fast as that takes them. What waits is in
// memory, and beyond spoolMemory in an unlinked file; it is all older than the
// file's when both have some. After a write error the rest is thrown away.
type spool struct {
	w     io.Writer
	own   *os.File // our duplicate of w's descriptor, or nil
	grace time.Duration

	mu       sync.Mutex
	more     sync.Cond
	mem      []byte
	file     *os.File
	from, to int64 // the part of file that waits
	busy     bool  // the carrier holds bytes that are not written yet
	closed   bool
	err      error
	taken    int64 // bytes the writer took

	gone chan struct{}
}

func newSpool(w io.Writer, grace time.Duration) *spool {
	sp := &spool{w: w, grace: grace, gone: make(chan struct{})}
	sp.more.L = &sp.mu
	if sp.grace <= 0 {
		sp.grace = defaultGrace
	}
	if f, ok := w.(*os.File); ok {
		sp.own = duplicate(f)
	}
	if sp.own != nil {
		sp.w = sp.own
	}
	go sp.carry()
	return sp
}

// duplicate gives the open file of f another descriptor. The Go runtime kills
// a process that writes to a broken pipe through descriptor 1 or 2; through any
// other the write just fails.
func duplicate(f *os.File) *os.File {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	fd := -1
	err = conn.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err != nil || fd < 0 {
		return nil
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// Write implements io.Writer. It never blocks and never fails.
func (sp *spool) Write(b []byte) (int, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.closed || sp.err != nil {
		return len(b), nil
	}
	if !sp.spill(b) {
		sp.mem = append(sp.mem, b...)
	}
	sp.more.Signal()
	return len(b), nil
}

// spill puts b into the file if memory is full; false when it is not, or there
// can be no file.
func (sp *spool) spill(b []byte) bool {
	if sp.from == sp.to && len(sp.mem)+len(b) <= spoolMemory {
		return false
	}
	if sp.file == nil {
		f, err := os.CreateTemp("", "builder-progress-")
		if err != nil {
			return false
		}
		os.Remove(f.Name())
		sp.file = f
	}
	n, err := sp.file.WriteAt(b, sp.to)
	sp.to += int64(n)
	sp.err = err
	return true
}

// idle reports whether everything has been taken.
func (sp *spool) idle() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.err == nil && !sp.busy && !sp.waiting()
}

func (sp *spool) waiting() bool { return len(sp.mem) > 0 || sp.from < sp.to }

// carry is the goroutine that writes.
func (sp *spool) carry() {
	defer close(sp.gone)
	buf := make([]byte, spoolChunk)
	for {
		chunk := sp.next(buf)
		if chunk == nil {
			return
		}
		err := writeAll(sp.w, chunk)
		sp.mu.Lock()
		sp.busy = false
		sp.taken += int64(len(chunk))
		if err != nil {
			sp.err, sp.mem, sp.from = err, nil, sp.to
		}
		sp.mu.Unlock()
	}
}

// next waits for bytes and returns at most len(buf) of them; nil at the end.
func (sp *spool) next(buf []byte) []byte {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for !sp.waiting() {
		if sp.closed {
			return nil
		}
		sp.more.Wait()
	}
	sp.busy = true
	if len(sp.mem) > 0 {
		n := copy(buf, sp.mem)
		if sp.mem = sp.mem[n:]; len(sp.mem) == 0 {
			sp.mem = nil
		}
		return buf[:n]
	}
	n, err := sp.file.ReadAt(buf[:min(int64(len(buf)), sp.to-sp.from)], sp.from)
	sp.from += int64(n)
	if err != nil && n == 0 {
		sp.err, sp.from = err, sp.to
	}
	if sp.from == sp.to {
		sp.from, sp.to = 0, 0
		sp.file.Truncate(0)
	}
	return buf[:n]
}

// writeAll writes b, waiting when another process has made the terminal
// non-blocking under our feet.
func writeAll(w io.Writer, b []byte) error {
	for {
		n, err := w.Write(b)
		b = b[min(n, len(b)):]
		if err == nil || len(b) == 0 {
			return err
		}
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// close waits until the writer has taken all, or nothing for the grace time.
func (sp *spool) close() error {
	sp.mu.Lock()
	sp.closed = true
	sp.more.Signal()
	last := sp.taken
	sp.mu.Unlock()
	for {
		select {
		case <-sp.gone:
			return sp.release()
		case <-time.After(sp.grace):
		}
		sp.mu.Lock()
		stuck := sp.taken == last
		last = sp.taken
		if stuck {
			sp.err = errors.New("write progress: nobody reads, the rest is lost")
			sp.mem, sp.from = nil, sp.to
		}
		err := sp.err
		sp.mu.Unlock()
		if stuck {
			return err
		}
	}
}

// release closes what the spool opened, once the carrier is gone.
func (sp *spool) release() error {
	if sp.file != nil {
		sp.file.Close()
	}
	if sp.own != nil {
		sp.own.Close()
	}
	if sp.err != nil {
		return fmt.Errorf("write progress: %w", sp.err)
	}
	return nil
}
