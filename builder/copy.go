package builder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"builder/builder/copier"
	"builder/builder/plan"
	"builder/oci/layer"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
)

// filesRead is the digest of exactly the files that a COPY reads. The tree of a stage
// whose content is known is not read twice: its digest is remembered.
func (b *build) filesRead(ctx context.Context, s *plan.Step, op *plan.Copy) (digest.Digest, error) {
	memo, err := b.filesName(ctx, op)
	if err != nil {
		return "", err
	}
	if sum := b.recall(memo); sum != "" {
		return sum, nil
	}
	sel, err := b.list(ctx, s, op)
	if err != nil {
		return "", err
	}
	if sel.sum, err = sel.Digest(ctx); err != nil {
		return "", err
	}
	if memo != "" {
		err = b.store.cache.Remember(memo, sel.sum)
	}
	return sel.sum, err
}

// recall is the digest that this store or another machine's cache has noted under a
// name; "" if none has.
func (b *build) recall(name string) (sum digest.Digest) {
	if name == "" || b.store.cache.Recall(name, &sum) == nil {
		return sum
	}
	return b.imports.note(name)
}

// filesName names a selection of files of trees whose content is known already; "" when
// it is not, or when some are those of a context, which may change.
func (b *build) filesName(ctx context.Context, op *plan.Copy) (string, error) {
	name := []string{op.Chown, op.Chmod, op.Dest, fmt.Sprint(op.Parents), canonical(op.Exclude)}
	for _, src := range op.Sources() {
		if !src.From.Tree || src.From.Step == nil || !b.results[src.From.Step.Index].known() {
			return "", nil
		}
		chain, err := b.chain(ctx, src.From.Step)
		if err != nil {
			return "", err
		}
		name = append(name, string(chain), fmt.Sprint(src.Unpack), canonical(src.Paths))
	}
	return canonical(name), nil
}

// selection is what a COPY reads. key makes it; do, which alone knows the tree that it
// goes to, fills in the rest and copies.
type selection struct {
	*copier.Listing
	owner *copier.Owner // of everything copied; nil when there is no --chown
	draft *snapshot.Draft
	late  *copier.Late  // the files whose data packing copies; nil before the copy
	sum   digest.Digest // of the files; "" when they were not digested
}

// selectedBy is what a COPY reads; nil when it was not asked for, or let go of.
func (b *build) selectedBy(s *plan.Step) *selection {
	b.selectedMu.Lock()
	defer b.selectedMu.Unlock()
	return b.selected[s.Index]
}

// unselect lets go of what a COPY reads: it may be large, and other steps come.
func (b *build) unselect(s *plan.Step) {
	b.selectedMu.Lock()
	defer b.selectedMu.Unlock()
	delete(b.selected, s.Index)
}

// list selects the files of a COPY, once.
func (b *build) list(ctx context.Context, s *plan.Step, op *plan.Copy) (*selection, error) {
	if sel := b.selectedBy(s); sel != nil {
		return sel, nil
	}
	sel := &selection{}
	req, err := b.request(ctx, op, sel)
	if err != nil {
		return nil, err
	}
	if sel.Listing, err = copier.List(ctx, req); err != nil {
		return nil, err
	}
	b.selectedMu.Lock()
	b.selected[s.Index] = sel
	b.selectedMu.Unlock()
	return sel, nil
}

// request says in the copier's words what a COPY selects.
func (b *build) request(ctx context.Context, op *plan.Copy, sel *selection) (copier.Request, error) {
	req := copier.Request{
		Dest: op.Dest, Dir: "/", Chmod: op.Chmod, Link: op.Link, Parents: op.Parents, Exclude: op.Exclude,
	}
	for _, f := range op.Inline {
		req.Inline = append(req.Inline, copier.File{Name: f.Name, Data: f.Data})
	}
	if op.Chown != "" {
		sel.owner = &copier.Owner{}
		req.Owner = sel.owner
	}
	for _, from := range op.Sources() {
		src, err := b.source(ctx, from.From)
		if err != nil {
			return req, err
		}
		src.Paths, src.Packed = from.Paths, !from.Unpack
		if from.Unpack {
			req.Extract = sel.extract
		}
		req.Sources = append(req.Sources, src)
	}
	return req, nil
}

// extract unpacks an archive that ADD found, into a directory of the tree.
func (sel *selection) extract(ctx context.Context, f *os.File, dir string) error {
	o := layer.ExtractOptions{Dir: dir}
	if sel.owner != nil {
		o.Owner = &layer.Owner{UID: sel.owner.UID, GID: sel.owner.GID}
	}
	return extractFile(ctx, f, sel.draft, o)
}

