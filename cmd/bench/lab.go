package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lab is what all measurements share: where they work, what they measure, what serves them.
type lab struct {
	dir      string // absolute
	own      bool   // dir is temporary
	keep     bool
	hasty    bool   // measures without waiting for the disk
	builder  string // absolute path of the binary
	work     *workload
	registry *registry
	base     string // reference of the base image in registry
	blobs    []string
	meter    *meter
	servers  []*registry // that a rung started
	phase    string      // begins the names of directories given out
	given    int         // how many were
	touches  int         // how often a file was given new content
}

// Directories last as long as a rung, or as long as one of its rounds if they are bulky.
const (
	setUp = "rung"
	round = "round"
)

// openLab makes the workload, starts a registry and puts the base image into it.
func openLab(ctx context.Context, o options) (*lab, error) {
	l := &lab{keep: o.keep, hasty: o.smoke, meter: newMeter(), phase: setUp}
	if err := l.open(ctx, o); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) open(ctx context.Context, o options) (err error) {
	if l.builder, err = filepath.Abs(o.builder); err != nil {
		return err
	}
	if _, err := os.Stat(l.builder); err != nil {
		return fmt.Errorf("%w (make build makes it)", err)
	}
	if err := l.settle(o.dir); err != nil {
		return err
	}
	l.work = &workload{dir: filepath.Join(l.dir, "workload"), sizes: fullSizes}
	if o.smoke {
		l.work.sizes = smokeSizes
	}
	if !o.growth {
		if err := l.work.make(); err != nil {
			return err
		}
	}
	if l.registry, err = startRegistry(ctx, l.path("registry")); err != nil {
		return err
	}
	return l.pushBase(ctx, o.smoke || o.growth)
}

// settle finds the directory to work in, and takes away what an earlier run left there.
func (l *lab) settle(dir string) (err error) {
	if dir == "" {
		l.own = true
		l.dir, err = os.MkdirTemp("/var/tmp", "builder-bench-")
		return err
	}
	if l.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := remove(filepath.Join(l.dir, "run")); err != nil {
		return err
	}
	return os.MkdirAll(l.dir, 0o755)
}

// path is a file that lasts as long as the lab.
func (l *lab) path(name string) string { return filepath.Join(l.dir, "run", name) }

// empty makes a new empty directory.
func (l *lab) empty(name string) (string, error) {
	l.given++
	dir := l.path(fmt.Sprintf("%s-%s-%d", l.phase, name, l.given))
	return dir, os.MkdirAll(dir, 0o755)
}

// serve starts one more registry, which has nothing.
func (l *lab) serve(ctx context.Context) (*registry, error) {
	dir, err := l.empty("registry")
	if err != nil {
		return nil, err
	}
	r, err := startRegistry(ctx, dir)
	if err == nil {
		l.servers = append(l.servers, r)
	}
	return r, err
}

// stopServers stops what serve started.
func (l *lab) stopServers() {
	for _, r := range l.servers {
		r.stop()
	}
	l.servers = nil
}

// close ends what runs and removes what nobody will want.
func (l *lab) close() {
	l.stopServers()
	if l.registry != nil {
		l.registry.stop()
	}
	l.meter.close()
	if l.dir == "" {
		return
	}
	if l.keep {
		fmt.Fprintln(os.Stderr, "kept", l.dir)
		return
	}
	dir := filepath.Join(l.dir, "run")
	if l.own {
		dir = l.dir
	}
	if err := remove(dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// clean removes what empty gave out in a phase.
func (l *lab) clean(phase string) error {
	if l.keep {
		return nil
	}
	dirs, err := filepath.Glob(l.path(phase + "-*"))
	for _, dir := range dirs {
		err = errors.Join(err, remove(dir))
	}
	return err
}

// remove removes a tree in which something may still be mounted, as some builders leave it.
func remove(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[4], err)
			}
		}
	}
	return os.RemoveAll(dir)
}

// command is a command with an environment in which nothing of the user's matters.
func (l *lab) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.path("home"), "TMPDIR=" + l.path("tmp"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// sh is a shell script, $1 and so on its arguments.
func (l *lab) sh(ctx context.Context, script string, args ...string) *exec.Cmd {
	return l.command(ctx, "/bin/sh", append([]string{"-euc", script, "sh"}, args...)...)
}

// measure runs a command under the meter, from a state in which nothing waits to be written.
func (l *lab) measure(ctx context.Context, cmd *exec.Cmd) (usage, error) {
	var u usage
	err := l.logged(cmd, func() (err error) {
		if err := l.settleDisk(); err != nil {
			return err
		}
		u, err = l.meter.run(ctx, cmd)
		return err
	})
	return u, err
}

// age waits until what was just written is over two seconds old, as sources are that people build. Younger files could
// change without a sign of it, so nothing that is read of them is remembered.
func (l *lab) age(ctx context.Context) error {
	if l.hasty {
		return nil
	}
	select {
	case <-time.After(2500 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settleDisk writes out what waits to be written to the file system of the lab.
func (l *lab) settleDisk() error {
	if l.hasty {
		return nil
	}
	f, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// do runs a command that prepares something.
func (l *lab) do(cmd *exec.Cmd) error { return l.logged(cmd, cmd.Run) }

// logged lets a command write to a file, because a pipe would have to be read meanwhile, and shows the
// file's end with its error.
func (l *lab) logged(cmd *exec.Cmd, run func() error) error {
	for _, dir := range []string{l.path("home"), l.path("tmp")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := os.Create(l.path("log"))
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := run(); err != nil {
		text, _ := os.ReadFile(f.Name())
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text[max(0, len(text)-2000):])
	}
	return nil
}

// context makes a directory that has a Dockerfile alone, and returns the file's path.
func (l *lab) context(name, text string) (string, error) {
	dir := l.path("context/" + name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "Dockerfile")
	return file, os.WriteFile(file, []byte(text), 0o644)
}
