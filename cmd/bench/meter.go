package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// meter runs commands in a memory cgroup of its own, so that the memory of all their processes can be
// told without counting shared pages twice. Without such a cgroup it knows the largest process only.
type meter struct {
	dir string // "" if there is none
	v2  bool
	// starts are done by a thread that is inside; nil with version 2, which starts processes where one wants them.
	starts chan func()
}

// usage is what one run of a command took.
type usage struct {
	wall, cpu time.Duration
	// memory is in bytes: the greater of the anonymous and shared memory of all processes together,
	// as sampled, and of the largest resident set that any one of them had, as the kernel counted it.
	memory int64
}

// samplePeriod costs about a hundredth of a core: the kernel has to add up what each core counted. What
// is over sooner is told by its resident set.
const samplePeriod = 25 * time.Millisecond

// newMeter makes the cgroup. Not to get one is no error: containers often have none to give.
func newMeter() *meter {
	parent, v2 := memoryGroup()
	if parent == "" {
		return &meter{}
	}
	dir := filepath.Join(parent, fmt.Sprintf("bench-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return &meter{}
	}
	if _, err := os.Stat(filepath.Join(dir, "memory.stat")); err != nil {
		_ = os.Remove(dir)
		return &meter{}
	}
	m := &meter{dir: dir, v2: v2}
	if !v2 {
		if m.starts = enter(dir); m.starts == nil {
			_ = os.Remove(dir)
			return &meter{}
		}
	}
	return m
}

// enter moves a thread into a cgroup, which then does what it is sent until the channel is closed; nil if there is no
// entry. To move costs 20 ms, the kernel waiting for all cores, and holds up whatever makes processes meanwhile: it must not
// happen in the time that is measured.
func enter(dir string) chan func() {
	todo, entered := make(chan func()), make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with this function
		thread := []byte(strconv.Itoa(unix.Gettid()))
		err := os.WriteFile(filepath.Join(dir, "tasks"), thread, 0)
		entered <- err
		for f := range todo {
			f()
		}
	}()
	if <-entered != nil {
		close(todo)
		return nil
	}
	return todo
}

// memoryGroup is the directory of this process's memory cgroup; "" where it cannot be seen.
func memoryGroup() (dir string, v2 bool) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false
	}
	const mount = "/sys/fs/cgroup"
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] == "memory" {
			return filepath.Join(mount, "memory", parts[2]), false
		}
		if len(parts) == 3 && parts[1] == "" {
			dir = filepath.Join(mount, parts[2])
		}
	}
	return dir, true
}

// whole reports whether the meter sees all processes together.
func (m *meter) whole() bool { return m.dir != "" }

func (m *meter) close() {
	if m.starts != nil {
		leave(m.dir, m.starts)
	}
	if m.dir != "" {
		_ = os.Remove(m.dir) // empty by then; a leftover holds nothing
	}
}

// leave moves the thread of enter out again, and ends it.
func leave(dir string, todo chan func()) {
	left := make(chan error)
	todo <- func() {
		left <- os.WriteFile(filepath.Join(filepath.Dir(dir), "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0)
	}
	<-left
	close(todo)
}

// run runs the command and measures it from before its start until it has ended.
func (m *meter) run(ctx context.Context, cmd *exec.Cmd) (usage, error) {
	var u usage
	forgetPeak()
	began := time.Now()
	if err := m.start(cmd); err != nil {
		return u, err
	}
	ended := make(chan struct{})
	peak := make(chan int64)
	go func() { peak <- m.watch(ended) }()
	err := cmd.Wait()
	u.wall = time.Since(began)
	close(ended)
	u.memory = <-peak
	if err != nil {
		return u, errors.Join(ctx.Err(), err)
	}
	rusage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	u.memory = max(u.memory, rusage.Maxrss<<10)
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return u, nil
}

// forgetPeak makes this process small: the kernel counts what a command's resident set is from before
// it becomes another program, which is when it still shares this one's memory.
func forgetPeak() {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // older kernels do not know it
}

// start starts the command inside the cgroup, so that not one page of it escapes. Version 1 knows no
// way but to start it from a thread that is inside.
func (m *meter) start(cmd *exec.Cmd) error {
	switch {
	case m.dir == "":
		return cmd.Start()
	case m.v2:
		f, err := os.Open(m.dir)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
		return cmd.Start()
	}
	err := make(chan error)
	m.starts <- func() { err <- cmd.Start() }
	return <-err
}

// watch samples until ended is closed and returns the highest value.
func (m *meter) watch(ended chan struct{}) int64 {
	var peak int64
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for m.dir != "" {
		select {
		case <-ended:
			return peak
		case <-tick.C:
			peak = max(peak, m.now())
		}
	}
	<-ended
	return 0
}

// now is the anonymous and shared memory of all processes in the cgroup and below, in bytes.
func (m *meter) now() int64 {
	b, err := os.ReadFile(filepath.Join(m.dir, "memory.stat"))
	if err != nil {
		return 0
	}
	fields := []string{"total_rss ", "total_shmem "}
	if m.v2 {
		fields = []string{"anon ", "shmem "}
	}
	var sum int64
	for line := range strings.Lines(string(b)) {
		for _, f := range fields {
			if value, ok := strings.CutPrefix(line, f); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				sum += n
			}
		}
	}
	return sum
}
