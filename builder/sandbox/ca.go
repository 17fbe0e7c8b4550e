package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"builder/builder/sandbox/child"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// caBundles are where distributions keep the certificates that programs trust. The first is made in any case, the
// others where their directory exists.
var caBundles = []string{
	"etc/ssl/certs/ca-certificates.crt",                             // Debian, Alpine, Arch
	"etc/ssl/cert.pem",                                              // Alpine, OpenSSL's default
	"etc/pki/tls/certs/ca-bundle.crt",                               // Fedora, RHEL
	"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",              // what that is a link to
	"etc/ssl/ca-bundle.pem",                                         // openSUSE
	"var/lib/ca-certificates/ca-bundle.pem",                         // what that is a link to
	"etc/pki/tls/cert.pem", "usr/local/share/certs/ca-root-nss.crt", // OpenSSL's, and FreeBSD's way
}

// caVariables tell programs that do not use the system's certificates of a file to use; the first adds to their own.
var caVariables = []string{
	"NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
	"CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "NIX_SSL_CERT_FILE",
}

// caFile is where those variables point: in /dev, which nothing records and no package manager cleans.
const caFile = "dev/builder-ca.pem"

// maxBundle bounds what is read of a bundle; the usual one has 250 KB.
const maxBundle = 16 << 20

// caFiles are the bundles that carry the caller's certificates, in props: as a lower layer of the overlay they can be
// replaced by rename, as package managers do, which no mountpoint can. A program that writes to one of them instead
// takes our text along into the upper directory, from where it is cut out again afterwards.
type caFiles struct{ bundles map[string]caBundle } // by clean path

type caBundle struct {
	own   []byte // the tree's, nil if it has none
	added []byte // exactly what stands behind it
}

// caOps put the certificates in place; the private copy is mounted, the bundles lie in props.
func (r *run) caOps() ([]child.Op, error) {
	if r.spec.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(r.spec.CA)
	if err != nil {
		return nil, fmt.Errorf("CA certificates: %w", err)
	}
	if !bytes.Contains(pem, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, fmt.Errorf("CA certificates: %s has no certificate in PEM form", r.spec.CA)
	}
	if !bytes.HasSuffix(pem, []byte("\n")) {
		pem = append(pem, '\n')
	}
	r.ca = &caFiles{bundles: map[string]caBundle{}}
	for i, name := range caBundles {
		if err := r.addBundle(name, pem, i == 0); err != nil {
			return nil, fmt.Errorf("CA bundle /%s: %w", name, err)
		}
	}
	r.later(r.cleanBundles)
	data := r.ca.private(pem)
	r.hidden += uint64(len(data))
	return []child.Op{
		child.File{Name: "ca.pem", Data: data, Mode: 0o444},
		child.Bind{Path: "ca.pem", Target: caFile, Attr: nosuid | nodev | noexec | rdonly, Make: child.MakeFile},
	}, nil
}

// addBundle lays a bundle with our certificates over the tree's.
func (r *run) addBundle(name string, pem []byte, always bool) error {
	at, err := r.props.seen.Resolve(name)
	if err != nil {
		return err
	}
	if _, done := r.ca.bundles[at]; done || r.props.isCovered(at) {
		return nil
	}
	n, err := r.props.seen.Lookup(at)
	switch {
	case err == nil && n.IsRegular():
		return r.coverBundle(at, n, pem)
	case err == nil || (!errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR)):
		return err // a directory or a device is nobody's bundle
	}
	dir, err := r.props.seen.Lookup(path.Dir(at))
	if !always && (err != nil || !dir.IsDir()) {
		return nil
	}
	r.ca.bundles[at] = caBundle{added: pem}
	return r.props.makeFile(at, pem, 0o644)
}

