package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// A command that talks to the remote is looked at every watchTime. One that says and writes nothing for stallTime is
// ended: a server may need minutes to put a large pack together, but says so meanwhile.
var (
	watchTime = 500 * time.Millisecond
	stallTime = 10 * time.Minute
)

// errTooLarge is the end of what goes beyond a bound.
var errTooLarge = errors.New("larger than it may be")

// watch ends a command, by cancel, that writes too much into a repository or comes no further. heard counts what it has
// said. The function that is returned ends the watch and tells what was found out at the very end.
func (s *session) watch(cancel context.CancelCauseFunc, dir string, heard func() int64) func() error {
	before := size(dir)
	tooLarge := func() error {
		if dir == "" || size(dir)-before <= s.req.MaxBytes {
			return nil
		}
		return fmt.Errorf("the repository has more than %d bytes: %w", s.req.MaxBytes, errTooLarge)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(watchTime)
		defer tick.Stop()
		last, since := int64(-1), time.Now()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if err := tooLarge(); err != nil {
				cancel(err)
			}
			if now := heard() + size(dir); now != last {
				last, since = now, time.Now()
			}
			if time.Since(since) > stallTime {
				cancel(fmt.Errorf("stalled: the remote has sent nothing for %s", stallTime))
			}
		}
	}()
	return func() error {
		close(stop)
		<-done
		return tooLarge()
	}
}

// size is the size of the files below a directory; what comes and goes meanwhile does not matter.
func size(dir string) (n int64) {
	if dir == "" {
		return 0
	}
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
