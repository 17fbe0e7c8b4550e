package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"builder/builder"
	"builder/builder/sandbox"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// sandboxFlags are the flags that RUN and run have in common.
type sandboxFlags struct {
	hosts, ulimits       []string
	memory, shmSize, cpu string
	snapshotter          string
	pids                 int64
}

func (f *sandboxFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVar(&f.hosts, "add-host", nil, "`NAME:IP` for /etc/hosts")
	fl.StringArrayVar(&f.ulimits, "ulimit", nil, "`NAME=SOFT[:HARD]`, as in nofile=1024:4096")
	fl.StringVarP(&f.memory, "memory", "m", "", "most memory, as in `512m`")
	fl.StringVar(&f.cpu, "cpus", "", "most processors, as in `1.5`")
	fl.Int64Var(&f.pids, "pids-limit", 0, "largest `number` of processes")
	f.registerSnapshotter(c)
	fl.StringVar(&f.shmSize, "shm-size", "", "`size` of /dev/shm (default 64m)")
}

func (f *sandboxFlags) registerSnapshotter(c *cobra.Command) {
	c.Flags().StringVar(&f.snapshotter, "snapshotter", os.Getenv("BUILDER_SNAPSHOTTER"), "how a command gets its tree: `auto`, overlay (mounted) "+
		"or native (copied) (default $BUILDER_SNAPSHOTTER, else auto)")
}

// options reads the flags; ca is the file of certificate authorities or "".
func (f *sandboxFlags) options(ca string) (o builder.SandboxOptions, err error) {
	if o.Snapshotter, err = builder.ParseSnapshotter(f.snapshotter); err != nil {
		return o, usagef("--snapshotter %w", err)
	}
	if ca != "" {
		if o.CA, err = filepath.Abs(ca); err != nil {
			return o, err
		}
		if _, err := os.Stat(o.CA); err != nil {
			return o, fmt.Errorf("--ca: %w", err)
		}
	}
	if o.Limits.Memory, err = size("--memory", f.memory); err != nil {
		return o, err
	}
	if o.Limits.ShmSize, err = size("--shm-size", f.shmSize); err != nil {
		return o, err
	}
	if f.cpu != "" {
		if o.Limits.CPUs, err = strconv.ParseFloat(f.cpu, 64); err != nil || o.Limits.CPUs <= 0 {
			return o, usagef("--cpus %s: it must be a number above 0", f.cpu)
		}
	}
	o.Limits.Pids = max(f.pids, 0)
	for _, v := range f.ulimits {
		u, err := units.ParseUlimit(v)
		if err != nil {
			return o, usagef("--ulimit %s: it must be NAME=SOFT[:HARD], as in nofile=1024:4096", v)
		}
		o.Limits.Ulimits = append(o.Limits.Ulimits, sandbox.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, v := range f.hosts {
		h, err := parseHost(v)
		if err != nil {
			return o, usagef("--add-host %s: %w", v, err)
		}
		o.Hosts = append(o.Hosts, h)
	}
	return o, nil
}

// size reads a number of bytes with an optional unit; "" is 0.
func size(flag, value string) (int64, error) {
	if value == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(value)
	if err != nil || n <= 0 {
		return 0, usagef("%s %s: it must be a size such as 512m or 2g", flag, value)
	}
	return n, nil
}

// parseHost reads NAME:IP or NAME=IP.
func parseHost(v string) (sandbox.HostEntry, error) {
	i := strings.IndexAny(v, ":=")
	if i <= 0 {
		return sandbox.HostEntry{}, fmt.Errorf("it must be NAME:IP")
	}
	if v[i+1:] == "host-gateway" {
		return sandbox.HostEntry{}, errors.New("services of the host cannot be reached from RUN; with --network host they are at 127.0.0.1")
	}
	addr, err := netip.ParseAddr(strings.Trim(v[i+1:], "[]"))
	if err != nil {
		return sandbox.HostEntry{}, fmt.Errorf("%q is no IP address", v[i+1:])
	}
	return sandbox.HostEntry{Name: v[:i], IP: addr}, nil
}
