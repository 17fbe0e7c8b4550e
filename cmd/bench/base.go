package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// inputs is where testdata/setup.sh puts what comes from outside.
func inputs() string {
	if dir := os.Getenv("BUILDER_TEST_CACHE"); dir != "" {
		return dir
	}
	return "/var/tmp/builder-test"
}

// pushBase puts the base image into the registry: a Debian, or a single static program when small.
func (l *lab) pushBase(ctx context.Context, small bool) error {
	l.base = l.registry.addr + "/base:latest"
	layout := filepath.Join(inputs(), "debian")
	if small {
		layout = l.path("busybox")
		if err := l.makeBusybox(ctx, layout); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(layout, "index.json")); err != nil {
		return fmt.Errorf("%w (make setup makes it)", err)
	}
	blobs, err := layerBlobs(layout)
	if err != nil {
		return err
	}
	l.blobs = blobs
	store := ours{l, l.path("base-store")}
	return l.do(store.command(ctx, "push", "--progress", "plain", "oci-layout://"+layout+":latest", l.base))
}

// makeBusybox makes an image of busybox with all its names.
func (l *lab) makeBusybox(ctx context.Context, layout string) error {
	file, err := l.context("busybox", "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"/bin\"]\n")
	if err != nil {
		return err
	}
	if err := copyFile(filepath.Join(filepath.Dir(file), "busybox"), filepath.Join(inputs(), "busybox")); err != nil {
		return err
	}
	store := ours{l, l.path("base-store")}
	output := "type=oci,tar=false,name=localhost/base:latest,dest=" + layout
	return l.do(store.build(ctx, file, "--network", "none", "-o", output))
}

func copyFile(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// layerBlobs are the files of the layers of a layout's only image.
func layerBlobs(layout string) ([]string, error) {
	type document struct{ Manifests, Layers []struct{ Digest string } }
	blob := func(digest string) string {
		return filepath.Join(layout, "blobs", strings.Replace(digest, ":", "/", 1))
	}
	path := filepath.Join(layout, "index.json")
	for {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var d document
		if err := json.Unmarshal(b, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(d.Manifests) == 0 {
			var blobs []string
			for _, layer := range d.Layers {
				blobs = append(blobs, blob(layer.Digest))
			}
			return blobs, nil
		}
		path = blob(d.Manifests[0].Digest)
	}
}
