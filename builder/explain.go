package builder

import (
	"errors"
	"fmt"
	"path/filepath"

	"builder/builder/cache"
	"builder/builder/plan"
)

// slots are the names under which a step's inputs are kept for the build after this
// one: by what the line says, and by its place, for a line that was edited. A COPY is
// also known by the directory that it is built in, "" for none that lasts: other projects
// have lines that say the same.
type slots struct{ line, place, here string }

// slotsOf names the steps' lines. Equal lines of a stage are told apart by number.
func (b *build) slotsOf(steps []*plan.Step) []slots {
	seen := map[string]int{}
	number := func(name string) string {
		seen[name]++
		return fmt.Sprintf("%s\n%d", name, seen[name])
	}
	home, err := filepath.Abs(b.main.dir)
	lasts := err == nil && !b.main.remote
	out := make([]slots, len(steps))
	for i, s := range steps {
		stage := b.file.Name + "\n" + s.Stage
		out[i] = slots{line: number(stage + "\n" + s.Text), place: number(stage)}
		if _, ok := s.Op.(*plan.Copy); ok && lasts {
			out[i].here = home + "\n" + out[i].line
		}
	}
	return out
}

// noteLast keeps the inputs of this build for --explain in the next.
func (b *build) noteLast(s *plan.Step, key cache.Key) error {
	at := b.slots[s.Index]
	err := errors.Join(b.store.cache.SetLast(at.line, key), b.store.cache.SetLast(at.place, key))
	if at.here != "" {
		err = errors.Join(err, b.store.cache.SetLast(at.here, key))
	}
	return err
}

// explainSource tells which other machine's cache a step was taken from.
func (b *build) explainSource(s *plan.Step, rec *cache.Record) {
	if !b.o.Explain || rec.Tree != "" {
		return
	}
	if l, ok := rec.Layer(b.epoch); ok {
		b.ui[s.Index].Note("from the cache " + shownPlace(l.From))
		return
	}
	b.ui[s.Index].Note("known from a cache that has no layer of it")
}

// explain tells what of the step's inputs is not as it was in the last build of the
// same line; reason is what there is to say when nothing is known of one.
func (b *build) explain(s *plan.Step, in *cache.Inputs, reason string) {
	if !b.o.Explain {
		return
	}
	old, err := b.store.cache.Last(b.slots[s.Index].line)
	if err != nil {
		old, err = b.store.cache.Last(b.slots[s.Index].place)
	}
	changes := []string{reason}
	if err == nil {
		if diff := in.Diff(old, b.filesDiff(s, old)); len(diff) > 0 {
			changes = diff
		}
	}
	for _, c := range changes {
		b.ui[s.Index].Note("not cached: " + c)
	}
}

// filesDiff tells how the files that a COPY reads differ from those that it read with the
// inputs old.
func (b *build) filesDiff(s *plan.Step, old *cache.Inputs) []string {
	sel, was := b.selectedBy(s), old.Value(cache.FilesInput)
	if sel == nil || sel.sum == "" || was == "" || was == string(sel.sum) {
		return nil
	}
	return b.store.cache.DiffFiles(was, sel.Files())
}
