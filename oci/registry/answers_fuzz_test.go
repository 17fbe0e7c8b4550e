package registry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"builder/oci"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what a registry can make us do in one operation.
const (
	// Sixty-four pages, each after ten redirects, each of these asked for again as often as it may be.
	maxAsked = 64 * 11 * 6
	// What net/http buffers of a connection and the largest header come on top of the largest document.
	maxAnswer = oci.MaxManifest + 2<<20
	// patience is what a user's own time limit would be. Without one a registry that asks for a pause each time gets it.
	patience = 10 * time.Minute
)

// liar is a registry, mirror, token server and all that they lead to: it has a few answers and gives one after the other
// to whoever asks, from the beginning when it is through.
type liar struct {
	t       *testing.T
	answers []string
	realm   bool // an answer names a token server

	mu    sync.Mutex
	asked int
	conns sync.WaitGroup
}

// FuzzAnswers does one operation with a registry that answers as told: lines of a status and of headers, an empty line
// and a body for each answer, "---" between them; a body that ends in "…" never ends. No answers make an operation
// panic, outlast its context, leave a goroutine, read much more than there may be, or take what it was not asked for.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		"200 OK\nContent-Type: " + ocispec.MediaTypeImageIndex + "\n\n{\"manifests\":[]}",
		"405 No\n\n---\n200 OK\nContent-Type: " + ocispec.MediaTypeImageManifest + "\nDocker-Content-Digest: sha256:x\n\n{}",
		"200 OK\nContent-Type: " + ocispec.MediaTypeImageIndex + "\n\n…",
		"401 No\nWWW-Authenticate: Bearer realm=\"http://localhost:7/token\",service=s,scope=\"a:b:pull\"\n\n---\n200 OK\n\n{\"token\":\"t\"}\n---\n401 No\n\n",
		"401 No\nWWW-Authenticate: Basic realm=\"http://169.254.169.254\"\n\n---\n302 Found\nLocation: http://localhost:9/x\n\n",
		"307 Go\nLocation: https://127.0.0.1:5000/v2/\n\n---\n308 Go\nLocation: ../../..\n\n",
		"200 OK\nContent-Type: " + ocispec.MediaTypeImageIndex + "\nLink: <?n=1>; rel=\"next\"\n\n{\"schemaVersion\":2,\"manifests\":[]}",
		"206 Part\nContent-Range: bytes 1-2/3\nContent-Length: 3\n\nyes",
		"206 Part\n\ny\n---\n206 Part\nContent-Range: bytes 1-2/3\n\nes",
		"202 OK\nLocation: /up?x\nRange: 0-1\n\n---\n500 No\n\n---\n204 OK\nRange: 0-0\n\n---\n201 OK\n\n",
		"429 Slow\nRetry-After: 99999999\n\n{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"\x1b[31m\"}]}",
		"503 No\nRetry-After: Mon, 01 Jan 2700 00:00:00 GMT\n\n…",
		"201 OK\nDocker-Content-Digest: sha256:0\nOCI-Subject: x\n\n---\n404 No\n\n",
		"200 OK\nTransfer-Encoding: chunked\nContent-Length: 1\n\nzz\n---\n100 Continue\n\n---\n101 Switching\nUpgrade: h2c\n\n",
	} {
		for op := range byte(len(operations)) {
			f.Add(op, seed)
		}
	}
	offline(f)
	dir := f.TempDir()
	conf := "[[registry]]\nprefix = \"127.0.0.1:5000\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:6000\"\ninsecure = true\n"
	if err := os.WriteFile(filepath.Join(dir, "registries.conf"), []byte(conf), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, op byte, answers string) {
		if len(answers) > 4000 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			l := &liar{t: t, answers: strings.Split(answers, "\n---\n"), realm: strings.Contains(strings.ToLower(answers), "realm")}
			l.meet(operations[int(op)%len(operations)], dir)
		})
	})
}

// offline keeps the names in answers from being looked up, and net/http from telling what it thinks of the answers.
func offline(f *testing.F) {
	was, dial := net.DefaultResolver.PreferGo, net.DefaultResolver.Dial
	f.Cleanup(func() {
		net.DefaultResolver.PreferGo, net.DefaultResolver.Dial = was, dial
		log.SetOutput(os.Stderr)
	})
	log.SetOutput(io.Discard)
	net.DefaultResolver.PreferGo = true
	net.DefaultResolver.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("offline") }
	net.DefaultResolver.LookupIPAddr(f.Context(), "localhost") // makes what must not be a bubble's own
}

