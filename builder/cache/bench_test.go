package cache_test

import (
	"fmt"
	"testing"

	"builder/builder/cache"

	"github.com/opencontainers/go-digest"
)

// BenchmarkGet is what a build pays for each step that is cached: to know that there is something to
// find, and to read the record out of a cache of 1,000 of them.
func BenchmarkGet(b *testing.B) {
	c, err := cache.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	var all []*cache.Inputs
	for i := range 1000 {
		in := inputs(fmt.Sprint("make -C ", i))
		in.Add("environment", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		rec := record(in)
		rec.Content = digest.FromString(fmt.Sprint(i))
		if err := c.Put(rec, in); err != nil {
			b.Fatal(err)
		}
		all = append(all, in)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		in := all[i%len(all)]
		if !c.Knows(in) {
			b.Fatal("unknown")
		}
		if _, err := c.Get(in.Key()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPut is what a build pays for each step that it ran.
func BenchmarkPut(b *testing.B) {
	c, err := cache.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		in := inputs(fmt.Sprint("make -C ", i))
		if err := c.Put(record(in), in); err != nil {
			b.Fatal(err)
		}
	}
}