func (r *run) coverBundle(at string, n *overlay.Node, pem []byte) error {
	f, err := n.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	own, err := readBundle(f)
	if err != nil {
		return err
	}
	added := pem
	if len(own) > 0 && own[len(own)-1] != '\n' {
		added = append([]byte("\n"), pem...)
	}
	r.ca.bundles[at] = caBundle{own: own, added: added}
	if err := r.props.makeFile(at, slices.Concat(own, added), os.FileMode(n.Stat.Mode&0o777)); err != nil {
		return err
	}
	name := filepath.Join(r.props.dir, at)
	laid, err := os.Open(name)
	if err != nil {
		return err
	}
	defer laid.Close()
	if err := overlay.Chown(int(laid.Fd()), n.Stat.Uid, n.Stat.Gid); err != nil {
		return err
	}
	return os.Chtimes(name, n.ModTime(), n.ModTime())
}

func readBundle(f io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err == nil && len(b) > maxBundle {
		err = fmt.Errorf("larger than %s", size(maxBundle))
	}
	return b, err
}

// private is the content of caFile: the tree's certificates and ours. A tree that has none, and may get them in this
// very step, is lent the machine's, because most of the variables replace what a program would trust by itself.
func (c *caFiles) private(pem []byte) []byte {
	var own []byte
	for _, name := range caBundles {
		if b := c.bundles[name]; len(b.own) > len(own) {
			own = b.own
		}
	}
	for _, b := range c.bundles { // those that links led to
		if len(b.own) > len(own) {
			own = b.own
		}
	}
	for i := 0; len(own) == 0 && i < len(caBundles); i++ {
		own, _ = os.ReadFile("/" + caBundles[i])
	}
	if len(own) > 0 && own[len(own)-1] != '\n' {
		own = append(own, '\n')
	}
	return slices.Concat(own, pem)
}

// environment is what to add to a command's variables.
func (c *caFiles) environment(env []string) []string {
	if c == nil {
		return nil
	}
	var out []string
	for _, name := range caVariables {
		if !hasVariable(env, name) {
			out = append(out, name+"=/"+caFile)
		}
	}
	return out
}

// cleanBundles takes our certificates out of what the command left in the upper directory.
func (r *run) cleanBundles() error {
	if r.spec.Upper == "" {
		return nil
	}
	for at, b := range r.ca.bundles {
		if err := r.cleanBundle(at, b); err != nil {
			return fmt.Errorf("take CA certificates out of /%s: %w", at, err)
		}
	}
	return nil
}

// cleanBundle works on a directory that the command has written: no link in it is followed.
func (r *run) cleanBundle(at string, b caBundle) error {
	upper, err := unix.Open(r.spec.Upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(upper)
	dir, err := openBeneath(upper, path.Dir(at), unix.O_PATH|unix.O_DIRECTORY)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := openBeneath(dir, path.Base(at), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if isGone(err) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), at)
	defer f.Close()
	rest, found, err := strip(f, b.added)
	if err != nil || !found {
		return err
	}
	if bytes.Equal(rest, b.own) && r.sameOwner(at, f) {
		return unix.Unlinkat(dir, path.Base(at), 0)
	}
	return nil
}

func openBeneath(dir int, name string, flags uint64) (int, error) {
	return overlay.OpenAt(dir, name, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
}

func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// strip cuts text out of a file, whose times stay as they are. It returns what is left and whether the text was there.
func strip(f *os.File, text []byte) (rest []byte, found bool, err error) {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxBundle+int64(len(text)) {
		return nil, false, err
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return nil, false, err
	}
	before, after, found := bytes.Cut(content, text)
	if !found {
		return nil, false, nil
	}
	rest = slices.Concat(before, after)
	if _, err := f.WriteAt(rest, 0); err != nil {
		return nil, false, err
	}
	if err := f.Truncate(int64(len(rest))); err != nil {
		return nil, false, err
	}
	mtime, err := unix.TimeToTimespec(st.ModTime())
	if err != nil {
		return nil, false, err
	}
	self := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	return rest, true, unix.UtimesNanoAt(unix.AT_FDCWD, self, []unix.Timespec{mtime, mtime}, 0)
}

// sameOwner tells whether a file in the upper directory has mode and owner of the tree's own, or the tree has none.
func (r *run) sameOwner(at string, f *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	n, err := r.spec.Tree.Lookup(at)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return n.Stat.Mode == st.Mode && n.Stat.Uid == st.Uid && n.Stat.Gid == st.Gid
}
