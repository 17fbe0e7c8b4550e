package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxReferrers = 4096 // of one manifest; more are not read
	maxPages     = 64
	// maxRefers is how often a referrer is added to the index of a fallback tag
	// that others write at the same time.
	maxRefers = 6
)

// Referrers lists the manifests whose subject is the manifest of that digest, and
// of these only those of an artifact type unless that is "". A registry without
// the referrers API is asked for the tag that stands in for it
// (distribution-spec 1.1, "listing referrers"). None is no error.
func (r *Repo) Referrers(ctx context.Context, subject digest.Digest, artifactType string) ([]oci.Descriptor, error) {
	if err := oci.CheckDigest(subject); err != nil {
		return nil, err
	}
	some, err := r.those(mayPull)
	var all []oci.Descriptor
	if err == nil {
		err = r.fall(ctx, some, func(e *endpoint) (err error) {
			all, err = e.referrers(ctx, subject, artifactType)
			return err
		})
	}
	if err != nil {
		return nil, r.explain("list referrers of", subject.String(), err)
	}
	return slices.DeleteFunc(all, func(d oci.Descriptor) bool {
		return artifactType != "" && d.ArtifactType != artifactType
	}), nil
}

// referrers asks the API, or the tag where there is none.
func (e *endpoint) referrers(ctx context.Context, subject digest.Digest, artifactType string) ([]oci.Descriptor, error) {
	query := url.Values{}
	if artifactType != "" {
		query.Set("artifactType", artifactType)
	}
	ctx = e.scope(ctx, e.Repository, pulls)
	page := e.url(ctx, "referrers/"+subject.String(), query)
	var all []oci.Descriptor
	for n := 0; page != nil && n < maxPages && len(all) < maxReferrers; n++ {
		found, next, err := e.page(ctx, page)
		if n == 0 && (isNotFound(err) || statusOf(err) == http.StatusMethodNotAllowed || errors.Is(err, errNoAPI)) {
			return e.fallback(ctx, subject)
		}
		if err != nil {
			return nil, err
		}
		all, page = append(all, found...), next
	}
	return all[:min(len(all), maxReferrers)], nil
}

// errNoAPI stands for an answer that is not of the referrers API.
var errNoAPI = errors.New("no referrers API")

// page reads one answer and where the next is.
func (e *endpoint) page(ctx context.Context, at *url.URL) ([]oci.Descriptor, *url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	data, resp, err := e.read(req, ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, nil, err
	}
	if mediaType(resp) != ocispec.MediaTypeImageIndex {
		return nil, nil, errNoAPI
	}
	index, err := parseReferrers(data)
	if err != nil {
		return nil, nil, err
	}
	next, err := nextPage(resp)
	return index.Manifests, next, err
}

// nextPage is what a Link header names (RFC 5988), on the same host only.
func nextPage(resp *http.Response) (*url.URL, error) {
	link, params, _ := strings.Cut(resp.Header.Get("Link"), ";")
	if !strings.Contains(params, "next") {
		return nil, nil
	}
	next, err := resp.Request.URL.Parse(strings.Trim(link, "<> "))
	if err == nil && (next.Host != resp.Request.URL.Host || next.Scheme != resp.Request.URL.Scheme) {
		err = fmt.Errorf("the next page is on another host, %s: refused", next.Host)
	}
	return next, err
}

// parseReferrers reads an index of referrers.
func parseReferrers(data []byte) (oci.Index, error) {
	return oci.ParseIndex(oci.NewDescriptor(ocispec.MediaTypeImageIndex, data), data)
}

// fallbackTag stands in for the referrers of a manifest.
func fallbackTag(subject digest.Digest) string {
	return string(subject.Algorithm()) + "-" + subject.Encoded()
}

// fallback reads the index under the tag; nothing is no error.
func (e *endpoint) fallback(ctx context.Context, subject digest.Digest) ([]oci.Descriptor, error) {
	data, _, err := e.get(ctx, "manifests/"+fallbackTag(subject), documents, pulls)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	index, err := parseReferrers(data)
	return index.Manifests, err
}

// refer makes a manifest that was put known as a referrer of its subject, where
// the registry did not say that it has taken note itself.
func (r *Repo) refer(ctx context.Context, e *endpoint, d oci.Descriptor, data []byte) error {
	var m struct {
		Subject      *oci.Descriptor   `json:"subject"`
		ArtifactType string            `json:"artifactType"`
		Config       oci.Descriptor    `json:"config"`
		Annotations  map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &m); err != nil || m.Subject == nil {
		return err
	}
	if err := oci.Check(*m.Subject); err != nil {
		return fmt.Errorf("subject: %w", err)
	}
	entry := oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: m.Annotations, ArtifactType: m.ArtifactType}
	if entry.ArtifactType == "" && oci.IsManifest(d.MediaType) {
		entry.ArtifactType = m.Config.MediaType
	}
	r.referring.Lock() // of one process, so that only others have to be outrun
	defer r.referring.Unlock()
	for try := range maxRefers {
		done, err := e.addReferrer(ctx, m.Subject.Digest, entry)
		if err != nil || done {
			return err
		}
		if err := pause(ctx, backoff(try)/4); err != nil {
			return err
		}
	}
	return fmt.Errorf("tag %s: others keep changing it", fallbackTag(m.Subject.Digest))
}

// addReferrer puts an entry into the index under the tag. It reports whether the
// entry is there: a registry cannot be told to refuse the slower of two writers,
// so the index is written and read until it holds what it must.
func (e *endpoint) addReferrer(ctx context.Context, subject digest.Digest, entry oci.Descriptor) (bool, error) {
	old, err := e.fallback(ctx, subject)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(old, func(d oci.Descriptor) bool { return d.Digest == entry.Digest }) {
		return true, nil
	}
	index := oci.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append(old, entry),
	}
	d, data, err := oci.Marshal(index.MediaType, index)
	if err != nil {
		return false, err
	}
	_, err = e.putDocument(ctx, d, data, fallbackTag(subject))
	return false, err
}
