package builder

import (
	"encoding/csv"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"builder/oci/name"
)

// Output is one place where a build's result goes: the value of -o.
type Output struct {
	// Type is "image", "oci", "docker", "tar", "local" or "cacheonly".
	Type string
	// Dest is a file, a directory or "-" for standard output, which is where an archive
	// goes when nothing else is said.
	Dest string
	// Dir asks for an OCI layout in a directory instead of an archive (tar=false).
	Dir bool
	// Names are given to the image; Push sends it under each of them.
	Names []string
	Push  bool
	// Load brings the image into the Docker engine: type=docker without a dest.
	Load bool

	ManifestOptions

	canonical bool // name-canonical
}

// ParseOutput reads the value of -o: "type=…,dest=…,…", or a directory, or "-" for
// a tar of the tree on standard output.
func ParseOutput(value string) (Output, error) {
	o := Output{ManifestOptions: ManifestOptions{Encoding: DefaultEncoding}}
	switch {
	case value == "-":
		o.Type, o.Dest = "tar", "-"
		return o, nil
	case !strings.Contains(value, "="):
		o.Type, o.Dest = "local", value
		return o, nil
	}
	if err := o.parse(value); err != nil {
		return o, fmt.Errorf("-o %s: %w", value, err)
	}
	return o, nil
}

func (o *Output) parse(value string) error {
	coding := map[string]string{"compression": "", "compression-level": "", "force-compression": ""}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return errors.New("it must be type=TYPE,KEY=VALUE,…, a part with a comma in double quotes")
	}
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return fmt.Errorf("%q is not KEY=VALUE", field)
		}
		if _, ok := coding[k]; ok {
			coding[k] = v
		} else if err := o.set(k, v); err != nil {
			return err
		}
	}
	o.Encoding, err = ParseEncoding(coding["compression"], coding["compression-level"], coding["force-compression"])
	if err != nil {
		return err
	}
	return o.check()
}

// set takes one attribute.
func (o *Output) set(k, v string) (err error) {
	switch k {
	case "type":
		o.Type = v
	case "dest":
		o.Dest = v
	case "name":
		o.Names = append(o.Names, strings.Split(v, ",")...)
	case "push":
		o.Push, err = strconv.ParseBool(v)
	case "push-by-digest":
		o.Untagged, err = strconv.ParseBool(v)
	case "name-canonical":
		o.canonical, err = strconv.ParseBool(v)
	case "tar":
		var tar bool
		tar, err = strconv.ParseBool(v)
		o.Dir = !tar
	default:
		if place, ok := strings.CutPrefix(k, "annotation"); ok {
			return o.annotation(place, k, v)
		}
		return fixed(k, v)
	}
	if err != nil {
		return fmt.Errorf("%s=%s: it must be true or false", k, v)
	}
	return nil
}

// annotation takes "annotation[-PLACE].KEY", of which place is what follows "annotation".
func (o *Output) annotation(place, k, v string) error {
	place, key, _ := strings.Cut(place, ".")
	place, named := strings.CutPrefix(place, "-")
	if !named {
		place = "manifest" + place
	}
	a, err := newAnnotation(place, key, v)
	if err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	o.Annotations = append(o.Annotations, a)
	return nil
}

// fixedAttributes are those that BuildKit lets one choose and that have one value here, and what to do for another.
var fixedAttributes = map[string]struct{ value, way string }{
	"oci-mediatypes":           {"true", "manifests have OCI's media types, which registries and engines read"},
	"oci-artifact":             {"true", "attestations have the form that OCI gives artifacts"},
	"attestation-inline":       {"true", "attestations go with the image; --provenance=false and --sbom=false leave them out"},
	"rewrite-timestamp":        {"true", "with SOURCE_DATE_EPOCH the files of new layers carry it"},
	"store":                    {"true", "every image is kept in the store; prune removes it"},
	"unpack":                   {"false", "builder run unpacks what it needs, and an engine what --load brings it"},
	"prefer-nondist-layers":    {"false", "every layer is distributed with the image"},
	"platform-split":           {"true", "several platforms have a directory each; export one --platform after the other into one"},
	"mode":                     {"copy", "to have nothing else in dest, remove it before"},
	"dangling-name-empty-only": {"false", noDangling},
	"danging-name-empty-only":  {"false", noDangling}, // as BuildKit spells it
}

const noDangling = "an image has the names of name= and -t, or its ID alone"

// elsewhere are attributes of BuildKit's that are said in another way here.
var elsewhere = map[string]string{
	"registry.insecure":    "use --insecure-registry HOST",
	"dangling-name-prefix": noDangling + ": write name=NAME",
	"attestation-prefix":   "attestations are named sbom.*.json and provenance.json: rename them afterwards",
	"source-date-epoch":    "use --build-arg SOURCE_DATE_EPOCH=SECONDS",
	"context":              "use DOCKER_HOST or docker context use to choose the engine",
}

// fixed takes attributes with the one value that they have, and refuses those that do not exist.
func fixed(k, v string) error {
	if way, known := elsewhere[k]; known {
		return fmt.Errorf("%q is not supported; %s", k, way)
	}
	f, known := fixedAttributes[k]
	if !known {
		return fmt.Errorf("%q is not supported; use type, dest, name, push, push-by-digest, tar, compression, compression-level, force-compression or annotation.KEY", k)
	}
	if on, err := strconv.ParseBool(v); v != f.value && (err != nil || strconv.FormatBool(on) != f.value) {
		return fmt.Errorf("%s=%s: it is always %s: %s", k, v, f.value, f.way)
	}
	return nil
}

// check completes and proves what the attributes say together.
func (o *Output) check() error {
	needsDest := map[string]bool{"oci": true, "docker": false, "tar": true, "local": true, "image": false, "registry": false, "cacheonly": false}
	needs, known := needsDest[o.Type]
	switch {
	case !known:
		return fmt.Errorf("type=%s: it must be image, registry, oci, docker, tar, local or cacheonly", o.Type)
	case needs && o.Dest == "" && (o.Dir || o.Type == "local"):
		return errors.New("say where to: dest=PATH")
	case !needs && o.Dest != "" && o.Type != "docker":
		return fmt.Errorf("type=%s takes no dest", o.Type)
	case o.Dir && o.Type != "oci":
		return errors.New("tar=false is for type=oci only; for a tree in a directory use type=local")
	case o.Dest == "-" && (o.Dir || o.Type == "local"):
		return errors.New("a directory cannot go to standard output")
	}
	if needs && o.Dest == "" {
		o.Dest = "-"
	}
	o.Load = o.Type == "docker" && o.Dest == ""
	if o.Type == "registry" {
		o.Type, o.Push = "image", true
	}
	if o.Untagged || o.canonical {
		return o.checkByDigest()
	}
	return nil
}

// checkByDigest proves what a push without a tag needs.
func (o *Output) checkByDigest() error {
	switch {
	case !o.Untagged:
		return errors.New("name-canonical=true is for push-by-digest=true")
	case !o.Push:
		return errors.New("push-by-digest=true needs push=true")
	case len(o.Names) == 0:
		return errors.New("push-by-digest=true needs the repository: name=REGISTRY/NAME")
	}
	for _, n := range o.Names {
		if ref, err := name.Parse(n); err != nil {
			return err
		} else if ref != ref.WithTag(name.DefaultTag) || strings.HasSuffix(n, ":"+name.DefaultTag) {
			return fmt.Errorf("push-by-digest=true: %s must have no tag", n)
		}
	}
	return nil
}
