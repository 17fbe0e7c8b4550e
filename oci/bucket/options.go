package bucket

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Scheme is the prefix of a reference to a bucket.
const Scheme = "s3://"

// Options say where a bucket is and how its objects are named.
type Options struct {
	Bucket string
	// Region of the bucket; "" lets the server tell.
	Region string
	// Endpoint is the URL of the server, http or https; "" is Amazon's.
	Endpoint string
	// PathStyle puts the bucket's name into the path instead of the host; nil does
	// what fits the endpoint.
	PathStyle *bool
	// Prefix begins the name of every object; Blobs and Manifests follow it.
	Prefix, Blobs, Manifests string

	// AccessKeyID, SecretAccessKey and SessionToken are the credentials; without them
	// the AWS_ variables, ~/.aws/credentials and the machine's role are asked.
	AccessKeyID, SecretAccessKey, SessionToken string
	// CA is the set of authorities to trust instead of the system's.
	CA *x509.CertPool
	// UserAgent is sent with each request.
	UserAgent string
}

// String is a reference to the bucket without its credentials, for ParseOptions and
// for people.
func (o Options) String() string {
	q := url.Values{}
	set := func(key, value, usual string) {
		if value != usual {
			q.Set(key, value)
		}
	}
	set("region", o.Region, "")
	set("endpoint_url", o.Endpoint, "")
	set("blobs_prefix", o.Blobs, "")
	set("manifests_prefix", o.Manifests, "")
	if o.PathStyle != nil {
		q.Set("use_path_style", strconv.FormatBool(*o.PathStyle))
	}
	u := url.URL{Scheme: "s3", Host: o.Bucket, Path: "/" + o.Prefix, RawQuery: q.Encode()}
	return u.String()
}

// ParseOptions reads what String writes.
func ParseOptions(ref string) (Options, error) {
	u, err := url.Parse(ref)
	if err != nil || u.Scheme != "s3" {
		return Options{}, fmt.Errorf("bucket reference %.200q: it is not s3://BUCKET/PREFIX", ref)
	}
	q := u.Query()
	o := Options{
		Bucket: u.Host, Prefix: strings.TrimPrefix(u.Path, "/"), Region: q.Get("region"), Endpoint: q.Get("endpoint_url"),
		Blobs: q.Get("blobs_prefix"), Manifests: q.Get("manifests_prefix"),
	}
	if v := q.Get("use_path_style"); v != "" {
		style, err := strconv.ParseBool(v)
		if err != nil {
			return Options{}, fmt.Errorf("bucket reference %.200q: use_path_style must be true or false", ref)
		}
		o.PathStyle = &style
	}
	return o, o.Check()
}

// Check refuses options that no bucket can have.
func (o Options) Check() error {
	if o.Bucket == "" {
		return errors.New("no bucket is named")
	}
	if strings.ContainsAny(o.Bucket, "/?#@: ") {
		return fmt.Errorf("%q cannot be the name of a bucket", o.Bucket)
	}
	if (o.AccessKeyID == "") != (o.SecretAccessKey == "") {
		return errors.New("an access key ID and a secret access key belong together")
	}
	_, _, err := o.server()
	return err
}

// server is the host to ask, and whether by https.
func (o Options) server() (host string, secure bool, err error) {
	if o.Endpoint == "" {
		return "s3.amazonaws.com", true, nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", false, fmt.Errorf("endpoint %q is not a URL, https://HOST[:PORT]", o.Endpoint)
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", false, fmt.Errorf("endpoint %s://%s: a server is named by scheme, host and port alone", u.Scheme, u.Host)
	}
	return u.Host, u.Scheme == "https", nil
}
