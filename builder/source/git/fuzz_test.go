package git

import (
	"strings"
	"testing"
)

// FuzzOutput reads what git prints of a hostile remote: refs, a tree, a .gitmodules, a commit.
func FuzzOutput(f *testing.F) {
	hash := strings.Repeat("a", 40)
	f.Add("ref: refs/heads/main\tHEAD\n"+hash+"\tHEAD\n", "")
	f.Add(hash+"\trefs/tags/v1\n"+hash+"\trefs/tags/v1^{}\n", "v1")
	f.Add("ref: --upload-pack=x\tHEAD\n"+hash+"\tHEAD", "")
	f.Add("100644 blob "+hash+"       5\ta\x00160000 commit "+hash+"       -\tsub/m\x00", "sub")
	f.Add("100644 blob "+hash+" -9223372036854775808\ta\x00100644 blob "+hash+" 9223372036854775807\tb\x00", "")
	f.Add("submodule.a.b.path\nsub/\x00submodule.a.b.url\n../x\x00submodule.c.update\nnone\x00submodule.\x00", "sub")
	f.Add("tree x\ncommitter A <a@b> 1700000000 +0000\n\ncommitter\n", "")
	f.Fuzz(func(t *testing.T, out, ref string) {
		commitTime(out)
		const most = 100
		paths, links, err := parseTree(out, ref, most)
		if err == nil && len(paths) > len(out) {
			t.Errorf("paths %q of %q", paths, out)
		}
		subs, err := withURLs(append(links, submodule{path: ref, commit: ref}), out)
		for _, m := range subs {
			if err == nil && m.url == "" {
				t.Errorf("%q has no URL", m.path)
			}
		}
		if checkRef(ref) != nil {
			return
		}
		if tip, err := pick(out, ref); err == nil && (!IsHash(tip.Object) || !IsHash(tip.Commit) || checkRef(tip.Ref) != nil) {
			t.Errorf("%q points at %+v", ref, tip)
		}
	})
}

// FuzzRemote reads remotes and the URLs of submodules that are relative to them. What is taken shows no password and is
// no option, and reads as the same again.
func FuzzRemote(f *testing.F) {
	f.Add("https://user:secret@example.com:8443/a/b.git", "../c")
	f.Add("git@example.com:a/b", "../../../x")
	f.Add("ssh://-oProxyCommand=x@h/a", "./-x")
	f.Add("github.com/a/b", "..//c")
	f.Add("git://[::1]:9418/a", "../ext::sh")
	f.Fuzz(func(t *testing.T, raw, to string) {
		r, err := parseRemote(raw)
		if err != nil {
			return
		}
		checkRemote(t, r)
		next, err := r.relative(to)
		if err != nil {
			return
		}
		if sub, err := parseRemote(next); err == nil {
			if checkRemote(t, sub); sub.url.Host != r.url.Host || sub.url.Scheme != r.url.Scheme {
				t.Errorf("%q relative to %q is %q", to, raw, next)
			}
		}
	})
}

func checkRemote(t *testing.T, r *remote) {
	t.Helper()
	shown := r.String()
	if shown == "" || shown[0] == '-' || r.web() && strings.Contains(shown, "@") && r.url.User != nil {
		t.Errorf("shown as %q", shown)
	}
	again, err := parseRemote(shown)
	if err != nil || again.String() != shown || len(again.secrets) > 0 {
		t.Errorf("%q reads as %v, %v", shown, again, err)
	}
}