// meet does an operation with the liar in the place of every host. All time is the bubble's, which passes when all wait.
func (l *liar) meet(operation func(context.Context, *testing.T, *Repo), dir string) {
	r := Repository(name.Ref{Domain: "127.0.0.1:5000", Path: "a/b"}, Options{
		Hosts: filepath.Join(dir, "registries.conf"), ConfigDir: dir, Credential: &Credential{"alice", "secret"},
	})
	if err := r.connect(); err != nil {
		l.t.Fatal(err)
	}
	for _, e := range r.hosts {
		e.dial = l.dial
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	start := time.Now()
	operation(ctx, l.t, r)
	cancel()
	if took := time.Since(start); took > patience+abandonTime {
		l.t.Errorf("it took %s", took)
	}
	r.Close()
	l.conns.Wait()
	if l.asked > maxAsked {
		l.t.Errorf("%d requests were made", l.asked)
	}
}

func (l *liar) dial(_ context.Context, _, address string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	l.conns.Go(func() {
		defer ours.Close()
		l.serve(ours, address)
	})
	return theirs, nil
}

var zeros [64 << 10]byte

// serve reads one request and answers it; what is no http is hung up on.
func (l *liar) serve(conn net.Conn, address string) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	io.Copy(io.Discard, req.Body)
	mirror := address == "127.0.0.1:6000"
	if told := req.Header.Get("Authorization"); told != "" && !l.realm && (mirror || address != "127.0.0.1:5000") {
		l.t.Errorf("%s is told %s", address, told)
	}
	head, body, _ := strings.Cut(l.next(), "\n\n")
	endless := strings.HasSuffix(body, "…")
	head = strings.ReplaceAll(strings.TrimRight(head, "\n"), "\n", "\r\n")
	sent, err := io.WriteString(conn, "HTTP/1.1 "+head+"\r\nConnection: close\r\n\r\n"+strings.TrimSuffix(body, "…"))
	most := maxAnswer
	if strings.Contains(req.URL.Path, "/blobs/") {
		most += largeBlob
	}
	for endless && err == nil && sent <= most {
		var n int
		n, err = conn.Write(zeros[:])
		sent += n
	}
	if sent > most {
		l.t.Errorf("%d bytes of an answer to %s %s were read", sent, req.Method, req.URL)
	}
}

func (l *liar) next() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	return l.answers[(l.asked-1)%len(l.answers)]
}

// operations are all that is done with a repository.
var operations = []func(context.Context, *testing.T, *Repo){
	func(ctx context.Context, t *testing.T, r *Repo) {
		if d, err := r.Resolve(ctx, "v1"); err == nil && (oci.Check(d) != nil || !oci.IsDocument(d.MediaType)) {
			t.Errorf("resolved to %v", d)
		}
	},
	func(ctx context.Context, t *testing.T, r *Repo) {
		if d, err := r.Resolve(ctx, yes.Digest.String()); err == nil && d.Digest != yes.Digest {
			t.Errorf("resolved to %v", d)
		}
	},
	func(ctx context.Context, t *testing.T, r *Repo) { fetch(ctx, t, r, index) },
	func(ctx context.Context, t *testing.T, r *Repo) { fetch(ctx, t, r, yes) },
	func(ctx context.Context, t *testing.T, r *Repo) {
		fetch(ctx, t, r, oci.Descriptor{MediaType: yes.MediaType, Digest: yes.Digest, Size: largeBlob + 1})
	},
	func(ctx context.Context, t *testing.T, r *Repo) {
		if all, err := r.Referrers(ctx, yes.Digest, ""); err == nil && len(all) > maxReferrers {
			t.Errorf("%d referrers", len(all))
		}
	},
	func(ctx context.Context, _ *testing.T, r *Repo) { r.Has(ctx, yes) },
	func(ctx context.Context, _ *testing.T, r *Repo) { r.Put(ctx, yes, strings.NewReader("yes")) },
	func(ctx context.Context, _ *testing.T, r *Repo) {
		if ok, err := r.Mount(ctx, yes, "c/d"); err == nil && !ok {
			r.Put(ctx, yes, strings.NewReader("yes"))
		}
	},
	func(ctx context.Context, _ *testing.T, r *Repo) {
		data := []byte(`{"schemaVersion":2,"subject":{"mediaType":"` + index.MediaType + `","digest":"` + index.Digest.String() + `","size":15}}`)
		d := oci.NewDescriptor(ocispec.MediaTypeImageManifest, data)
		if r.Put(ctx, d, bytes.NewReader(data)) == nil {
			r.Tag(ctx, d, "v1")
		}
	},
	func(ctx context.Context, _ *testing.T, r *Repo) { r.ping(ctx) },
}

// What is asked for.
var (
	yes   = oci.NewDescriptor(ocispec.MediaTypeImageLayer, []byte("yes"))
	index = oci.NewDescriptor(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[]}`))
)

// fetch takes what it is given for no other than it asked for.
func fetch(ctx context.Context, t *testing.T, r *Repo, d oci.Descriptor) {
	data, err := oci.ReadAll(ctx, r, d, 64<<20)
	if err == nil && (int64(len(data)) != d.Size || digest.FromBytes(data) != d.Digest) {
		t.Errorf("%d bytes were taken for %v", len(data), d)
	}
}
