// Package engine speaks to a Docker engine over its HTTP API: asks which images it has,
// gives it archives to load and images names.
//
// It does not know what an archive holds, nor where images are kept on this side.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrNotFound is wrapped when the engine has no image of that name or ID.
var ErrNotFound = errors.New("the engine has no such image")

const (
	dialTime  = 10 * time.Second
	maxAnswer = 16 << 20 // of one answer that is read whole, in bytes
)

// Engine is one Docker engine. It may be used from many goroutines.
type Engine struct {
	at     endpoint
	client *http.Client
}

// Open finds the engine that docker would speak to; nothing is sent yet.
func Open() (*Engine, error) {
	at, err := find()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTime}
	return &Engine{at: at, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, at.network, at.address)
		},
		TLSClientConfig: at.tls, DisableCompression: true, IdleConnTimeout: dialTime,
	}}}, nil
}

// Close gives up idle connections.
func (e *Engine) Close() { e.client.CloseIdleConnections() }

// String is where the engine listens.
func (e *Engine) String() string { return e.at.host }

// Local reports whether the engine listens at a socket of this machine.
func (e *Engine) Local() bool { return e.at.network == "unix" }

// Image is what an engine says of an image.
type Image struct {
	// ID is the digest of the config, or of the manifest or index in an engine whose images
	// are containerd's.
	ID digest.Digest
	// Layers are the diff IDs, bottom first.
	Layers []digest.Digest
}

// Image asks for an image by its name or its ID; ErrNotFound when there is none.
func (e *Engine) Image(ctx context.Context, ref string) (Image, error) {
	var answer struct {
		ID     digest.Digest `json:"Id"`
		RootFS struct{ Layers []digest.Digest }
	}
	err := e.get(ctx, "/images/"+ref+"/json", &answer)
	return Image{answer.ID, answer.RootFS.Layers}, err
}

// Images returns the IDs of the images that the engine has, newest first.
func (e *Engine) Images(ctx context.Context) ([]digest.Digest, error) {
	var answer []struct {
		ID digest.Digest `json:"Id"`
	}
	if err := e.get(ctx, "/images/json", &answer); err != nil {
		return nil, err
	}
	ids := make([]digest.Digest, len(answer))
	for i := range answer {
		ids[i] = answer[i].ID
	}
	return ids, nil
}

// Containerd reports whether the engine keeps its images in containerd's store: then it
// takes OCI archives, with several platforms too. That it answers is the proof that it can
// be reached.
func (e *Engine) Containerd(ctx context.Context) (bool, error) {
	var answer struct{ DriverStatus [][2]string }
	if err := e.get(ctx, "/info", &answer); err != nil {
		return false, err
	}
	for _, pair := range answer.DriverStatus {
		if pair[0] == "driver-type" && strings.HasPrefix(pair[1], "io.containerd.") {
			return true, nil
		}
	}
	return false, nil
}

// Tag gives an image, by its ID, the name REPOSITORY:TAG beside those it has.
func (e *Engine) Tag(ctx context.Context, id digest.Digest, repository, tag string) error {
	q := url.Values{"repo": {repository}, "tag": {tag}}
	resp, err := e.do(ctx, http.MethodPost, "/images/"+id.String()+"/tag?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Load gives the engine an archive. The end of ctx ends it; what the engine has of the
// archive by then is its own affair.
func (e *Engine) Load(ctx context.Context, archive io.Reader) error {
	resp, err := e.do(ctx, http.MethodPost, "/images/load?quiet=1", archive)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answers := json.NewDecoder(resp.Body)
	for {
		var line struct{ Error string }
		err := answers.Decode(&line)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("docker engine %s: its answer: %w", e, err)
		case line.Error != "":
			return fmt.Errorf("docker engine %s: %s", e, strings.TrimSpace(line.Error))
		}
	}
}

// get reads a JSON answer.
func (e *Engine) get(ctx context.Context, path string, answer any) error {
	resp, err := e.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("docker engine %s: its answer to %s: %w", e, path, err)
	}
	return nil
}

// do sends one request. An answer that is none of success is an error.
func (e *Engine) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	scheme := "http"
	if e.at.tls != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://docker"+path, body)
	if err != nil {
		return nil, err
	}
	if e.at.network == "tcp" {
		req.URL.Host = e.at.address
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, e.failed(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, e.refused(resp)
}

// failed is the error of a request that got no answer.
func (e *Engine) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("docker engine %s (%s): %s", e, e.at.from, e.at.hint(err))
	}
	return fmt.Errorf("docker engine %s: %w", e, err)
}

// refused is the error that an answer stands for.
func (e *Engine) refused(resp *http.Response) error {
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("docker engine %s: %w", e, ErrNotFound)
	}
	var answer struct{ Message string }
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what there is of it
	if json.Unmarshal(text, &answer) != nil || answer.Message == "" {
		answer.Message = http.StatusText(resp.StatusCode)
	}
	return fmt.Errorf("docker engine %s: status %d: %s", e, resp.StatusCode, strings.TrimSpace(answer.Message))
}
