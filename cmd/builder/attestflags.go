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
	fl.StringArrayVar(&f.attest, "attest", nil, "`type=provenance|sbom,…` with what --provenance or --sbom take, or disabled=true")
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

// readSBOM reads "true", "false" or attributes.
func readSBOM(o *builder.SBOMOptions, flag, value string) error {
	o.Formats = nil
	on, err := strconv.ParseBool(value)
	if err == nil && !on {
		return nil
	}
	if err == nil {
		value = ""
	}
	disabled := false
	for field := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' }) {
		k, v, _ := strings.Cut(field, "=")
		switch k {
		case "format":
			format, err := sbom.ParseFormat(v)
			if err != nil {
				return usagef("%s: %w", flag, err)
			}
			o.Formats = append(o.Formats, format)
		case "disabled":
			if disabled, err = strconv.ParseBool(v); err != nil {
				return usagef("%s: %s must be true or false", flag, field)
			}
		case "generator":
			return usagef("%s: a generator is an image to be run; packages are listed without one here, leave it out", flag)
		default:
			return usagef("%s: %q must be format=spdx, format=cyclonedx or disabled=true", flag, field)
		}
	}
	if len(o.Formats) == 0 {
		o.Formats = []sbom.Format{sbom.SPDX}
	}
	slices.Sort(o.Formats)
	if o.Formats = slices.Compact(o.Formats); disabled {
		o.Formats = nil
	}
	return nil
}

// readProvenance reads "true", "false" or attributes.
func readProvenance(o *builder.ProvenanceOptions, flag, value string) error {
	o.Mode = "min"
	if on, err := strconv.ParseBool(value); err == nil {
		if !on {
			o.Mode = ""
		}
		return nil
	}
	disabled := false
	for _, field := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
		k, v, _ := strings.Cut(field, "=")
		var err error
		switch {
		case k == "mode" && (v == "min" || v == "max"):
			o.Mode = v
		case k == "builder-id" && v != "":
			o.BuilderID = v
		case k == "disabled":
			disabled, err = strconv.ParseBool(v)
		default:
			return usagef("%s: %q must be mode=min, mode=max, builder-id=URI or disabled=true", flag, field)
		}
		if err != nil {
			return usagef("%s: %s must be true or false", flag, field)
		}
	}
	if disabled {
		o.Mode = ""
	}
	return nil
}
