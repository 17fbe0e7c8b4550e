package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"builder/builder/cache"
	"builder/builder/cachemount"
	"builder/builder/copier"
	"builder/builder/plan"
	"builder/builder/progress"
	"builder/builder/sandbox"
	"builder/builder/sshagent"
	"builder/overlay"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
)

// mounts are what a RUN finds at some of its paths while it runs, and what has to be
// undone when it is over.
type mounts struct {
	b  *build
	ui *progress.Step

	copies bool // trees are copied, not mounted

	list  []sandbox.Mount
	env   []string // variables that secrets and the agent set
	agent bool     // SSH_AUTH_SOCK is set: the first agent's counts
	undo  []func() error
}

func (m *mounts) close() error {
	var errs []error
	for _, f := range slices.Backward(m.undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// addAll makes ready what every --mount asks for, in their order. Caches are taken
// together, so that two steps which lock the same ones never wait for each other.
func (m *mounts) addAll(ctx context.Context, wanted []plan.Mount) error {
	caches, err := m.useCaches(ctx, wanted)
	if err != nil {
		return err
	}
	for i := range wanted {
		w := &wanted[i]
		if w.Kind == plan.CacheMount {
			m.list = append(m.list, sandbox.Mount{Kind: sandbox.BindMount, Target: w.Target, Source: caches[0].Path, ReadOnly: w.ReadOnly})
			caches = caches[1:]
			continue
		}
		if err := m.add(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// add makes ready what one --mount asks for, if that is no cache.
func (m *mounts) add(ctx context.Context, w *plan.Mount) error {
	switch w.Kind {
	case plan.BindMount:
		return m.bind(ctx, w)
	case plan.TmpfsMount:
		m.list = append(m.list, sandbox.Mount{Kind: sandbox.TmpfsMount, Target: w.Target, Size: w.Size})
		return nil
	case plan.SecretMount:
		return m.secret(w)
	case plan.SSHMount:
		return m.ssh(w)
	}
	return fmt.Errorf("a mount of type %s cannot be done", w.Kind)
}

// bind mounts a part of another tree. What is written to it goes to a directory that is
// thrown away.
func (m *mounts) bind(ctx context.Context, w *plan.Mount) error {
	tree, err := m.b.bindTree(ctx, w)
	if err != nil {
		return err
	}
	mount := sandbox.Mount{Kind: sandbox.TreeMount, Target: w.Target, Tree: tree, Path: w.Source, ReadOnly: w.ReadOnly}
	if !w.ReadOnly || m.copies {
		if mount.Upper, mount.Work, err = m.throwaway(); err != nil {
			return err
		}
	}
	m.list = append(m.list, mount)
	return nil
}

// throwaway makes an upper directory that goes away with the step.
func (m *mounts) throwaway() (upper, work string, err error) {
	d, err := m.b.store.trees.Begin("")
	if err != nil {
		return "", "", err
	}
	m.undo = append(m.undo, d.Discard)
	return d.Upper(), d.Work(), nil
}

// bindTree is the tree that a bind mount shows. A context is shown as COPY would copy
// it: without what the ignore file hides, owned by root. That copy is kept under its
// content, so that it is made once for many steps and builds.
func (b *build) bindTree(ctx context.Context, w *plan.Mount) (overlay.Stack, error) {
	if w.From.Tree {
		id, err := b.tree(ctx, w.From.Step)
		if err != nil {
			return nil, err
		}
		return b.store.trees.Stack(id)
	}
	l, sum, err := b.selectMount(ctx, w)
	if err != nil {
		return nil, err
	}
	id := snapshot.ID("context-" + sum.Encoded()[:40])
	if !b.store.trees.Has(id) {
		if err := b.keepContext(ctx, l, id); err != nil {
			return nil, err
		}
	}
	return b.store.trees.Stack(id)
}

// keepContext makes the snapshot of what l lists, unless another build does.
func (b *build) keepContext(ctx context.Context, l *copier.Listing, id snapshot.ID) error {
	claim, err := b.store.lease.Claim(ctx, "tree "+string(id), nil)
	if err != nil {
		return err
	}
	defer claim.Release()
	if b.store.trees.Has(id) {
		return nil
	}
	d, err := b.store.trees.Begin("")
	if err != nil {
		return err
	}
	defer d.Discard()
	if err := l.Copy(ctx, d.Upper(), d.Lower()); err != nil {
		return err
	}
	_, err = d.Commit(id)
	return err
}

// selectMount selects what a bind mount shows of its source, and digests it.
func (b *build) selectMount(ctx context.Context, w *plan.Mount) (*copier.Listing, digest.Digest, error) {
	src, err := b.source(ctx, w.From)
	if err != nil {
		return nil, "", err
	}
	src.Paths = []string{w.Source}
	l, err := copier.List(ctx, copier.Request{Sources: []copier.Source{src}, Dest: w.Source, Dir: "/"})
	if err != nil {
		return nil, "", err
	}
	sum, err := l.Digest(ctx)
	return l, sum, err
}

// mountKey lists what a step's result depends on through a mount: the content that it
// can see, but of caches, secrets and agents only their names and attributes, and what a
// cache begins with. What is as usual is not listed.
func (b *build) mountKey(ctx context.Context, in *cache.Inputs, w *plan.Mount) error {
	name := fmt.Sprintf("mount %s %s", w.Kind, w.Target)
	in.Add(name, fmt.Sprintf("%v %v %s %d:%d", w.ReadOnly, w.Required, w.Env, w.UID, w.GID))
	if w.Mode != nil {
		in.Add(name+" mode", fmt.Sprintf("%04o", *w.Mode))
	}
	switch w.Kind {
	case plan.SecretMount, plan.SSHMount:
		in.Add(name+" id", w.ID)
	case plan.CacheMount:
		if w.ID != w.Target {
			in.Add(name+" id", w.ID)
		}
		if seeded(w) {
			return b.mountSource(ctx, in, name, w)
		}
	case plan.TmpfsMount:
		in.Add(name+" size", fmt.Sprint(w.Size))
	case plan.BindMount:
		return b.mountSource(ctx, in, name, w)
	}
	return nil
}

// seeded tells whether a cache mount begins with what another tree has.
func seeded(w *plan.Mount) bool { return w.From.Step != nil || !w.From.Tree }

// mountSource lists what is mounted, or what a cache begins with.
func (b *build) mountSource(ctx context.Context, in *cache.Inputs, name string, w *plan.Mount) error {
	sum, err := b.mountSum(ctx, w)
	if err != nil {
		return err
	}
	in.Add(name+" source", w.Source)
	in.Add(mountContent(w), string(sum))
	return nil
}

// mountContent is the name of the input that stands for what a bind mount shows.
func mountContent(w *plan.Mount) string { return fmt.Sprintf("mount %s %s content", w.Kind, w.Target) }

// mountSum is the digest of what a bind mount shows. As with COPY, the tree of a stage
// whose content is known is not read twice.
func (b *build) mountSum(ctx context.Context, w *plan.Mount) (digest.Digest, error) {
	memo, err := b.mountName(ctx, w)
	if err != nil {
		return "", err
	}
	if sum := b.recall(memo); sum != "" {
		return sum, nil
	}
	_, sum, err := b.selectMount(ctx, w)
	if err == nil && memo != "" {
		err = b.store.cache.Remember(memo, sum)
	}
	return sum, err
}

// mountName names what a bind mount shows of a tree whose content is known already; ""
// when it is not, or when it shows a context.
func (b *build) mountName(ctx context.Context, w *plan.Mount) (string, error) {
	if !w.From.Tree || w.From.Step == nil || !b.results[w.From.Step.Index].known() {
		return "", nil
	}
	chain, err := b.chain(ctx, w.From.Step)
	return canonical([]string{"mount", string(chain), w.Source}), err
}

// useCaches takes the directories that outlive the build.
func (m *mounts) useCaches(ctx context.Context, wanted []plan.Mount) ([]*cachemount.Mount, error) {
	var requests []cachemount.Request
	for i := range wanted {
		w := &wanted[i]
		if w.Kind != plan.CacheMount {
			continue
		}
		req := cachemount.Request{
			ID: w.ID, Sharing: cachemount.Sharing(w.Sharing), UID: w.UID, GID: w.GID, Mode: modeOr(w.Mode, 0), Waiting: m.ui.Note,
		}
		if req.Dir = m.b.o.CacheMounts[w.ID]; req.Dir == "" {
			req.Restore = m.b.restorer(w.ID)
		}
		if req.Dir == "" && seeded(w) {
			tree, err := m.b.bindTree(ctx, w)
			if err != nil {
				return nil, err
			}
			sum, err := m.b.mountSum(ctx, w)
			if err != nil {
				return nil, err
			}
			req.Seed, req.SeedPath, req.Begin = tree, w.Source, string(sum)
		}
		requests = append(requests, req)
	}
	caches, err := m.b.store.mounts.UseAll(ctx, requests)
	for _, c := range caches {
		m.undo = append(m.undo, c.Close)
	}
	return caches, err
}

// secret mounts a secret's value as a file in memory, or sets a variable, or both.
func (m *mounts) secret(w *plan.Mount) error {
	value, ok := m.b.o.Secrets.Get(w.ID)
	if !ok {
		if w.Required {
			return fmt.Errorf("secret %s: not found: give it with --secret id=%s,src=FILE or env=NAME", w.ID, w.ID)
		}
		return nil
	}
	if w.Env != "" {
		m.env = append(m.env, w.Env+"="+string(value))
	}
	if w.Target == "" {
		return nil
	}
	m.list = append(m.list, sandbox.Mount{
		Kind: sandbox.FileMount, Target: w.Target, Data: value, Mode: modeOr(w.Mode, 0o400), UID: w.UID, GID: w.GID, ReadOnly: true,
	})
	return nil
}

// ssh mounts the socket of an agent and says where it is.
func (m *mounts) ssh(w *plan.Mount) error {
	agent, ok := m.b.o.SSH.Get(w.ID)
	if !ok {
		if w.Required {
			return fmt.Errorf("ssh agent %s: not found: give it with --ssh %s", w.ID, w.ID)
		}
		return nil
	}
	d, err := m.b.store.trees.Begin("")
	if err != nil {
		return err
	}
	m.undo = append(m.undo, d.Discard)
	socket, err := agent.Listen(d.Scratch(), sshagent.Access{Mode: modeOr(w.Mode, 0o600), UID: w.UID, GID: w.GID})
	if err != nil {
		return err
	}
	m.undo = append(m.undo, socket.Close)
	m.list = append(m.list, sandbox.Mount{Kind: sandbox.BindMount, Target: w.Target, Source: socket.Path})
	if !m.agent {
		m.env = append(m.env, "SSH_AUTH_SOCK="+w.Target)
	}
	m.agent = true
	return nil
}

func modeOr(mode *uint32, usual uint32) uint32 {
	if mode != nil {
		return *mode
	}
	return usual
}
