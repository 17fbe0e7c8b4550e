package main

import (
	"strconv"
	"strings"

	"builder/builder"

	"github.com/spf13/cobra"
)

// defaultBuilderID is who is trusted with a build when nobody says: a builder on the
// user's own machine.
const defaultBuilderID = "urn:x-builder:local"

// attestFlags say what is to be told of an image beside it.
type attestFlags struct {
	provenance string
	attest     []string
}

func (f *attestFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.provenance, "provenance", "", "attach SLSA provenance to the image: `true`, false, mode=min or mode=max[,builder-id=URI]")
	fl.Lookup("provenance").NoOptDefVal = "true"
	fl.StringArrayVar(&f.attest, "attest", nil, "`type=provenance[,mode=min|max][,builder-id=URI][,disabled=true]`")
}

// options reads both flags; the last word counts, as --provenance does over --attest.
func (f *attestFlags) options() (builder.ProvenanceOptions, error) {
	o := builder.ProvenanceOptions{BuilderID: defaultBuilderID, Version: version}
	for _, v := range f.attest {
		kind, rest, _ := strings.Cut(v, ",")
		switch kind {
		case "type=provenance":
		case "type=sbom":
			return o, usagef("--attest %s: SBOMs are not supported yet", v)
		default:
			return o, usagef("--attest %s: it must begin with type=provenance", v)
		}
		if err := readProvenance(&o, "--attest "+v, rest); err != nil {
			return o, err
		}
	}
	if f.provenance == "" {
		return o, nil
	}
	return o, readProvenance(&o, "--provenance "+f.provenance, f.provenance)
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
