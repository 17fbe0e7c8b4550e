package main

import (
	"math"
	"runtime"
	"runtime/debug"
)

// spareGC keeps the garbage collector from working while the heap is small: most builds end before it is not. The
// environment's word, if there is one, goes before ours.
func spareGC(getenv func(string) string) {
	if getenv("GOGC") != "" || getenv("GOMEMLIMIT") != "" {
		return
	}
	const small = 48 << 20 // bytes: a third of what a build may take at its worst
	percent := debug.SetGCPercent(-1)
	debug.SetMemoryLimit(small)
	// The first collection, which comes at that limit, is told by what it collects.
	type canary struct{ _ [16]byte }
	runtime.AddCleanup(new(canary), func(percent int) {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(math.MaxInt64)
	}, percent)
}
