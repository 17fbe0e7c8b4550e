// Package bucket keeps content in a bucket of a server that speaks the S3 API: each
// blob is an object named by its digest, each manifest an object named by its tag.
//
//	PREFIX BLOBS sha256:…       a blob
//	PREFIX MANIFESTS NAME       the manifest that has the name
//
// A manifest is written last and by one request, and an object is replaced whole, so
// that a reader finds what a name stood for before or what it stands for now. A
// manifest that was put is kept in memory until it gets a name.
//
// The package does not know what a manifest names or which blobs are still needed:
// removing old objects is the affair of the bucket's lifecycle rules.
package bucket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"builder/oci"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
)

const (
	// partSize is what travels in one request; two of them are in memory for each large
	// blob on its way. With the 10000 parts that S3 allows a blob may have 160 GB.
	partSize = 16 << 20
	// maxTries of one request, with growing pauses.
	maxTries = 5
)

// Bucket is one bucket under one prefix. It implements oci.Source, oci.Target,
// oci.Resolver and oci.Tagger and may be used from many goroutines.
type Bucket struct {
	o         Options
	client    *minio.Core
	transport *http.Transport

	mu        sync.Mutex
	documents map[digest.Digest][]byte // manifests that were put or resolved
}

// Open prepares the way to a bucket. Nothing is sent.
func Open(o Options) (*Bucket, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	host, secure, err := o.server()
	if err != nil {
		return nil, err
	}
	b := &Bucket{o: o, transport: transport(o), documents: map[digest.Digest][]byte{}}
	client, err := minio.New(host, &minio.Options{
		Creds: o.credentials(), Secure: secure, Transport: b.transport, Region: o.Region,
		BucketLookup: o.lookup(), MaxRetries: maxTries,
	})
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", o.Bucket, err)
	}
	if name, version, ok := strings.Cut(o.UserAgent, "/"); ok {
		client.SetAppInfo(name, version)
	}
	b.client = &minio.Core{Client: client}
	return b, nil
}

func transport(o Options) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		DisableCompression:    true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.CA},
	}
}

// credentials are those given, else those that the AWS tools would find.
func (o Options) credentials() *credentials.Credentials {
	if o.AccessKeyID != "" {
		return credentials.NewStaticV4(o.AccessKeyID, o.SecretAccessKey, o.SessionToken)
	}
	// Away from Amazon's machines nobody answers at the address of the metadata server.
	meta := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext,
		DisableKeepAlives: true, // it is asked once an hour, and out of Close's reach
	}}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: meta, Region: o.Region},
	})
}

func (o Options) lookup() minio.BucketLookupType {
	switch {
	case o.PathStyle == nil:
		return minio.BucketLookupAuto
	case *o.PathStyle:
		return minio.BucketLookupPath
	}
	return minio.BucketLookupDNS
}

// Close gives up idle connections.
func (b *Bucket) Close() { b.transport.CloseIdleConnections() }

func (b *Bucket) blob(d digest.Digest) string { return b.o.Prefix + b.o.Blobs + d.String() }
func (b *Bucket) manifest(name string) string { return b.o.Prefix + b.o.Manifests + name }
func (b *Bucket) document(d digest.Digest) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.documents[d]
}

func (b *Bucket) remember(d digest.Digest, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.documents[d] = data
}

// explain says where an error came from; what is not there is oci.ErrNotFound.
func (b *Bucket) explain(verb, object string, err error) error {
	if err == nil {
		return nil
	}
	resp := minio.ToErrorResponse(err)
	if resp.StatusCode == http.StatusNotFound && resp.Code != minio.NoSuchBucket {
		err = oci.ErrNotFound
	}
	if resp.Code == minio.AccessDenied && b.o.AccessKeyID == "" {
		err = fmt.Errorf("%w (the credentials are those of AWS_ACCESS_KEY_ID, ~/.aws/credentials or the machine's role)", err)
	}
	return fmt.Errorf("%s %s in bucket %s: %w", verb, object, b.o.Bucket, err)
}

