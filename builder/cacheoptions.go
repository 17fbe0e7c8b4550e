package builder

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"builder/oci"
	"builder/oci/bucket"
	"builder/oci/layout"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// CachePlace is where a cache for other machines lies.
type CachePlace struct {
	// Type is "registry", "local" or "s3".
	Type string
	// Ref names the cache's image, for a registry.
	Ref name.Ref
	// Dir is an image layout and Tag or Digest the image in it, for a local cache.
	Dir, Tag string
	Digest   digest.Digest
	// Bucket has the cache under each of Names, for S3.
	Bucket bucket.Options
	Names  []string
}

// String is the place as progress shows it, without credentials.
func (p CachePlace) String() string {
	switch p.Type {
	case "local":
		return p.Dir
	case "s3":
		return shownPlace(p.Bucket.String()) + " " + strings.Join(p.Names, ";")
	}
	return p.Ref.Familiar()
}

// reference names the place for as long as layers may be fetched from it.
func (p CachePlace) reference() string {
	switch p.Type {
	case "local":
		return layout.Scheme + p.Dir + ":" + cmp.Or(p.Tag, "latest")
	case "s3":
		return p.Bucket.String()
	}
	return p.Ref.String()
}

// entries are the names that the cache has in its place.
func (p CachePlace) entries() []string {
	switch {
	case p.Type == "s3":
		return p.Names
	case p.Type == "registry":
		return []string{p.Ref.Reference()}
	case p.Digest != "":
		return []string{p.Digest.String()}
	}
	return []string{p.Tag}
}

// CacheFrom is a cache to take results from: one value of --cache-from.
type CacheFrom struct{ CachePlace }

// CacheTo is a cache to write: one value of --cache-to.
type CacheTo struct {
	// CachePlace is where it goes. Its Type may be "inline" too: then the index stands
	// in the image's own config.
	CachePlace
	// Max keeps the layers of every step, not only those of the image.
	Max bool
	// Mounts are the IDs of cache mounts that go with it.
	Mounts []string
	// IgnoreError makes a failure a warning.
	IgnoreError bool
	// Encoding is that of the image when it is nil, so that the two share their blobs.
	Encoding *Encoding
}

// attributes are the parts of a value, KEY=VALUE each; what was asked for is taken out.
type attributes map[string]string

// parseAttributes splits "type=…,KEY=VALUE,…", in which a part with a comma stands in
// double quotes. A value alone is the reference of a registry.
func parseAttributes(value string) (attributes, error) {
	if value != "" && !strings.ContainsAny(value, "=,") {
		return attributes{"type": "registry", "ref": value}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return nil, errors.New("it must be type=TYPE,KEY=VALUE,…")
	}
	a := attributes{}
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", field)
		}
		if _, twice := a[k]; twice {
			return nil, fmt.Errorf("%s is given twice", k)
		}
		a[k] = v
	}
	return a, nil
}

func (a attributes) take(key string) string {
	v := a[key]
	delete(a, key)
	return v
}

// flag takes a boolean that is usually as it says.
func (a attributes) flag(key string, usual bool) (bool, error) {
	v := a.take(key)
	if v == "" {
		return usual, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s=%s: it must be true or false", key, v)
	}
	return b, nil
}

// rest refuses what nobody asked for.
func (a attributes) rest(kind string) error {
	if len(a) == 0 {
		return nil
	}
	return fmt.Errorf("type=%s does not know %s", kind, strings.Join(slices.Sorted(maps.Keys(a)), ", "))
}

// ParseCacheFrom reads a value of --cache-from: "type=registry|local|s3,…", or the
// reference of a cache in a registry alone.
func ParseCacheFrom(value string) (CacheFrom, error) {
	var c CacheFrom
	a, err := parseAttributes(value)
	if err != nil {
		return c, err
	}
	if c.CachePlace, err = a.place("src"); err != nil {
		return c, err
	}
	if len(c.Names) > 1 {
		return c, errors.New("name: one cache is read at a time; repeat the flag for more")
	}
	return c, a.rest(c.Type)
}

// ParseCacheTo reads a value of --cache-to: "type=registry|local|inline|s3,…", or the
// reference of a cache in a registry alone.
func ParseCacheTo(value string) (CacheTo, error) {
	var c CacheTo
	a, err := parseAttributes(value)
	if err != nil {
		return c, err
	}
	if c.Max, err = a.mode(); err != nil {
		return c, err
	}
	if a["type"] == "inline" {
		c.Type = a.take("type")
		if c.Max {
			return c, errors.New("type=inline has the layers of the image alone: mode=min")
		}
		return c, a.rest(c.Type)
	}
	if err := c.parse(a); err != nil {
		return c, err
	}
	return c, a.rest(c.Type)
}

