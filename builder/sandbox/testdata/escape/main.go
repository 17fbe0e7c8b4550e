// Command escape tries to get out of the container that it runs in, one way after the other, and prints for each a line
// of JSON that says whether the way is open. Nothing that it does harms the machine if it succeeds: what would is only
// begun, with arguments that are refused after permission was given.
//
// The argument is what the host has prepared, as JSON; see host. The program does not know who contains it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
)

// host is what lies outside, for the probes to look for.
type host struct {
	PID      int      // of a process of root that sleeps
	Secret   string   // the path of a file, and what is in it
	Content  string   //
	Variable string   // a variable in the environment of whoever started the container
	Abstract string   // the name of a unix socket without the leading NUL, on which somebody listens
	TCP, UDP []string // addresses with ports at which somebody answers, on loopback and link-local interfaces
	Remote   []string // the same on an address that containers may well reach
	Disk     [2]int   // the numbers of a block device
	Shm      int      // the key of a System V shared memory segment
	Queue    string   // the name of a POSIX message queue
}

// probe is one way out. It returns whether that is open, and why it thinks so.
type probe struct {
	id, what string
	try      func(h *host) (open bool, why string)
}

// finding is a line of output.
type finding struct {
	ID     string `json:"id"`
	What   string `json:"what"`
	Open   bool   `json:"open"`
	Reason string `json:"reason"`
}

// left are the descriptors that were open when the program began.
var left, leftWhere = leading("/proc/self/fd")

func main() {
	if len(os.Args) > 2 {
		helper(os.Args[1:])
		return
	}
	var h host
	if err := json.Unmarshal([]byte(os.Args[1]), &h); err != nil {
		fmt.Fprintln(os.Stderr, "escape:", err)
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for _, list := range [][]probe{namespaces, mounts, processes, files, kernel, network} {
		for _, p := range list {
			if err := out.Encode(run(p, &h)); err != nil {
				os.Exit(1)
			}
		}
	}
}

// run gives the probe a thread of its own, which is thrown away: some change what belongs to a thread.
func run(p probe, h *host) finding {
	result := make(chan finding)
	go func() {
		runtime.LockOSThread()
		open, why := p.try(h)
		result <- finding{p.id, p.what, open, why}
	}()
	return <-result
}
