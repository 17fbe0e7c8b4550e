package layer

import (
	"archive/tar"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A crew holds up to crewFiles files of crewFile bytes: 4 MiB in all. Larger files are written as they come.
const (
	crewFile  = 64 << 10
	crewFiles = 64
	// crewNames bounds the names of files that may not be there yet, and so the memory that they take.
	crewNames = 4096
)

// crew makes small regular files beside the reading of the tar: making a file costs the kernel more than reading one
// costs us. It makes nothing else, and only files whose names nothing in the layer bears, so that the order in which they
// come to be does not matter; the unpacker waits for the crew before it does what could meet one of them.
type crew struct {
	jobs    chan crewJob
	free    chan []byte
	made    int
	pending sync.WaitGroup
	workers sync.WaitGroup
	err     atomic.Pointer[error]
	names   map[string]struct{} // handed over since the last wait; only the unpacker looks at them
}

// crewJob is a file to make. The directory stays open until its last file is made.
type crewJob struct {
	dir  *place
	base string
	h    *tar.Header
	data []byte
}

func newCrew() *crew {
	c := &crew{
		jobs: make(chan crewJob, crewFiles), free: make(chan []byte, crewFiles), names: make(map[string]struct{}),
	}
	for range min(max(runtime.GOMAXPROCS(0), 2), 4) {
		c.workers.Go(c.work)
	}
	return c
}

func (c *crew) work() {
	for j := range c.jobs {
		if c.err.Load() == nil {
			if err := j.make(); err != nil {
				err = fmt.Errorf("unpack %q: %w", j.h.Name, err)
				c.err.CompareAndSwap(nil, &err)
			}
		}
		j.dir.leave()
		c.free <- j.data[:cap(j.data)]
		c.pending.Done()
	}
}

func (j *crewJob) make() error {
	fd, err := createFile(j.dir.fd, j.base, j.h)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := writeAt(fd, j.data, 0); err != nil {
		return err
	}
	return finishFile(fd, j.h)
}

// hand gives the crew a file of at most crewFile bytes and returns when its data is read. An error may be that of an
// earlier file.
func (c *crew) hand(dir *place, base, name string, h *tar.Header, r io.Reader) error {
	data := c.buffer()[:h.Size]
	if _, err := io.ReadFull(r, data); err != nil {
		c.free <- data[:cap(data)]
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	c.names[name] = struct{}{}
	dir.enter()
	c.pending.Add(1)
	c.jobs <- crewJob{dir, base, h, data}
	if err := c.err.Load(); err != nil {
		return crewError{*err}
	}
	if len(c.names) == crewNames {
		return c.wait()
	}
	return nil
}

func (c *crew) buffer() []byte {
	if c.made < crewFiles {
		select {
		case b := <-c.free:
			return b
		default:
			c.made++
			return make([]byte, crewFile)
		}
	}
	return <-c.free
}

// wait returns when all files that were handed over are there. A crew of nil has none.
func (c *crew) wait() error {
	if c == nil || len(c.names) == 0 {
		return nil
	}
	c.pending.Wait()
	c.names = make(map[string]struct{})
	if err := c.err.Load(); err != nil {
		return crewError{*err}
	}
	return nil
}

// has tells whether name may be a file that the crew has still to make.
func (c *crew) has(name string) bool {
	if c == nil {
		return false
	}
	_, ok := c.names[name]
	return ok
}

// close ends the crew when it has made what it was given.
func (c *crew) close() {
	if c != nil {
		close(c.jobs)
		c.workers.Wait()
	}
}

// crewError is an error of another entry than the one that was being read; it names its own.
type crewError struct{ error }

// Unwrap implements errors.Unwrap.
func (e crewError) Unwrap() error { return e.error }