func (c *CacheTo) parse(a attributes) (err error) {
	if ids, given := a["mounts"]; given {
		if c.Mounts = strings.Split(ids, ";"); slices.Contains(c.Mounts, "") {
			return errors.New("mounts: say which, by the ids of RUN --mount=type=cache: mounts=ID;ID")
		}
		delete(a, "mounts")
	}
	kind, level, force := a.take("compression"), a.take("compression-level"), a.take("force-compression")
	if kind+level+force != "" {
		e, err := ParseEncoding(kind, level, force)
		if err != nil {
			return err
		}
		c.Encoding = &e
	}
	if c.IgnoreError, err = a.flag("ignore-error", false); err != nil {
		return err
	}
	if reset, err := a.flag("reset", false); err != nil || reset {
		return cmp.Or(err, errors.New("reset=true: nothing is ever removed from a directory; write to a new one and put it in the old one's place"))
	}
	for _, key := range []string{"image-manifest", "oci-mediatypes"} {
		if on, err := a.flag(key, true); err != nil || !on {
			return cmp.Or(err, fmt.Errorf("%s=false: the cache is always an OCI image manifest, which every registry takes", key))
		}
	}
	c.CachePlace, err = a.place("dest")
	return err
}

// mode takes mode=min or max.
func (a attributes) mode() (maximal bool, err error) {
	switch mode := a.take("mode"); mode {
	case "", "min":
		return false, nil
	case "max":
		return true, nil
	default:
		return false, fmt.Errorf("mode=%s: it must be min or max", mode)
	}
}

// place takes what says where the cache lies; dir is the name of a directory's
// attribute.
func (a attributes) place(dir string) (CachePlace, error) {
	p := CachePlace{Type: a.take("type")}
	switch p.Type {
	case "registry":
		return p, a.registry(&p)
	case "local":
		return p, a.local(&p, dir)
	case "s3":
		return p, a.s3(&p)
	case "":
		return p, errors.New("say which type: type=registry, local or s3")
	}
	if p.Type == "gha" {
		return p, errors.New("type=gha, GitHub's own cache, is not supported: use type=registry,ref=ghcr.io/OWNER/NAME:cache, or type=local in a directory that actions/cache keeps")
	}
	return p, fmt.Errorf("type=%s is not supported: it must be registry, local, s3 or, to write, inline", p.Type)
}

func (a attributes) registry(p *CachePlace) (err error) {
	ref := a.take("ref")
	if ref == "" {
		return errors.New("say where it is: ref=REGISTRY/NAME[:TAG]")
	}
	p.Ref, err = name.Parse(ref)
	return err
}

func (a attributes) local(p *CachePlace, key string) (err error) {
	dir := a.take(key)
	if dir == "" {
		return fmt.Errorf("say where it is: %s=DIRECTORY", key)
	}
	if p.Dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	p.Tag = cmp.Or(a.take("tag"), "latest")
	if key == "dest" {
		return nil
	}
	if p.Digest = digest.Digest(a.take("digest")); p.Digest != "" {
		return oci.CheckDigest(p.Digest)
	}
	return nil
}

func (a attributes) s3(p *CachePlace) error {
	p.Bucket = bucket.Options{
		Bucket: cmp.Or(a.take("bucket"), os.Getenv("AWS_BUCKET")), Region: cmp.Or(a.take("region"), os.Getenv("AWS_REGION")),
		Endpoint: a.take("endpoint_url"), Prefix: a.take("prefix"), Blobs: cmp.Or(a.take("blobs_prefix"), "blobs/"),
		Manifests: cmp.Or(a.take("manifests_prefix"), "manifests/"), AccessKeyID: a.take("access_key_id"),
		SecretAccessKey: a.take("secret_access_key"), SessionToken: a.take("session_token"),
	}
	if _, given := a["use_path_style"]; given {
		style, err := a.flag("use_path_style", false)
		if err != nil {
			return err
		}
		p.Bucket.PathStyle = &style
	}
	p.Names = strings.Split(cmp.Or(a.take("name"), "builder"), ";")
	if slices.Contains(p.Names, "") {
		return errors.New("name: a name is empty")
	}
	return p.Bucket.Check()
}