// Resolve implements oci.Resolver. It reads the manifest that has the name. A digest is
// found only of a manifest that was met before.
func (b *Bucket) Resolve(ctx context.Context, name string) (oci.Descriptor, error) {
	if data := b.document(digest.Digest(name)); data != nil {
		return describe(data)
	}
	r, _, _, err := b.client.GetObject(ctx, b.o.Bucket, b.manifest(name), minio.GetObjectOptions{})
	if err != nil {
		return oci.Descriptor{}, b.explain("read", b.manifest(name), err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, oci.MaxManifest+1))
	if err == nil && len(data) > oci.MaxManifest {
		err = fmt.Errorf("%w: larger than %d bytes", oci.ErrInvalid, oci.MaxManifest)
	}
	var d oci.Descriptor
	if err == nil {
		d, err = describe(data)
	}
	if err != nil {
		return oci.Descriptor{}, b.explain("read", b.manifest(name), err)
	}
	b.remember(d.Digest, data)
	return d, nil
}

// describe is the descriptor of a manifest's bytes.
func describe(data []byte) (oci.Descriptor, error) {
	mediaType, err := oci.MediaType(data)
	return oci.NewDescriptor(mediaType, data), err
}

// Tag implements oci.Tagger: it writes a manifest that was put under the name.
func (b *Bucket) Tag(ctx context.Context, d oci.Descriptor, name string) error {
	data := b.document(d.Digest)
	if data == nil {
		return fmt.Errorf("tag %s: manifest %s: %w", name, d.Digest, oci.ErrNotFound)
	}
	return b.put(ctx, b.manifest(name), data, d.MediaType)
}

// Has implements oci.Target.
func (b *Bucket) Has(ctx context.Context, d oci.Descriptor) (bool, error) {
	if err := oci.Check(d); err != nil {
		return false, err
	}
	if oci.IsDocument(d.MediaType) {
		return int64(len(b.document(d.Digest))) == d.Size, nil
	}
	info, err := b.client.StatObject(ctx, b.o.Bucket, b.blob(d.Digest), minio.StatObjectOptions{})
	if err := b.explain("look up", b.blob(d.Digest), err); err != nil {
		if errors.Is(err, oci.ErrNotFound) {
			return false, nil
		}
		return false, err
	}
	return info.Size == d.Size, nil
}

// Fetch implements oci.Source.
func (b *Bucket) Fetch(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	if err := oci.Check(d); err != nil {
		return nil, err
	}
	if data := b.document(d.Digest); data != nil {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	r, _, _, err := b.client.GetObject(ctx, b.o.Bucket, b.blob(d.Digest), minio.GetObjectOptions{})
	if err != nil {
		return nil, b.explain("read", b.blob(d.Digest), err)
	}
	return r, nil
}

// Put implements oci.Target. What was cut off or is not what d names leaves no object.
func (b *Bucket) Put(ctx context.Context, d oci.Descriptor, r io.Reader) error {
	if err := oci.Check(d); err != nil {
		return err
	}
	content := oci.Verify(r, d)
	if d.Size > partSize {
		return b.putLarge(ctx, d, content)
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	if oci.IsDocument(d.MediaType) {
		b.remember(d.Digest, data)
		return nil
	}
	return b.put(ctx, b.blob(d.Digest), data, d.MediaType)
}

// put writes a small object, again if need be.
func (b *Bucket) put(ctx context.Context, object string, data []byte, mediaType string) error {
	_, err := b.client.Client.PutObject(ctx, b.o.Bucket, object, bytes.NewReader(data), int64(len(data)),
		minio.PutObjectOptions{ContentType: mediaType})
	return b.explain("write", object, err)
}

// putLarge writes an object in parts, two at a time.
func (b *Bucket) putLarge(ctx context.Context, d oci.Descriptor, content io.Reader) error {
	_, err := b.client.Client.PutObject(ctx, b.o.Bucket, b.blob(d.Digest), content, d.Size, minio.PutObjectOptions{
		ContentType: d.MediaType, PartSize: partSize, ConcurrentStreamParts: true, NumThreads: 2,
	})
	return b.explain("write", b.blob(d.Digest), err)
}
