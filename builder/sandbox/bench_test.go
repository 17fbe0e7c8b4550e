package sandbox

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRun measures what a sandbox costs, beside what the kernel takes for the same namespaces alone. The
// processor's time tells more than the clock's on a machine with other work. Between two runs the kernel gets the time
// to take down the network of the first, so that the second does not wait for that.
func BenchmarkRun(b *testing.B) {
	for _, bench := range []struct {
		name    string
		network Network
		flags   string
	}{{"host", NetHost, "-mpfui"}, {"none", NetNone, "-mpfuin"}, {"default", NetDefault, "-mpfuin"}} {
		b.Run(bench.name, func(b *testing.B) {
			x := newBox(b, busybox(b, "proc/", "sys/", "dev/", "etc/hosts=", "etc/resolv.conf="))
			x.Network = bench.network
			defer reportCPU(b)()
			for b.Loop() {
				if err := x.run("/bin/true"); err != nil {
					b.Fatal(err)
				}
				pause(b)
			}
		})
		b.Run(bench.name+"-unshare", func(b *testing.B) {
			defer reportCPU(b)()
			for b.Loop() {
				if err := exec.Command("unshare", bench.flags, "/bin/busybox", "true").Run(); err != nil {
					b.Skip(err)
				}
				pause(b)
			}
		})
	}
}

func pause(b *testing.B) {
	b.StopTimer()
	time.Sleep(30 * time.Millisecond)
	b.StartTimer()
}

// reportCPU reports the processor's time of this process and of its children.
func reportCPU(b *testing.B) func() {
	used := func(who int) time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	self, children := used(unix.RUSAGE_SELF), used(unix.RUSAGE_CHILDREN)
	return func() {
		b.ReportMetric((used(unix.RUSAGE_SELF)-self).Seconds()*1000/float64(b.N), "self-ms/op")
		b.ReportMetric((used(unix.RUSAGE_CHILDREN)-children).Seconds()*1000/float64(b.N), "children-ms/op")
	}
}
