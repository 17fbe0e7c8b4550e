package oci

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Event says what happened to one blob or manifest during a Copy.
type Event int

// The life of a blob in a Copy: Exists, Mounted, or Started, Progress… and Done.
const (
	Exists   Event = iota // the target has it; bytes is its size
	Mounted               // taken from a neighbouring repository; bytes is its size
	Started               // its first byte is about to move; bytes is 0
	Progress              // bytes moved so far; may fall back when it is sent again
	Done                  // the target has it now; bytes is its size
)

// CopyOptions are the choices of a Copy; the zero value is usable.
type CopyOptions struct {
	// Parallel bounds the blobs in flight; 0 means 4.
	Parallel int
	// MountFrom names repositories of the target's registry that may hold the
	// blob already, best first. Asked only when the target is a Mounter.
	MountFrom func(d Descriptor) []string
	// OnBlob is told what happens to each blob and manifest. Calls never
	// overlap and none comes after Copy has returned.
	OnBlob func(d Descriptor, e Event, bytes int64)
}

// Copy moves root and everything it names from src to dst: configs and layers
// first, then manifests, then the indexes over them, so that dst never holds a
// document whose parts are missing. Content that dst has is not moved, content
// named twice moves once. The URLs of foreign layers are never followed.
func Copy(ctx context.Context, dst Target, src Source, root Descriptor, o CopyOptions) error {
	c := &copier{dst: dst, src: src, o: o, nodes: map[digest.Digest]*node{}}
	defer c.silence()
	if c.o.Parallel <= 0 {
		c.o.Parallel = 4
	}
	if err := c.plan(ctx, root); err != nil {
		return err
	}
	for _, level := range c.levels(root) {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(c.o.Parallel)
		for _, n := range level {
			g.Go(func() error { return c.move(ctx, n) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// node is one piece of content of a Copy.
type node struct {
	desc     Descriptor
	data     []byte // of a manifest or index
	children []Descriptor
	has      bool // dst has it; known for documents once planned
	height   int  // 0 for blobs, for a document one more than its highest child
}

// copier is the state of one Copy.
type copier struct {
	dst   Target
	src   Source
	o     CopyOptions
	nodes map[digest.Digest]*node

	mu     sync.Mutex // guards silent and the calls of OnBlob
	silent bool
}

// plan reads every document under root, level by level, and records what there
// is to move.
func (c *copier) plan(ctx context.Context, root Descriptor) error {
	if err := Check(root); err != nil {
		return err
	}
	held := int64(0)
	level := []Descriptor{root}
	for depth := 0; len(level) > 0; depth++ {
		docs, err := c.add(level)
		if err != nil {
			return err
		}
		for _, n := range docs {
			held += n.desc.Size
		}
		if len(docs) > 0 && (depth >= maxDepth || held > maxHeld) {
			return fmt.Errorf("%s: %w: too many manifests inside each other", root.Digest, ErrInvalid)
		}
		if err := c.read(ctx, docs); err != nil {
			return err
		}
		level = nil
		for _, n := range docs {
			level = append(level, n.children...)
		}
	}
	return nil
}

// add records the descriptors that were not seen before and returns those that
// are documents.
func (c *copier) add(descs []Descriptor) ([]*node, error) {
	var docs []*node
	for _, d := range descs {
		if n := c.nodes[d.Digest]; n != nil {
			if n.desc.Size != d.Size || IsDocument(n.desc.MediaType) != IsDocument(d.MediaType) {
				return nil, fmt.Errorf("%s: %w: described in two ways", d.Digest, ErrInvalid)
			}
			continue
		}
		n := &node{desc: d}
		c.nodes[d.Digest] = n
		if len(c.nodes) > maxNodes {
			return nil, fmt.Errorf("%s: %w: more than %d parts", d.Digest, ErrInvalid, maxNodes)
		}
		if IsDocument(d.MediaType) {
			docs = append(docs, n)
		}
	}
	return docs, nil
}

// read fetches documents and finds their children.
func (c *copier) read(ctx context.Context, docs []*node) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Parallel)
	for _, n := range docs {
		g.Go(func() (err error) {
			if n.has, err = c.dst.Has(ctx, n.desc); err != nil {
				return err
			}
			if n.data, err = c.document(ctx, n); err != nil {
				return err
			}
			n.children, err = parseChildren(n.desc, n.data)
			return err
		})
	}
	return g.Wait()
}

// document reads a document from the target if that has it in a local file
// (an unchanged image then needs nothing of the source), else from the source.
func (c *copier) document(ctx context.Context, n *node) ([]byte, error) {
	if dst, ok := c.dst.(Source); ok && n.has {
		if _, ok := c.dst.(filer); ok {
			if data, err := ReadAll(ctx, dst, n.desc, MaxManifest); err == nil {
				return data, nil
			}
			n.has = false // damaged: replace it
		}
	}
	return ReadAll(ctx, c.src, n.desc, MaxManifest)
}

// levels sorts the content by height, blobs first.
func (c *copier) levels(root Descriptor) [][]*node {
	c.rise(c.nodes[root.Digest])
	levels := make([][]*node, c.nodes[root.Digest].height+1)
	seen := map[digest.Digest]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		if seen[n.desc.Digest] {
			return
		}
		seen[n.desc.Digest] = true
		levels[n.height] = append(levels[n.height], n)
		for _, d := range n.children {
			walk(c.nodes[d.Digest])
		}
	}
	walk(c.nodes[root.Digest])
	return levels
}

// rise sets the height of n and of all below it. Digests were checked, so no
// document can name itself.
func (c *copier) rise(n *node) int {
	if n.height > 0 || !IsDocument(n.desc.MediaType) {
		return n.height
	}
	n.height = 1
	for _, d := range n.children {
		n.height = max(n.height, 1+c.rise(c.nodes[d.Digest]))
	}
	return n.height
}

// move brings one piece of content into the target unless it is there.
func (c *copier) move(ctx context.Context, n *node) error {
	if n.data != nil {
		if n.has {
			c.tell(n.desc, Exists, n.desc.Size)
			return nil
		}
		return c.send(ctx, n.desc, func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(n.data)), nil
		})
	}
	if done, err := c.exists(ctx, n.desc); done || err != nil {
		return err
	}
	if dst, ok := c.dst.(Claimer); ok {
		release, err := dst.Claim(ctx, n.desc)
		if err != nil {
			return err
		}
		defer release()
		if done, err := c.exists(ctx, n.desc); done || err != nil {
			return err
		}
	}
	if c.mount(ctx, n.desc) {
		c.tell(n.desc, Mounted, n.desc.Size)
		return nil
	}
	return c.send(ctx, n.desc, func() (io.ReadCloser, error) { return c.src.Fetch(ctx, n.desc) })
}

