package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describeMachine is one line on what the figures were measured with.
func describeMachine(ctx context.Context, l *lab) string {
	parts := []string{
		time.Now().UTC().Format(time.DateOnly),
		fmt.Sprintf("%s, %d cores, %s of memory", processor(), runtime.NumCPU(), memory()),
		"Linux " + kernel(), fileSystem(l.dir),
		version(ctx, l.builder, "version"),
	}
	for _, tool := range []string{"buildah", "tar", "pigz"} {
		if v := version(ctx, tool, "--version"); v != "" {
			parts = append(parts, v)
		}
	}
	return strings.Join(parts, "; ") + ".\n"
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() string {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "?"
	}
	return size(uint64(info.Totalram) * uint64(info.Unit)).String()
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// fileSystem names the kind of file system that the longest mountpoint above dir has.
func fileSystem(dir string) string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "?"
	}
	best, kind := "", "?"
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 2 && strings.HasPrefix(dir+"/", strings.TrimSuffix(f[1], "/")+"/") && len(f[1]) >= len(best) {
			best, kind = f[1], f[2]
		}
	}
	return kind
}

// version is the first line that a program says of itself; "" if it is not there.
func version(ctx context.Context, program, flag string) string {
	out, err := exec.CommandContext(ctx, program, flag).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
