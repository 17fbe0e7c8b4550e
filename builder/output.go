package builder

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Output is one place where a build's result goes: the value of -o.
type Output struct {
	// Type is "image", "oci", "docker", "tar", "local" or "cacheonly".
	Type string
	// Dest is a file, a directory or "-" for standard output.
	Dest string
	// Dir asks for an OCI layout in a directory instead of an archive (tar=false).
	Dir bool
	// Names are given to the image; Push sends it under each of them.
	Names []string
	Push  bool
	// Load brings the image into the Docker engine: type=docker without a dest.
	Load bool

	ManifestOptions
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
	for _, field := range strings.Split(value, ",") {
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
	var err error
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
		o.Names = append(o.Names, v)
	case "push":
		o.Push, err = strconv.ParseBool(v)
	case "tar":
		var tar bool
		tar, err = strconv.ParseBool(v)
		o.Dir = !tar
	default:
		return o.annotation(k, v)
	}
	if err != nil {
		return fmt.Errorf("%s=%s: it must be true or false", k, v)
	}
	return nil
}

func (o *Output) annotation(k, v string) error {
	key, ok := strings.CutPrefix(k, "annotation.")
	if !ok {
		return fmt.Errorf("%q is not supported; use type, dest, name, push, tar, compression, compression-level, force-compression or annotation.KEY", k)
	}
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[key] = v
	return nil
}

// check completes and proves what the attributes say together.
func (o *Output) check() error {
	needsDest := map[string]bool{"oci": true, "docker": false, "tar": true, "local": true, "image": false, "registry": false, "cacheonly": false}
	needs, known := needsDest[o.Type]
	switch {
	case !known:
		return fmt.Errorf("type=%s: it must be image, registry, oci, docker, tar, local or cacheonly", o.Type)
	case needs && o.Dest == "":
		return errors.New("say where to: dest=PATH")
	case !needs && o.Dest != "" && o.Type != "docker":
		return fmt.Errorf("type=%s takes no dest", o.Type)
	case o.Dir && o.Type != "oci":
		return errors.New("tar=false is for type=oci only; for a tree in a directory use type=local")
	case o.Dest == "-" && (o.Dir || o.Type == "local"):
		return errors.New("a directory cannot go to standard output")
	}
	o.Load = o.Type == "docker" && o.Dest == ""
	if o.Type == "registry" {
		o.Type, o.Push = "image", true
	}
	return nil
}
