package builder

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// statTick is the unit of processor times in /proc/stat (USER_HZ, proc(5)).
const statTick = 10 * time.Millisecond

// idleProcessors returns a function that tells how many processors had nothing to do
// since it was last called, rounded to the nearest number; 0 at the first call.
func idleProcessors() func() int {
	var idle, when time.Duration
	start := time.Now()
	return func() int {
		now, total := time.Since(start), idleTime()
		n := 0
		if when > 0 && now > when && idle > 0 {
			n = int((total - idle + (now-when)/2) / (now - when))
		}
		idle, when = total, now
		return n
	}
}

// idleTime is how long all processors together have been idle, waiting for disks
// included; 0 where the machine does not tell.
func idleTime() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	fields := bytes.Fields(line) // cpu user nice system idle iowait
	var ticks int64
	for _, i := range []int{4, 5} {
		if i < len(fields) {
			n, _ := strconv.ParseInt(string(fields[i]), 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * statTick
}
