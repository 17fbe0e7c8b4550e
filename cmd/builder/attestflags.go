package main

import (
	"slices"
	"strconv"
	"strings"

	"builder/builder"
	"builder/builder/sbom"

	"github.com/spf13/cobra"
)

// defaultBuilderID is who is trusted with a build when nobody says: a builder on the
// user's own machine.
const defaultBuilderID = "urn:x-builder:local"

// attestFlags say what is to be told of an image beside it.
type attestFlags struct {
	provenance, sbom string
	attest           []string
}

func (f *attestFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.provenance, "provenance", "", "attach SLSA provenance to the image: `true`, false, mode=min or mode=max[,builder-id=URI]")
	fl.Lookup("provenance").NoOptDefVal = "true"
	fl.StringVar(&f.sbom, "sbom", "", "attach a list of the image's packages: `true`, false, format=spdx or format=cyclonedx; both where both are given")
	fl.Lookup("sbom").NoOptDefVal = "true"
	fl.StringArrayVar(&f.attest, "attest", nil, "`statement`: type=provenance or type=sbom with what --provenance or --sbom take, or disabled=true")
}

// attested is what the flags ask for.
type attested struct {
	provenance builder.ProvenanceOptions
	sbom       builder.SBOMOptions
}

// options reads the flags; the last word counts, as --provenance and --sbom do over --attest.
func (f *attestFlags) options() (attested, error) {
	o := attested{
		provenance: builder.ProvenanceOptions{BuilderID: defaultBuilderID, Version: version},
		sbom:       builder.SBOMOptions{Version: version},
	}
	for _, v := range f.attest {
		kind, rest, _ := strings.Cut(v, ",")
		if err := o.read(kind, "--attest "+v, rest); err != nil {
			return o, err
		}
	}
	if f.provenance != "" {
		if err := o.read("type=provenance", "--provenance "+f.provenance, f.provenance); err != nil {
			return o, err
		}
	}
	if f.sbom != "" {
		return o, o.read("type=sbom", "--sbom "+f.sbom, f.sbom)
	}
	return o, nil
}

// read takes one value of a flag.
func (o *attested) read(kind, flag, value string) error {
	switch kind {
	case "type=provenance":
		return readProvenance(&o.provenance, flag, value)
	case "type=sbom":
		return readSBOM(&o.sbom, flag, value)
	}
	return usagef("%s: it must begin with type=provenance or type=sbom", flag)
}

// attributes reads "true", "false" or KEY=VALUE,… and gives set each attribute but disabled, which all types have. It
// reports whether anything is asked for.
func attributes(flag, value string, set func(field, key, value string) error) (on bool, err error) {
	if on, err := strconv.ParseBool(value); err == nil {
		return on, nil
	}
	on = true
	for field := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' }) {
		k, v, _ := strings.Cut(field, "=")
		if k != "disabled" {
			if err := set(field, k, v); err != nil {
				return false, err
			}
			continue
		}
		disabled, err := strconv.ParseBool(v)
		if err != nil {
			return false, usagef("%s: %s must be true or false", flag, field)
		}
		on = !disabled
	}
	return on, nil
}

func readSBOM(o *builder.SBOMOptions, flag, value string) error {
	o.Formats = nil
	on, err := attributes(flag, value, func(field, key, value string) error {
		switch key {
		case "format":
			format, err := sbom.ParseFormat(value)
			if err != nil {
				return usagef("%s: %w", flag, err)
			}
			o.Formats = append(o.Formats, format)
			return nil
		case "generator":
			return usagef("%s: a generator is an image to be run; packages are listed without one here, leave it out", flag)
		}
		return usagef("%s: %q must be format=spdx, format=cyclonedx or disabled=true", flag, field)
	})
	switch {
	case err != nil:
		return err
	case !on:
		o.Formats = nil
	case len(o.Formats) == 0:
		o.Formats = []sbom.Format{sbom.SPDX}
	}
	slices.Sort(o.Formats)
	o.Formats = slices.Compact(o.Formats)
	return nil
}

func readProvenance(o *builder.ProvenanceOptions, flag, value string) error {
	o.Mode = "min"
	on, err := attributes(flag, value, func(field, key, value string) error {
		switch {
		case key == "mode" && (value == "min" || value == "max"):
			o.Mode = value
		case key == "builder-id" && value != "":
			o.BuilderID = value
		default:
			return usagef("%s: %q must be mode=min, mode=max, builder-id=URI or disabled=true", flag, field)
		}
		return nil
	})
	if !on {
		o.Mode = ""
	}
	return err
}
