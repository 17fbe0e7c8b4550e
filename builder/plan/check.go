package plan

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"builder/builder/dockerfile"
)

// Check returns what the lint rules say of the stages that the target needs, or of every stage when none is
// named. It plans as far as it can: the error is why it stopped, or that the check options take warnings for
// errors, and the warnings found until then are returned with it. Every image that [Refs] asks for, with
// Options.AllStages when no target is named, must be in known.
func Check(f *dockerfile.File, o Options, known map[Ref]*Image) ([]dockerfile.Warning, error) {
	o.AllStages = o.AllStages || o.Target == ""
	p, err := newPlanner(f, o, known)
	if err != nil {
		return f.Warnings, err
	}
	if err = p.plan(); err == nil {
		err = p.file.LintError()
	}
	return p.file.Warnings, err
}

// CheckResult is what a check found. As JSON it is what BuildKit's frontend answers to "frontend.lint".
type CheckResult struct {
	Warnings []CheckWarning `json:"warnings"`
	Sources  []CheckSource  `json:"sources"`
	Error    *CheckError    `json:"buildError,omitempty"`
}

// CheckWarning is what one rule says of one place.
type CheckWarning struct {
	RuleName    string   `json:"ruleName"`
	Description string   `json:"description,omitempty"`
	URL         string   `json:"url,omitempty"`
	Detail      string   `json:"detail,omitempty"`
	Location    Location `json:"location"`

	at dockerfile.Range
}

// CheckSource is a file that was checked.
type CheckSource struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

// CheckError is why the Dockerfile cannot be built.
type CheckError struct {
	Message  string   `json:"message"`
	Location Location `json:"location"`

	at dockerfile.Range
}

// NewCheckResult gathers what [Check] or else [dockerfile.Parse] said of a file. The warnings are sorted by
// their place.
func NewCheckResult(name string, source []byte, warnings []dockerfile.Warning, err error) *CheckResult {
	out := &CheckResult{
		Warnings: []CheckWarning{},
		Sources:  []CheckSource{{Filename: name, Data: source, Language: "Dockerfile"}},
	}
	for _, w := range warnings {
		out.Warnings = append(out.Warnings, CheckWarning{
			RuleName: w.Rule, Description: w.Description, URL: w.URL, Detail: w.Message, Location: lines(w.Range), at: w.Range,
		})
	}
	slices.SortStableFunc(out.Warnings, func(a, b CheckWarning) int { return a.at.Start - b.at.Start })
	var placed *dockerfile.Error
	switch {
	case errors.As(err, &placed):
		out.Error = &CheckError{Message: placed.Err.Error(), Location: lines(placed.Range), at: placed.Range}
	case err != nil:
		out.Error = &CheckError{Message: err.Error()}
	}
	return out
}

// OK says that there is nothing to complain about.
func (r *CheckResult) OK() bool { return len(r.Warnings) == 0 && r.Error == nil }

// Print writes r as text, as `docker buildx build --check` does.
func (r *CheckResult) Print(w io.Writer) error {
	text := ""
	switch n := len(r.Warnings); {
	case n == 1:
		text = "Check complete, 1 warning has been found!\n"
	case n > 1:
		text = fmt.Sprintf("Check complete, %d warnings have been found!\n", n)
	case r.Error == nil:
		text = "Check complete, no warnings found.\n"
	}
	for _, warning := range r.Warnings {
		text += "\nWARNING: " + warning.RuleName
		if warning.URL != "" {
			text += " - " + warning.URL
		}
		text += "\n" + dockerfile.Visible(warning.Detail) + "\n" + r.quote(warning.at)
	}
	if r.Error != nil {
		if len(r.Warnings) > 0 {
			text += "\n"
		}
		text += dockerfile.Visible(r.Error.Message) + "\n" + r.quote(r.Error.at)
	}
	_, err := io.WriteString(w, text)
	return err
}

func (r *CheckResult) quote(at dockerfile.Range) string {
	return dockerfile.Quote(r.Sources[0].Filename, r.Sources[0].Data, at)
}
