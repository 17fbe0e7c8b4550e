package copier

import (
	"slices"
	"sync"

	"builder/overlay"
)

// unread is the directories that were found and are still to be read. Several goroutines take them, the last found first,
// so that few wait.
type unread struct {
	mu   sync.Mutex
	more sync.Cond
	dirs []branch // that wait, the next one last
	busy int      // how many are being read
	idle int      // goroutines that wait for one
	err  error    // of the first that could not be read: it ends all
}

// branch is a directory that is to be read.
type branch struct {
	e     *entry
	node  overlay.Node
	below scope
}

// add takes the directories that another one holds, in their order. Whoever read that will take the next one itself.
func (u *unread) add(dirs []branch) {
	if len(dirs) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range slices.Backward(dirs) {
		u.dirs = append(u.dirs, dirs[i])
	}
	for range min(len(u.dirs)-1, u.idle) {
		u.more.Signal()
	}
}

// readAll calls read for each directory, those that it adds too, from several goroutines.
func (u *unread) readAll(read func(*branch) error) error {
	u.more.L = &u.mu
	var g sync.WaitGroup
	for range workers() - 1 {
		g.Go(func() { u.work(read) })
	}
	u.work(read)
	g.Wait()
	return u.err
}

func (u *unread) work(read func(*branch) error) {
	for {
		b, ok := u.next()
		if !ok {
			return
		}
		u.done(read(&b))
	}
}

// next returns a directory to read; false when there is and will be none.
func (u *unread) next() (b branch, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.dirs) == 0 && u.busy > 0 && u.err == nil {
		u.idle++
		u.more.Wait()
		u.idle--
	}
	if len(u.dirs) == 0 || u.err != nil {
		return b, false
	}
	last := len(u.dirs) - 1
	b, u.dirs[last] = u.dirs[last], branch{}
	u.dirs = u.dirs[:last]
	u.busy++
	return b, true
}

// done ends what next began.
func (u *unread) done(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.busy--
	if u.err == nil {
		u.err = err
	}
	if u.busy == 0 || u.err != nil {
		u.more.Broadcast()
	}
}
