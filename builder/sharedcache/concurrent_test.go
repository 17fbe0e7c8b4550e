package sharedcache_test

import (
	"fmt"
	"sync"
	"testing"

	"builder/builder/sharedcache"
	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"
	"builder/oci/ocitest"
	"builder/oci/registry"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// place is what a cache can be written to and read from.
type place interface {
	sharedcache.Target
	oci.Source
}

// Many writers of one name break no reader: whoever reads it finds a whole cache, one
// of those that were written, with every layer there.
func TestConcurrentWriters(t *testing.T) {
	places := map[string]func(t *testing.T) place{
		"registry": func(t *testing.T) place {
			host, _ := ocitest.Registry(t, ocitest.RegistryOptions{})
			ref, err := name.Parse(host + "/cache:main")
			if err != nil {
				t.Fatal(err)
			}
			r := registry.Repository(ref, registry.Options{})
			t.Cleanup(r.Close)
			return r
		},
		"layout": func(t *testing.T) place {
			l, err := layout.Create(t.TempDir(), layout.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
	}
	for kind, open := range places {
		t.Run(kind, func(t *testing.T) { writeAndRead(t, open(t)) })
	}
}

func writeAndRead(t *testing.T, p place) {
	const writers, rounds = 4, 6
	writeOne(t, p, 0, 0)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for round := range rounds {
				writeOne(t, p, w, round)
			}
		})
	}
	written := make(chan struct{})
	go func() { all.Wait(); close(written) }()
	for reads := 0; ; reads++ {
		readOne(t, p)
		select {
		case <-written:
			t.Logf("read %d times", reads)
			readOne(t, p)
			return
		default:
		}
	}
}

// writeOne writes a cache of three steps, of which one is the same for all writers.
func writeOne(t *testing.T, p place, writer, round int) {
	m := ocitest.Memory{}
	var d sharedcache.Draft
	for _, text := range []string{"common", fmt.Sprint("writer ", writer), fmt.Sprint("round ", writer, round)} {
		blob := m.Add(ocispec.MediaTypeImageLayerGzip, ocitest.Gzip([]byte(text)))
		d.Add(sharedcache.Record{Op: sum(text), Content: sum(text)}, &blob, sum(text))
	}
	if _, err := d.Write(t.Context(), p, m, []string{"main"}, oci.CopyOptions{}); err != nil {
		t.Errorf("writer %d, round %d: %v", writer, round, err)
	}
}

func readOne(t *testing.T, p place) {
	src, err := sharedcache.Import(t.Context(), p, "main", sharedcache.Source{})
	if err != nil || src.Len() != 3 {
		t.Errorf("read: %v", err)
		return
	}
	common := src.GetContent("", sum("common"), "")
	if has, err := p.Has(t.Context(), *common.Layers[0].Blob); !has || err != nil {
		t.Errorf("the layer is not there: %v", err)
	}
}
