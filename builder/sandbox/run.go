package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"builder/builder/sandbox/cgroup"
	"builder/builder/sandbox/child"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// Init is the first line of main, and of TestMain in packages whose tests run sandboxes. In the process that a sandbox
// is started with it never returns; everywhere else it returns at once. The work happens while package child is
// initialised, earlier than any main: the call is what links that package into every program that starts sandboxes.
func Init() { child.Linked() }

// Run runs a command and returns when it and all it has started are gone. The error is an *ExitError if the command
// ended other than with status 0 or could not be executed, and ctx's cause if that ended first: then everything is
// killed at once. Any other error means that the sandbox could not be set up.
func Run(ctx context.Context, s Spec) error {
	r := &run{spec: s, network: s.Network}
	if err := r.check(); err != nil {
		return err
	}
	// The kernel kills the child when the thread that started it ends, so the thread has to last as long as the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := r.run(ctx)
	return errors.Join(err, r.close())
}

// run is one Run.
type run struct {
	spec    Spec
	network Network // what it came to
	props   *props
	userns  *userns    // whose the command is; nil for the builder's own
	mounts  []*os.File // what the child is given
	hidden  uint64     // bytes of files in the child's hidden tmpfs
	ca      *caFiles
	group   *cgroup.Group
	proc    *os.Process
	control *control
	stdio   stdio
	copies  []*treeCopy
	collect func(context.Context) error // brings home what the command changed in the copy of its tree; nil for none
	tree    string                      // the directory of that copy
	noted   string                      // the directory beside which owners of the command's files are noted; "" for none
	notes   []overlay.Note              // those owners
	cleanup []func() error

	exit  *syscall.WaitStatus
	fault error // what went wrong in the child or in serving it
}

func (r *run) check() error {
	s := &r.spec
	if len(s.Args) == 0 {
		return errors.New("no command")
	}
	for _, v := range [][]string{s.Args, s.Env, {s.Dir, s.Hostname}} {
		for _, text := range v {
			if strings.Contains(text, "\x00") {
				return fmt.Errorf("%q: a NUL byte cannot be in arguments, environment or names", text)
			}
		}
	}
	if s.Scratch == "" {
		return errors.New("no scratch directory")
	}
	if s.Hostname == "" {
		s.Hostname = "builder"
	}
	if s.Dir == "" {
		s.Dir = "/"
	}
	if s.Warn == nil {
		s.Warn = func(string) {}
	}
	return nil
}

func (r *run) hostname() string { return r.spec.Hostname }

// later has f done when the run is over, last one first.
func (r *run) later(f func() error) { r.cleanup = append(r.cleanup, f) }

func (r *run) close() error {
	var errs []error
	for i := len(r.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, r.cleanup[i]())
	}
	return errors.Join(errs...)
}

func (r *run) run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	r.chooseNetwork()
	r.chooseUserns()
	r.later(r.closeMounts)
	ops, err := r.ops()
	var mount *mountError
	if errors.As(err, &mount) {
		r.closeMounts()
		r.hidden = 0
		r.withoutUserns(mount)
		ops, err = r.ops()
	}
	if err != nil {
		return err
	}
	if err := r.makeCopies(ctx); err != nil {
		return err
	}
	if ops, err = r.answerOwners(ops); err != nil {
		return err
	}
	if err := r.limit(); err != nil {
		return err
	}
	if err := r.stdio.open(r); err != nil {
		return err
	}
	if err := r.start(ops); err != nil {
		return err
	}
	err = r.wait(ctx)
	if failed := r.spec.KeepFailed && errors.As(err, new(*ExitError)); err != nil && !failed {
		return err
	}
	if err = errors.Join(err, r.keepNotes(ctx)); r.collect == nil {
		return err
	}
	return errors.Join(err, r.collect(ctx))
}

// limit makes the cgroup, if there is anything to limit by one.
func (r *run) limit() error {
	l := r.spec.Limits
	g, err := cgroup.New(cgroup.Limits{Memory: l.Memory, CPUs: l.CPUs, Pids: l.Pids})
	if err != nil {
		return err
	}
	r.group = g
	r.later(g.Remove)
	return nil
}

// start starts the child and lets it go once it is where it belongs.
func (r *run) start(ops []child.Op) error {
	list, err := memFile("ops", child.Encode(ops), 0)
	if err != nil {
		return err
	}
	defer list.Close()
	inner, err := r.openControl()
	if err != nil {
		return err
	}
	defer inner.Close()
	if r.proc, err = r.startProcess(append(r.stdio.child[:], inner, list)); err != nil {
		return fmt.Errorf("start sandbox: %w", namespaceHint(err))
	}
	r.stdio.started()
	if err := r.group.Add(r.proc.Pid); err != nil {
		return errors.Join(err, r.kill())
	}
	if err := r.control.letGo(r.mounts); err != nil {
		return errors.Join(fmt.Errorf("start sandbox: %w", err), r.kill())
	}
	return r.closeMounts()
}

// startProcess starts the child with the descriptors from 0 on.
func (r *run) startProcess(files []*os.File) (*os.Process, error) {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if r.network != NetHost {
		flags |= unix.CLONE_NEWNET
	}
	if r.userns != nil {
		return r.userns.start(flags, files)
	}
	return os.StartProcess(executable(), []string{child.Arg0}, &os.ProcAttr{
		Dir: "/", Env: []string{"GOGC=off"}, Files: files,
		Sys: &syscall.SysProcAttr{Cloneflags: flags, Setsid: true, Pdeathsig: syscall.SIGKILL},
	})
}

func namespaceHint(err error) error {
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w: making namespaces is not allowed here; run as root, or inside a user namespace", err)
	}
	return err
}

// kill ends the child, and by that all in its pid namespace, and waits until they are gone.
func (r *run) kill() error {
	if err := r.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_, err := r.proc.Wait()
	return err
}

// wait serves the child until it is gone, and tells how it ended.
func (r *run) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { r.proc.Kill() })
	defer stop()
	stopSignals := r.forward()
	r.control.serve(r)
	state, err := r.proc.Wait()
	stopSignals()
	if err != nil {
		return fmt.Errorf("wait for sandbox: %w", err)
	}
	outErr := r.stdio.finish()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case r.fault != nil:
		return r.fault
	case r.exit == nil:
		return r.lost(state)
	}
	if err := r.exitError(*r.exit); err != nil {
		return err
	}
	return outErr
}

// lost is the end of a child that did not say how its command ended: somebody killed it from outside.
func (r *run) lost(state *os.ProcessState) error {
	if r.group.OOM() {
		return &ExitError{Code: 137, Signal: syscall.SIGKILL, OOM: r.spec.Limits.Memory}
	}
	return fmt.Errorf("sandbox: its first process ended: %s", state)
}

func (r *run) exitError(ws syscall.WaitStatus) error {
	switch {
	case ws.Signaled():
		e := &ExitError{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
		if r.group.OOM() {
			e.OOM = r.spec.Limits.Memory
		}
		return e
	case ws.ExitStatus() != 0:
		e := &ExitError{Code: ws.ExitStatus()}
		if e.Code == 137 && r.group.OOM() { // a shell's word for a child that was killed
			e.OOM = r.spec.Limits.Memory
		}
		return e
	}
	return nil
}

// forward passes signals on to the child until stop is called.
func (r *run) forward() (stop func()) {
	if r.spec.Signals == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case sig, ok := <-r.spec.Signals:
				if !ok {
					return
				}
				r.proc.Signal(sig)
			case <-done:
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// memFile is a file in memory with data, at its beginning. Flags are MFD_ flags.
func memFile(name string, data []byte, flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|flags)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
