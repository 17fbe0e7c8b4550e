package builder

import (
	"fmt"

	"builder/builder/progress"
	"builder/overlay"
	"builder/snapshot"
)

// Snapshotter is how a command gets to see a tree that it may change. Layers are the same either way.
type Snapshotter string

const (
	// AutoSnapshotter is OverlaySnapshotter where that works, else NativeSnapshotter. It is what "" means.
	AutoSnapshotter Snapshotter = "auto"
	// OverlaySnapshotter mounts overlayfs.
	OverlaySnapshotter Snapshotter = "overlay"
	// NativeSnapshotter copies the tree, sharing blocks where the file system can, and compares afterwards.
	NativeSnapshotter Snapshotter = "native"
)

// ParseSnapshotter reads the value of a flag.
func ParseSnapshotter(value string) (Snapshotter, error) {
	switch s := Snapshotter(value); s {
	case "":
		return AutoSnapshotter, nil
	case AutoSnapshotter, OverlaySnapshotter, NativeSnapshotter:
		return s, nil
	}
	return "", fmt.Errorf("%q: it must be auto, overlay or native", value)
}

// Snapshotter chooses, and says why if it is the native one. What the machine can do is tried once for a store.
func (s *Store) Snapshotter(want Snapshotter) (chosen Snapshotter, why string) {
	switch want {
	case OverlaySnapshotter:
		return want, ""
	case NativeSnapshotter:
		return want, "asked for"
	}
	s.overlayOnce.Do(func() { s.overlayErr = s.tryOverlay() })
	if s.overlayErr != nil {
		return NativeSnapshotter, s.overlayErr.Error()
	}
	return OverlaySnapshotter, ""
}

// tryOverlay mounts an overlay in the store.
func (s *Store) tryOverlay() error {
	return s.inDraft(func(d *snapshot.Draft) error { return overlay.Check(d.Scratch()) })
}

// copies tells whether commands work in copies of their trees, and says so once in a build.
func (b *build) copies(ui *progress.Step) bool {
	chosen, why := b.store.Snapshotter(b.o.Sandbox.Snapshotter)
	if chosen != NativeSnapshotter {
		return false
	}
	b.copiesSaid.Do(func() { ui.Note(copiesNote(why)) })
	return true
}

func copiesNote(why string) string {
	return "snapshotter native: each command works in a copy of its tree, which is slow (" + why + ")"
}
