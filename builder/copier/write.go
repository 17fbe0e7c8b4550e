package copier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// writer writes entries into the target: one goroutine walks and makes the directories, several fill in the files.
type writer struct {
	*target
	ctx   context.Context
	fail  context.CancelCauseFunc // the first error ends it all
	jobs  chan job
	twins map[*entry]*twin
	gone  map[string][]string // by directory: names to hide
}

type inode struct{ dev, ino uint64 }

// twin is a regular file that one path of the request selected under several names. Names that different paths selected
// become files of their own, as BuildKit has it.
type twin struct {
	path string // in upper, of the first one written; the others become links to it
}

// job is some entries of a directory, of which a worker writes those that are plain files.
type job struct {
	dir  *dir
	kids []*entry
}

// dir is a directory of upper that is being filled. It stays open until its last file is written; only then does it
// get its own metadata, as each file written moves its time.
type dir struct {
	w     *writer
	fd    int
	path  string
	e     *entry        // whose metadata it gets; nil keeps what it has
	like  *entry        // whose time it gets, and nothing else, when e is nil; may be nil too
	tree  *overlay.Node // the directory as the tree had it; nil when it is new and so has no names to meet
	users atomic.Int32
}

// write puts kids into top, which is open, and closes it.
func (t *target) write(ctx context.Context, top *dir, kids []*entry, twins map[*entry]*twin, gone map[string][]string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &writer{target: t, ctx: ctx, fail: cancel, jobs: make(chan job, 4*workers()), twins: twins, gone: gone}
	top.w = w
	var g sync.WaitGroup
	for range workers() {
		g.Go(w.work)
	}
	w.fill(top, kids)
	close(w.jobs)
	g.Wait()
	return context.Cause(ctx)
}

// findTwins finds the files that one of the entries has under several names.
func findTwins(entries []*entry) map[*entry]*twin {
	twins := map[*entry]*twin{}
	for name, first := range firstNames(entries) {
		t := twins[first]
		if t == nil {
			t = &twin{}
			twins[first] = t
		}
		twins[name] = t
	}
	return twins
}

// firstNames returns the first name of each file that one of the entries has under several, by the others.
func firstNames(entries []*entry) map[*entry]*entry {
	first := map[*entry]*entry{}
	for _, e := range entries {
		names := map[inode][]*entry{}
		e.gather(names)
		for _, same := range names {
			for _, name := range same[1:] {
				first[name] = same[0]
			}
		}
	}
	return first
}

// gather adds to names the regular files at and below e that have several.
func (e *entry) gather(names map[inode][]*entry) {
	if id, linked := e.inode(); linked {
		names[id] = append(names[id], e)
	}
	for _, kid := range e.kids() {
		kid.gather(names)
	}
}

func (e *entry) inode() (id inode, linked bool) {
	if e.more == nil {
		return id, false
	}
	return e.more.id, e.more.id != inode{}
}

// work writes files until there are no more. After an error it only lets go of the directories.
func (w *writer) work() {
	var from opener
	defer from.close()
	for j := range w.jobs {
		for _, e := range j.kids {
			if w.ctx.Err() != nil {
				break
			}
			if !w.alone(e) {
				w.check(w.put(&from, j.dir, e))
			}
		}
		j.dir.done()
	}
}

func (w *writer) check(err error) {
	if err != nil {
		w.fail(err)
	}
}

// alone tells whether the walking goroutine writes the entry itself: directories, and files with several names, of which
// one has to be there before the others.
func (w *writer) alone(e *entry) bool { return e.isDir() || w.twins[e] != nil }

// fill writes kids into d and then lets go of it. Files go to the workers before the directories are entered, so that
// these have something to do.
func (w *writer) fill(d *dir, kids []*entry) {
	d.users.Store(1)
	defer d.done()
	for some := range slices.Chunk(kids, batch) {
		d.users.Add(1)
		w.jobs <- job{d, some}
	}
	for _, name := range w.gone[d.path] {
		w.check(overlay.Whiteout(procPath(d.fd)+"/.", name))
	}
	var from opener
	defer from.close()
	for _, e := range kids {
		if w.ctx.Err() != nil {
			return
		}
		if w.alone(e) {
			w.check(w.put(&from, d, e))
		}
	}
}

