package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// What the garbage collector is told, in bytes.
const (
	smallHeap = 48 << 20 // up to here it need not work: most builds end before
	// mostHeap leaves 50 MB of the 150 that a build may take at its worst for the program itself and for what comes between
	// two collections.
	mostHeap = 100 << 20
)

// spareGC keeps the garbage collector from working while the heap is small, and makes it work harder where the heap would
// otherwise outgrow what a build may take. The environment's word, if there is one, goes before ours.
func spareGC(getenv func(string) string) {
	if getenv("GOGC") != "" || getenv("GOMEMLIMIT") != "" {
		return
	}
	percent := debug.SetGCPercent(-1)
	debug.SetMemoryLimit(smallHeap)
	afterGC(func() {
		debug.SetGCPercent(percent)
		keepLimit()
	})
}

// keepLimit sets the limit again after each collection: where more is alive than fits below mostHeap, a collection for each
// few bytes would not help.
func keepLimit() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetMemoryLimit(max(mostHeap, int64(live[0].Value.Uint64())*5/4))
	afterGC(keepLimit)
}

// afterGC calls f after the next collection, which is told by what it collects.
func afterGC(f func()) {
	type canary struct{ _ [16]byte }
	runtime.AddCleanup(new(canary), func(f func()) { f() }, f)
}
