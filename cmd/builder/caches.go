package main

import (
	"context"
	"fmt"
	"strconv"

	"builder/builder"

	"golang.org/x/sync/errgroup"
)

// caches reads --cache-from and --cache-to. What concerns the build itself goes into o,
// the places to write to are returned.
func (f *buildFlags) caches(o *builder.BuildOptions) ([]builder.CacheTo, error) {
	for _, v := range f.cacheFrom {
		from, err := builder.ParseCacheFrom(v)
		if err != nil {
			return nil, usageError{fmt.Errorf("--cache-from: %w", err)}
		}
		o.CacheFrom = append(o.CacheFrom, from)
	}
	if v := o.Plan.BuildArgs["BUILDKIT_INLINE_CACHE"]; v != nil {
		o.InlineCache, _ = strconv.ParseBool(*v) // what is no boolean means no, as for BuildKit
	}
	var places []builder.CacheTo
	for _, v := range f.cacheTo {
		to, err := builder.ParseCacheTo(v)
		if err != nil {
			return nil, usageError{fmt.Errorf("--cache-to: %w", err)}
		}
		for _, id := range to.Mounts {
			if o.CacheMounts[id] != "" {
				return nil, usagef("--cache-to mounts=%s: --cache-mount keeps it in %s, which is not sent", id, o.CacheMounts[id])
			}
		}
		o.SavedMounts = append(o.SavedMounts, to.Mounts...)
		o.InlineCache = o.InlineCache || to.Type == "inline"
		places = append(places, to)
	}
	return places, nil
}

// sendAll sends the image and writes the caches, one after the other, beside that. A
// cache that cannot be written does not keep the image from its places.
func (f *buildFlags) sendAll(ctx context.Context, g *global, s *builder.Store, res *builder.Result, o builder.BuildOptions, to *sending) (map[string]any, error) {
	sent := make(chan struct{})
	beside, cancel := context.WithCancel(ctx)
	defer cancel()
	var caches errgroup.Group
	caches.Go(func() error {
		for _, c := range to.caches {
			if err := s.ExportCache(beside, res, c, f.sendingOf(o, to, sent), o.Progress); err != nil {
				return err
			}
		}
		return nil
	})
	meta, err := f.send(ctx, g, s, res.Image, o, to.outputs)
	if err != nil {
		cancel()
	}
	close(sent)
	if cacheErr := caches.Wait(); err == nil {
		err = cacheErr
	}
	return meta, err
}

// sendingOf tells the export of a cache where the image goes meanwhile.
func (f *buildFlags) sendingOf(o builder.BuildOptions, to *sending, sent <-chan struct{}) builder.Sending {
	out, push := f.imageOutput(o, to.outputs)
	sending := builder.Sending{Done: sent, Encoding: out.Encoding}
	if push {
		sending.Names = out.Names
	}
	return sending
}

// imageOutput is how the image leaves for registries and under which names, and whether
// it does.
func (f *buildFlags) imageOutput(o builder.BuildOptions, outputs []builder.Output) (image builder.Output, push bool) {
	image.Encoding, push = builder.DefaultEncoding, f.push
	for _, out := range outputs {
		if out.Type == "image" {
			image, push = out, push || out.Push
		}
	}
	if !image.Untagged {
		image.Names = o.Names
	}
	return image, push
}
