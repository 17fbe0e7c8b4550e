package builder

import (
	"context"
	"fmt"
	"time"

	"builder/builder/cache"
	"builder/builder/plan"
	"builder/builder/progress"
	"builder/builder/sharedcache"
	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// made is what the steps of a build made, as a cache for other machines tells it.
type made struct {
	records []madeRecord
	notes   map[string]digest.Digest
}

type madeRecord struct {
	sharedcache.Record
	layer Layer
	final bool // the image holds the layer
}

// made lists what the steps made. All of them have ended.
func (b *build) made(ctx context.Context) (made, error) {
	var m made
	epoch, err := parseEpoch(b.epoch)
	if err != nil {
		return m, err
	}
	for _, s := range b.steps {
		res := b.results[s.Index]
		if res.in == nil {
			continue
		}
		m.records = append(m.records, madeRecord{Record: res.record(epoch), layer: res.layer, final: b.final[s.Index]})
	}
	m.notes, err = b.notes(ctx, b.steps)
	return m, err
}

// record is the result as a cache tells it, without a layer. An epoch replaces the time,
// so that equal builds write equal caches.
func (r *result) record(epoch *time.Time) sharedcache.Record {
	rec := sharedcache.Record{
		Op: r.in.Op(), Below: r.in.Below, Content: r.content, Size: r.layer.Size, Epoch: r.layer.Epoch, Created: r.created.UTC(),
	}
	if epoch != nil {
		rec.Created = *epoch
	}
	return rec
}

// notes are the digests of what steps read in trees of other steps, by the names under
// which key looks for them.
func (b *build) notes(ctx context.Context, steps []*plan.Step) (map[string]digest.Digest, error) {
	notes := map[string]digest.Digest{}
	for _, s := range steps {
		in := b.results[s.Index].in
		if in == nil {
			continue
		}
		named, err := b.namesRead(ctx, s)
		if err != nil {
			return nil, err
		}
		for _, i := range in.Items {
			if memo := named[i.Name]; memo != "" {
				notes[memo] = digest.Digest(i.Value)
			}
		}
	}
	return notes, nil
}

// namesRead is, for each input of a step that stands for files of another step's tree,
// the name under which their digest is remembered.
func (b *build) namesRead(ctx context.Context, s *plan.Step) (map[string]string, error) {
	names := map[string]string{}
	var err error
	switch op := s.Op.(type) {
	case *plan.Copy:
		if len(op.Sources()) > 0 {
			names[cache.FilesInput], err = b.filesName(ctx, op)
		}
	case *plan.Run:
		for i := range op.Mounts {
			w := &op.Mounts[i]
			if w.Kind == plan.BindMount && err == nil {
				names[mountContent(w)], err = b.mountName(ctx, w)
			}
		}
	}
	return names, err
}

// inlineIndex is what the image's own config tells of its layers, of which there are
// count; nil when nobody asked for it. Of the stages that the image was copied from it
// tells what they were, so that a build without changes is found whole.
func (b *build) inlineIndex(ctx context.Context, g *plan.Graph, count int) (*sharedcache.Index, error) {
	if !b.o.InlineCache {
		return nil, nil
	}
	epoch, err := parseEpoch(b.epoch)
	if err != nil {
		return nil, err
	}
	var d sharedcache.Draft
	at := map[*plan.Step]int{}
	for s := g.Result; s != nil && b.results[s.Index].in != nil; s = s.Parent {
		count--
		at[s] = count
	}
	steps := needed(g.Result)
	for _, s := range steps {
		if b.results[s.Index].in == nil {
			continue
		}
		r := b.results[s.Index].record(epoch)
		if i, ok := at[s]; ok {
			r.Layer = &i
		}
		d.Records = append(d.Records, r)
	}
	notes, err := b.notes(ctx, steps)
	for memo, sum := range notes {
		d.AddNote(memo, sum)
	}
	return &d.Index, err
}

// needed lists last and all steps that it rests on or reads, each once.
func needed(last *plan.Step) []*plan.Step {
	var out []*plan.Step
	seen := map[*plan.Step]bool{nil: true}
	var visit func(s *plan.Step)
	visit = func(s *plan.Step) {
		if seen[s] {
			return
		}
		seen[s] = true
		visit(s.Parent)
		for _, r := range s.Reads {
			visit(r)
		}
		out = append(out, s)
	}
	visit(last)
	return out
}

// Sending is what goes on beside the export of a cache.
type Sending struct {
	// Done is closed when the image has reached its places.
	Done <-chan struct{}
	// Names are the references under which it is pushed, Encoding is how.
	Names    []string
	Encoding Encoding
}

// ExportCache writes what a build's steps made to a place where other machines find
// it. Layers that the image does not hold go while the image is still being sent; the
// others wait for that, so that nothing is encoded or sent twice.
func (s *Store) ExportCache(ctx context.Context, res *Result, to CacheTo, sending Sending, p *progress.Printer) error {
	if to.Type == "inline" {
		return nil
	}
	ui := p.Step("exporting cache to " + to.String())
	ui.Start()
	e := &cacheExport{store: s, res: res, to: to, sending: sending, ui: ui, encoding: sending.Encoding}
	if to.Encoding != nil {
		e.encoding = *to.Encoding
	}
	err := e.run(ctx)
	switch {
	case err == nil:
		ui.Done("")
		return nil
	case to.IgnoreError && ctx.Err() == nil:
		ui.Note(fmt.Sprintf("warning: the cache was not written: %v", err))
		ui.Done("")
		return nil
	}
	err = fmt.Errorf("export cache to %s: %w", to, err)
	fail(ui, err)
	return err
}

// cacheExport is one cache on its way.
type cacheExport struct {
	store   *Store
	res     *Result
	to      CacheTo
	sending Sending
	ui      *progress.Step

	encoding Encoding
	src      *content
	draft    sharedcache.Draft
}

func (e *cacheExport) run(ctx context.Context) error {
	dst, err := e.target()
	if err != nil {
		return err
	}
	if c, ok := dst.(interface{ Close() }); ok {
		defer c.Close()
	}
	e.src = e.store.content(&Image{Layers: e.layers()}, fetching(e.ui))
	if err := e.early(ctx, dst); err != nil {
		return err
	}
	select {
	case <-e.sending.Done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := e.compose(ctx); err != nil {
		return err
	}
	if e.draft.Empty() {
		e.ui.Note("nothing to export: no step has a layer")
	} else if _, err = e.draft.Write(ctx, dst, e.src, e.to.entries(), e.copyOptions()); err != nil {
		return err
	}
	return e.saveMounts(ctx)
}

// target opens the place; a layout is made if it is not there.
func (e *cacheExport) target() (remote, error) {
	if e.to.Type == "local" {
		return layout.Create(e.to.Dir, layout.Options{})
	}
	return e.store.place(e.to.CachePlace)
}

// kept reports whether the cache is to hold the layer of a record.
func (e *cacheExport) kept(r *madeRecord) bool { return r.layer.DiffID != "" && (e.to.Max || r.final) }

func (e *cacheExport) layers() (layers []Layer) {
	for i := range e.res.made.records {
		if r := &e.res.made.records[i]; e.kept(r) {
			layers = append(layers, r.layer)
		}
	}
	return layers
}

// early sends the layers that the image does not hold.
func (e *cacheExport) early(ctx context.Context, dst oci.Target) error {
	held := map[digest.Digest]bool{}
	for _, img := range e.res.Image.All() {
		for _, id := range img.diffIDs() {
			held[id] = true
		}
	}
	for _, l := range e.layers() {
		if held[l.DiffID] {
			continue
		}
		d, err := e.store.encode(ctx, e.src, l, e.encoding)
		if err != nil {
			return err
		}
		if err := oci.Copy(ctx, dst, e.src, d, e.copyOptions()); err != nil {
			return err
		}
	}
	return nil
}

// compose puts the index together.
func (e *cacheExport) compose(ctx context.Context) error {
	e.draft.Platform = e.res.Image.Platform
	for i := range e.res.made.records {
		r := &e.res.made.records[i]
		if !e.kept(r) {
			e.draft.Add(r.Record, nil, "")
			continue
		}
		d, err := e.store.encode(ctx, e.src, r.layer, e.encoding)
		if err != nil {
			return err
		}
		e.draft.Add(r.Record, &d, r.layer.DiffID)
	}
	for memo, sum := range e.res.made.notes {
		e.draft.AddNote(memo, sum)
	}
	return nil
}

// copyOptions take blobs from the repositories beside the cache's that have them.
func (e *cacheExport) copyOptions() oci.CopyOptions {
	o := oci.CopyOptions{OnBlob: show(e.ui)}
	if e.to.Type != "registry" {
		return o
	}
	o.MountFrom = func(d oci.Descriptor) []string {
		repos := e.src.mountable(d, e.to.Ref)
		for _, n := range e.sending.Names {
			if ref, err := name.Parse(n); err == nil && ref.Domain == e.to.Ref.Domain && ref.Path != e.to.Ref.Path {
				repos = append(repos, ref.Path)
			}
		}
		return repos
	}
	return o
}
