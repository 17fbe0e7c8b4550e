package plan_test

import (
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"builder/builder/plan"
)

// checkLaws checks what holds for every graph.
func checkLaws(t testing.TB, g *plan.Graph, known map[plan.Ref]*plan.Image) {
	t.Helper()
	for i, s := range g.Steps {
		if s.Index != i {
			t.Errorf("step %d has index %d", i, s.Index)
		}
		for _, before := range append([]*plan.Step{s.Parent}, s.Reads...) {
			if before != nil && before.Index >= i {
				t.Errorf("step %d needs step %d", i, before.Index)
			}
		}
		if strings.Contains(s.Text, "\n") {
			t.Errorf("step %d has a text of many lines: %q", i, s.Text)
		}
		checkOp(t, s)
	}
	checkImage(t, g, known)
}

// checkImage checks the config and the history of a graph.
func checkImage(t testing.TB, g *plan.Graph, known map[plan.Ref]*plan.Image) {
	t.Helper()
	above, base := 0, g.Result
	for ; base != nil; base = base.Parent {
		if _, ok := base.Op.(*plan.Base); ok {
			break
		}
		above++
	}
	rows := 0
	for _, h := range g.Image.History[g.BaseHistory:] {
		ours := h.Comment == "buildkit.dockerfile.v0" || h.Comment == plan.ExporterComment
		if !ours || h.Created != nil {
			t.Errorf("history row %+v", h)
		}
		if !h.EmptyLayer {
			rows++
		}
	}
	if rows != above {
		t.Errorf("%d rows of the history are layers, and %d steps", rows, above)
	}
	if base != nil {
		image := known[base.Op.(*plan.Base).Ref].Config
		if !reflect.DeepEqual(image.History, g.Image.History[:g.BaseHistory]) || !reflect.DeepEqual(image.RootFS, g.Image.RootFS) {
			t.Error("history or layers of the base changed")
		}
	}
	if g.Image.Created != nil {
		t.Error("the base's creation time is kept")
	}
}

// checkOp checks that a step reads what its operation says, and nothing else.
func checkOp(t testing.TB, s *plan.Step) {
	t.Helper()
	var froms []plan.From
	switch op := s.Op.(type) {
	case *plan.Copy:
		for _, src := range op.Sources() {
			froms = append(froms, src.From)
			if len(src.Paths) == 0 {
				t.Errorf("step %d has a source without paths", s.Index)
			}
		}
	case *plan.Run:
		if op.Security != plan.SecuritySandbox && op.Security != plan.SecurityInsecure {
			t.Errorf("step %d has the security %q", s.Index, op.Security)
		}
		for _, m := range op.Mounts {
			froms = append(froms, m.From)
			checkMount(t, s, m)
		}
	case *plan.Base, *plan.HTTP, *plan.Git:
		if s.Parent != nil || s.Reads != nil {
			t.Errorf("step %d rests on something", s.Index)
		}
	}
	var reads []*plan.Step
	for _, from := range froms {
		if !from.Tree && from.Step != nil || from.Tree && from.Context != "" {
			t.Errorf("step %d reads a tree and a context", s.Index)
		}
		if from.Step != nil && !slices.Contains(reads, from.Step) {
			reads = append(reads, from.Step)
		}
	}
	if !slices.Equal(reads, s.Reads) {
		t.Errorf("step %d reads %v and says %v", s.Index, reads, s.Reads)
	}
}

func checkMount(t testing.TB, s *plan.Step, m plan.Mount) {
	t.Helper()
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if m.Target == dir || strings.HasPrefix(m.Target, dir+"/") {
			t.Errorf("step %d mounts %s", s.Index, m.Target)
		}
	}
	if m.Target == "" && (m.Kind != plan.SecretMount || m.Env == "") || m.Target != "" && (m.Target == "/" || m.Target[0] != '/' || m.Target != path.Clean(m.Target)) {
		t.Errorf("step %d mounts %q", s.Index, m.Target)
	}
	if m.Source != "" && (m.Source[0] != '/' || m.Source != path.Clean(m.Source)) {
		t.Errorf("step %d mounts from %q", s.Index, m.Source)
	}
	if (m.ID == "") != (m.Kind == plan.BindMount || m.Kind == plan.TmpfsMount) || (m.Sharing == "") != (m.Kind != plan.CacheMount) {
		t.Errorf("step %d mounts %+v", s.Index, m)
	}
}