// exists reports whether the target has a blob, and tells so.
func (c *copier) exists(ctx context.Context, d Descriptor) (bool, error) {
	has, err := c.dst.Has(ctx, d)
	if has && err == nil {
		c.tell(d, Exists, d.Size)
	}
	return has, err
}

// mount tries the neighbouring repositories. A refusal is no error: the blob
// can still be sent.
func (c *copier) mount(ctx context.Context, d Descriptor) bool {
	m, ok := c.dst.(Mounter)
	if !ok || c.o.MountFrom == nil {
		return false
	}
	for _, repo := range c.o.MountFrom(d) {
		if done, err := m.Mount(ctx, d, repo); err == nil && done {
			return true
		}
	}
	return false
}

// send puts what open yields.
func (c *copier) send(ctx context.Context, d Descriptor, open func() (io.ReadCloser, error)) error {
	c.tell(d, Started, 0)
	reopen := func() (io.ReadCloser, error) {
		rc, err := open()
		if err != nil {
			return nil, err
		}
		return &verified{r: rc, c: rc, d: d, hash: d.Digest.Algorithm().Hash(),
			tell: func(n int64) { c.tell(d, Progress, n) }}, nil
	}
	rc, err := reopen()
	if err != nil {
		return err
	}
	defer rc.Close()
	rc.(*verified).reopen = reopen
	if err := c.dst.Put(ctx, d, rc); err != nil {
		return err
	}
	c.tell(d, Done, d.Size)
	return nil
}

// tell reports one event.
func (c *copier) tell(d Descriptor, e Event, n int64) {
	if c.o.OnBlob == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.silent {
		c.o.OnBlob(d, e, n)
	}
}

// silence ends the reports: a transport may still read a body it gave up.
func (c *copier) silence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent = true
}