// extractFile unpacks an archive into a draft, and no more of it than its size can honestly hold.
func extractFile(ctx context.Context, f *os.File, draft *snapshot.Draft, o layer.ExtractOptions) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	plain, _, err := layer.DecompressAny(f)
	if err != nil {
		return err
	}
	o.Limits = layer.LimitsFor(st.Size())
	return errors.Join(layer.Extract(ctx, plain, draft.Upper(), draft.Lower(), o), plain.Close())
}

// source is the tree that a COPY reads.
func (b *build) source(ctx context.Context, from plan.From) (copier.Source, error) {
	if !from.Tree {
		c := b.contexts[from.Context]
		c.memo.Warm()
		src := copier.Source{
			Owned: from.Context == "" && b.main.owned,
			Name:  c.name, Tree: c.dir.Tree(), WhyHidden: c.whyHidden, Sum: c.memo.Sum,
		}
		if len(c.ignore.Patterns) > 0 {
			src.Exclude = c.dir.Excluded
		}
		return src, nil
	}
	src := copier.Source{Name: "an empty tree", Owned: true}
	if from.Step == nil {
		return src, nil
	}
	src.Name = from.Step.Stage
	tree, err := b.tree(ctx, from.Step)
	if err != nil {
		return src, err
	}
	src.Tree, err = b.store.trees.Stack(tree)
	return src, err
}

// copy does a COPY or ADD.
func (b *build) copy(ctx context.Context, s *plan.Step, op *plan.Copy, draft *snapshot.Draft) error {
	sel, err := b.list(ctx, s, op)
	if err != nil {
		return err
	}
	sel.draft = draft
	if sel.owner != nil {
		u, err := owner(draft.Lower(), op.Chown)
		if err != nil {
			return err
		}
		*sel.owner = copier.Owner{UID: u.UID, GID: u.GID}
	}
	if err := b.keepFiles(sel); err != nil {
		return err
	}
	defer func() { sel.Listing = nil }() // it may be large, and packing comes
	base := b.compare(s, sel)
	if b.leaks.idle() {
		sel.late, err = sel.CopyLate(ctx, draft.Upper(), draft.Lower())
	} else { // packing has to look for secrets, in a tree that is whole
		err = sel.Copy(ctx, draft.Upper(), draft.Lower())
	}
	if err != nil {
		return err
	}
	if sel.Differs() {
		return draft.Share(base)
	}
	if b.slots[s.Index].here == "" {
		return nil
	}
	return writeTrace(sel, draft)
}

// compare lets a COPY leave out what is as it was in the last build of the same line, and returns the snapshot that it then
// shares; "" if there is none.
func (b *build) compare(s *plan.Step, sel *selection) snapshot.ID {
	here := b.slots[s.Index].here
	if here == "" || b.uncached(s) {
		return ""
	}
	key, err := b.store.cache.LastKey(here)
	if err != nil {
		return ""
	}
	rec, err := b.store.cache.Get(key)
	if err != nil {
		return ""
	}
	base, ok := sel.draft.Sharable(rec.Tree)
	if !ok {
		return ""
	}
	dirs, _, err := b.store.trees.Layer(base)
	if err != nil {
		return ""
	}
	sel.Compare(copier.Earlier{Upper: dirs[0], Trace: b.store.trees.Note(base)})
	return base
}

// writeTrace keeps with the draft what a later COPY can be compared by.
func writeTrace(sel *selection, draft *snapshot.Draft) error {
	if !sel.HasTrace() {
		return nil
	}
	f, err := os.OpenFile(draft.Note(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	return errors.Join(sel.WriteTrace(w), w.Flush(), f.Close())
}

// keepFiles keeps what the files that are read look like, for --explain in a later build.
func (b *build) keepFiles(sel *selection) error {
	if sel.sum == "" {
		return nil
	}
	if err := b.leaks.inFiles(sel.Files()); err != nil {
		return err
	}
	return b.store.cache.PutFiles(string(sel.sum), sel.Files())
}

// packLate packs the change of a COPY that left data of large files to be copied: their
// bytes are hashed on the way, and read once. It is nil when there are none.
func (b *build) packLate(ctx context.Context, s *plan.Step, draft *snapshot.Draft) (*layer.Packed, error) {
	sel := b.selectedBy(s)
	b.unselect(s)
	if sel == nil || sel.late == nil {
		return nil, nil
	}
	defer sel.late.Close()
	if sel.late.Len() == 0 {
		return nil, nil
	}
	epoch, err := parseEpoch(b.epoch)
	if err != nil {
		return nil, err
	}
	t := layer.Times{Epoch: epoch, Since: draft.Began(), All: copied(s.Op)}
	packed, err := layer.PackFrom(ctx, io.Discard, draft.Change(), draft.Lower(), t,
		func(path string) (io.ReadCloser, *copier.Content, error) { return sel.late.Open(path) })
	if n := sel.late.Len(); err == nil && n > 0 {
		err = fmt.Errorf("%d of the files copied were not packed", n)
	}
	return &packed, err
}
