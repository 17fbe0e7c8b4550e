package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"builder/builder"
	"builder/builder/dockerfile"
	"builder/builder/progress"
	"builder/oci"

	"github.com/containerd/platforms"
)

// sending is what is to be done with the result of a build.
type sending struct {
	outputs []builder.Output
	caches  []builder.CacheTo
}

// newPush is the push that --push or an output asks for, nil if none does.
func (f *buildFlags) newPush(s *builder.Store, o builder.BuildOptions, outputs []builder.Output) (*builder.Push, error) {
	out, push := f.imageOutput(o, outputs)
	if f.push && len(out.Names) == 0 {
		return nil, usagef("--push needs a name: -t REGISTRY/NAME[:TAG]")
	}
	if out.Untagged && len(o.Names) > 0 {
		return nil, usagef("push-by-digest=true: leave out -t %s; the digest is the only name there", o.Names[0])
	}
	if !push || len(out.Names) == 0 {
		return nil, nil
	}
	return s.NewPush(out.Names, out.ManifestOptions, o.Progress)
}

// send exports to every output and pushes every name. It returns what the metadata
// file tells of that.
func (f *buildFlags) send(ctx context.Context, g *global, s *builder.Store, img *builder.Image, o builder.BuildOptions, outputs []builder.Output) (map[string]any, error) {
	meta := map[string]any{"containerimage.config.digest": img.ID()}
	if out, _ := f.imageOutput(o, outputs); len(out.Names) > 0 {
		meta["image.name"] = strings.Join(out.Names, ",")
	}
	addProvenance(meta, img)
	for _, out := range outputs {
		if len(out.Names) == 0 {
			out.Names = o.Names
		}
		desc, err := s.Export(ctx, img, out, g.out, o.Progress)
		if err != nil {
			return nil, err
		}
		addDescriptor(meta, desc)
	}
	if o.Push == nil {
		return meta, nil
	}
	desc, err := o.Push.Finish(ctx, img)
	if err != nil {
		return nil, err
	}
	addDescriptor(meta, desc)
	return meta, nil
}

// addDescriptor adds what names the manifest or index that was sent; the last one counts.
func addDescriptor(meta map[string]any, desc oci.Descriptor) {
	if desc.Digest != "" {
		meta["containerimage.digest"] = desc.Digest
		meta["containerimage.descriptor"] = desc
	}
}

// addProvenance adds what buildx calls "buildx.build.provenance"; for several platforms
// each has its own.
func addProvenance(meta map[string]any, img *builder.Image) {
	for _, one := range img.All() {
		key := "buildx.build.provenance"
		if len(img.Others) > 0 {
			key += "/" + platforms.Format(one.Platform)
		}
		if p := one.Provenance(); p != nil {
			meta[key] = p
		}
	}
}

// checkAttested refuses statements about the image that have no place to go.
func (f *buildFlags) checkAttested(o builder.BuildOptions, outputs []builder.Output) error {
	goes := o.Push != nil
	for _, out := range outputs {
		goes = goes || out.Type == "oci" || out.Type == "local" || out.Type == "tar"
	}
	switch {
	case goes:
	case o.Provenance.Mode != "" && f.metadataFile == "":
		return usagef("--provenance has no place to go: add --push, -o type=oci|local|tar,dest=PATH or --metadata-file FILE")
	case len(o.SBOM.Formats) > 0:
		return usagef("--sbom has no place to go: add --push or -o type=oci|local|tar,dest=PATH, or ask `builder sbom IMAGE` later")
	}
	return nil
}

func (f *buildFlags) writeFiles(img *builder.Image, meta map[string]any) error {
	if err := writeResult("--iidfile", f.iidFile, []byte(img.ID())); err != nil {
		return err
	}
	b, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return err
	}
	return writeResult("--metadata-file", f.metadataFile, append(b, '\n'))
}

// writeResult writes the file that a flag names, if it names one.
func writeResult(flag, path string, data []byte) error {
	if path == "" {
		return nil
	}
	err := builder.WriteBeside(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

func toStdout(outputs []builder.Output) bool {
	for _, o := range outputs {
		if o.Dest == "-" {
			return true
		}
	}
	return false
}

// summarise ends the build with what a user wants to know next.
func (f *buildFlags) summarise(w io.Writer, s *builder.Store, o builder.BuildOptions, res *builder.Result) {
	if mode, _ := progress.ParseMode(f.progress); mode == progress.Quiet || mode == progress.RawJSON {
		return
	}
	for _, warning := range res.Warnings {
		fmt.Fprintln(w, warningLine(warning))
	}
	shown := res.Image.ShortID()
	if len(o.Names) > 0 {
		shown = strings.Join(o.Names, ", ")
	}
	fmt.Fprintf(w, "built %s in %s: %d of %d steps run; kept in %s\n",
		shown, res.Took.Round(time.Millisecond), res.Ran, res.Steps, s.Root())
}

func warningLine(warning dockerfile.Warning) string {
	line := "warning: "
	if warning.Rule != "" {
		line += warning.Rule + ": "
	}
	line += warning.Message
	if warning.Range.Start > 0 {
		line += fmt.Sprintf(" (line %d)", warning.Range.Start)
	}
	return line
}