// put writes one entry into d.
func (w *writer) put(from *opener, d *dir, e *entry) error {
	old, err := d.child(e.name)
	if err != nil {
		return err
	}
	if old != nil {
		if err := mayReplace(old.IsDir(), e.isDir(), "/"+join(d.path, e.name)); err != nil {
			return err
		}
	}
	if e.isDir() {
		return w.directory(d, e, old)
	}
	if t := w.twins[e]; t != nil {
		return w.twin(from, d, e, t)
	}
	return w.file(from, d, e, w.comesLate(e, old))
}

func (d *dir) child(name string) (*overlay.Node, error) {
	if d.tree == nil {
		return nil, nil
	}
	old, err := child(d.tree, name)
	if err != nil {
		return nil, fmt.Errorf("look up /%s: %w", join(d.path, name), err)
	}
	return old, nil
}

// directory makes or enters a directory of d and fills it.
func (w *writer) directory(d *dir, e *entry, old *overlay.Node) error {
	fd, made, err := mkdirIn(d.fd, e.name, old != nil)
	if err != nil {
		return fmt.Errorf("make directory /%s: %w", join(d.path, e.name), err)
	}
	if made && old != nil {
		err = keepXattrs(fd, old.Xattrs)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("copy up /%s: %w", join(d.path, e.name), err)
	}
	w.fill(&dir{w: w, fd: fd, path: join(d.path, e.name), e: e, tree: old}, e.kids())
	return nil
}

// keepXattrs gives an open file the attributes that read finds.
func keepXattrs(fd int, read func() (map[string]string, error)) error {
	xattrs, err := read()
	if err != nil {
		return cause(err)
	}
	return setXattrs(procPath(fd), xattrs)
}

// done lets go of d. The last one to do so gives the directory its metadata and closes it.
func (d *dir) done() {
	if d.users.Add(-1) > 0 {
		return
	}
	defer unix.Close(d.fd)
	if d.w.ctx.Err() != nil {
		return
	}
	if err := d.finish(); err != nil {
		d.w.fail(fmt.Errorf("write /%s: %w", d.path, err))
	}
}

func (d *dir) finish() error {
	switch {
	case d.e == nil && d.like == nil:
		return setTime(d.fd, unix.Timespec{Nsec: unix.UTIME_NOW}) // nothing may have been written, if that is what differs
	case d.e == nil:
		return setTime(d.fd, d.like.more.mtime)
	case d.e.way && d.tree != nil:
		return d.passed()
	}
	if err := d.w.attributes(d.fd, d.e); err != nil {
		return err
	}
	if err := keepXattrs(d.fd, d.e.xattrs); err != nil {
		return err
	}
	return setTime(d.fd, d.e.more.mtime)
}

// passed sets the metadata of a directory that the tree had and the copy only went through: of its source it gets the
// mode, as BuildKit does it.
func (d *dir) passed() error {
	o := Owner{d.tree.Stat.Uid, d.tree.Stat.Gid}
	if err := o.explain(overlay.Chown(d.fd, o.UID, o.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(d.fd, d.w.bits(d.e)); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}

// attributes sets owner and mode of an open file where they are not right yet: chown first, because it takes setuid and
// setgid away.
func (w *writer) attributes(fd int, e *entry) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	o, bits := w.ownerOr(e.keptOwner()), w.bits(e)
	given := o != Owner{st.Uid, st.Gid} || overlay.UserXattr() // where the kernel need not know the owner
	if given {
		if err := o.explain(overlay.Chown(fd, o.UID, o.GID)); err != nil {
			return err
		}
	}
	if given || bits != st.Mode&0o7777 {
		if err := unix.Fchmod(fd, bits); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	return nil
}

// keptOwner returns who owns the copy when the request says nothing.
func (e *entry) keptOwner() Owner {
	if e.inline() || !e.at.src.Owned {
		return Owner{}
	}
	return e.owner
}

func (w *writer) bits(e *entry) uint32 { return w.chmod.apply(e.mode) }

// setTime sets the modification time of an open file and leaves the other.
func setTime(fd int, mtime unix.Timespec) error {
	return utimens(fd, "", mtime, unix.AT_EMPTY_PATH)
}

func utimens(fd int, name string, mtime unix.Timespec, flags int) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	if err := unix.UtimesNanoAt(fd, name, times, flags); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// claim calls create until name is free: what upper has there of an earlier step or as a whiteout is removed.
func claim(d *dir, name string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := unix.Unlinkat(d.fd, name, 0); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	return create()
}
