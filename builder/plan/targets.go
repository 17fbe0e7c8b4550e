package plan

import (
	"io"
	"strings"

	"builder/builder/dockerfile"
)

// TargetsResult lists the stages of a Dockerfile. As JSON it is what BuildKit's frontend answers to
// "frontend.targets".
type TargetsResult struct {
	Targets []TargetInfo `json:"targets"`
	Sources [][]byte     `json:"sources"`
}

// TargetInfo is one stage, as it is written.
type TargetInfo struct {
	Name        string    `json:"name,omitempty"`
	Default     bool      `json:"default,omitempty"` // built when no target is named
	Description string    `json:"description,omitempty"`
	Base        string    `json:"base,omitempty"`
	Platform    string    `json:"platform,omitempty"`
	Location    *Location `json:"location,omitempty"`
}

// Targets lists the stages of f.
func Targets(f *dockerfile.File) (*TargetsResult, error) {
	out := &TargetsResult{Targets: []TargetInfo{}, Sources: [][]byte{f.Source}}
	for i, s := range f.Stages {
		out.Targets = append(out.Targets, TargetInfo{
			Name: s.Name, Default: i == len(f.Stages)-1, Description: s.DocComment,
			Base: s.BaseName, Platform: s.Platform, Location: newLocation(s.Location),
		})
	}
	return out, nil
}

// Print writes t as text, as BuildKit's frontend does.
func (t *TargetsResult) Print(w io.Writer) error {
	rows := [][]string{{"TARGET", "DESCRIPTION"}}
	for _, s := range t.Targets {
		name := s.Name
		if s.Default {
			name = strings.TrimSpace(name + " (default)")
		}
		rows = append(rows, []string{name, s.Description})
	}
	p := &printer{w: w}
	p.columns(1, rows)
	return p.err
}
