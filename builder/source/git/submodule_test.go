package git

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// withModule makes a repository that has commit as a submodule in path, of a URL that git itself might refuse.
func withModule(t *testing.T, root, name, path, url, commit string) string {
	t.Helper()
	w := newWork(t, root)
	w.write("file", "super")
	quoted := strings.NewReplacer("\\", "\\\\", "\"", "\\\"", "\n", "\\n").Replace(path)
	w.write(".gitmodules", "[submodule \"m\"]\n\tpath = \""+quoted+"\"\n\turl = "+url+"\n")
	git(t, w.dir, "add", "--all")
	git(t, w.dir, "update-index", "--add", "--cacheinfo", "160000,"+commit+","+path)
	git(t, w.dir, "commit", "--quiet", "-m", "super")
	w.push(name)
	return w.rev("HEAD")
}

func TestSubmodules(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	inner := withModule(t, b.root, "inner", "in/ner", b.URL+"/r.git", s.first)
	withModule(t, b.root, "outer", "mod", "../inner.git", inner)
	for _, keep := range []bool{false, true} {
		req := request(t, b.URL+"/outer.git", "main")
		req.Submodules, req.KeepGitDir = true, keep
		if _, err := Checkout(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		got := list(t, req.Dir)
		if got["file"] != "-rw-r--r-- super" || got["mod/file"] != "-rw-r--r-- super" || got["mod/in/ner/file"] != "-rw-r--r-- one" {
			t.Errorf("%q", got)
		}
		if _, err := os.Lstat(req.Dir + "/mod/in/ner/.git/HEAD"); (err == nil) != keep {
			t.Error(err)
		}
		if keep && git(t, req.Dir+"/mod", "rev-parse", "HEAD") != inner {
			t.Error("the submodule is elsewhere")
		}
	}
	req := request(t, b.URL+"/outer.git", "main")
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := list(t, req.Dir); got["mod"] != "drwxr-xr-x" || len(got) != 3 {
		t.Errorf("%q", got)
	}
	req = request(t, b.URL+"/outer.git", "main")
	req.Submodules, req.Subdir, req.KeepGitDir = true, "mod/in", true
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := list(t, req.Dir); got["ner/file"] != "-rw-r--r-- one" || got["file"] != "" {
		t.Errorf("%q", got)
	}
}

// A submodule of the repository that holds it, at an older commit, waits for no lock of its own.
func TestSubmoduleOfItself(t *testing.T) {
	t.Parallel()
	b := serve(t)
	w := newWork(t, b.root)
	w.write("f", "old")
	old := w.commit("old")
	w.write(".gitmodules", "[submodule \"self\"]\n\tpath = self\n\turl = ./\n[submodule \"gone\"]\n\tpath = gone\n\turl = x\n\tupdate = none\n")
	git(t, w.dir, "add", "--all")
	git(t, w.dir, "update-index", "--add", "--cacheinfo", "160000,"+old+",self", "--cacheinfo", "160000,"+old+",gone")
	git(t, w.dir, "commit", "--quiet", "-m", "new")
	w.push("r")
	req := request(t, b.URL+"/r.git", "main")
	req.Submodules = true
	if _, err := Checkout(t.Context(), req); err != nil || list(t, req.Dir)["self/f"] != "-rw-r--r-- old" {
		t.Error(err)
	}
}

func TestHostileSubmodules(t *testing.T) {
	t.Parallel()
	b, h := serve(t), newHost(t)
	s := newSimple(t, b.root, "r")
	local := newSimple(t, t.TempDir(), "local")
	local.write("secret", "host secret")
	commit := local.commit("secret")
	for name, c := range map[string]struct{ path, url string }{
		"file":          {"m", "file://" + local.dir},
		"plain path":    {"m", local.dir},
		"relative path": {"m", "../../../../../../.." + local.dir},
		"ext":           {"m", "\"ext::sh -c touch% " + h.dir + "/pwn\""},
		"option":        {"m", "\"--upload-pack=touch " + h.dir + "/pwn\""},
		"ssh option":    {"m", "\"ssh://-oProxyCommand=touch " + h.dir + "/pwn/x\""},
		"carriage":      {"m\r", b.URL + "/r.git"},
		"line feed":     {"m\nx", b.URL + "/r.git"},
		"helper":        {"m", "http::" + b.URL + "/r.git"},
	} {
		id := commit
		if c.path != "m" {
			id = s.head
		}
		withModule(t, b.root, "evil", c.path, c.url, id)
		req := request(t, b.URL+"/evil.git", "main")
		req.Submodules = true
		_, err := Checkout(t.Context(), req)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		h.check(t, req.Dir)
		// What is not asked for does no harm either.
		req = request(t, b.URL+"/evil.git", "main")
		if _, err := Checkout(t.Context(), req); err != nil && !said(err, "gitmodules", "fsck") {
			t.Errorf("%s, without submodules: %v", name, err)
		}
		h.check(t, req.Dir)
	}
}

// rawEntry is an entry of a tree object.
func rawEntry(mode, name, id string) string {
	raw, _ := hex.DecodeString(id)
	return mode + " " + name + "\x00" + string(raw)
}

// tree writes a tree object, whatever git thinks of it.
func (w *work) tree(entries ...string) string {
	w.t.Helper()
	w.write("tree", strings.Join(entries, ""))
	return git(w.t, w.dir, "hash-object", "-w", "-t", "tree", "--literally", "tree")
}

// Trees that git would not write are not read: names that leave the tree, or that the checkout would take for others.
func TestHostileTrees(t *testing.T) {
	t.Parallel()
	b, h := serve(t), newHost(t)
	w := newWork(t, b.root)
	w.write("f", "evil")
	blob := git(t, w.dir, "hash-object", "-w", "f")
	w.write("to", h.dir)
	link := git(t, w.dir, "hash-object", "-w", "to")
	sub := w.tree(rawEntry("100644", "new", blob))
	for name, tree := range map[string]string{
		"dotdot":     w.tree(rawEntry("40000", "..", sub)),
		"git dir":    w.tree(rawEntry("40000", ".git", sub)),
		"GIT dir":    w.tree(rawEntry("40000", ".GIT", sub)),
		"git~1":      w.tree(rawEntry("40000", "git~1", sub)),
		"slash":      w.tree(rawEntry("100644", "a/../../x", blob)),
		"absolute":   w.tree(rawEntry("100644", h.dir+"/x", blob)),
		"link twice": w.tree(rawEntry("120000", "a", link), rawEntry("40000", "a", sub)),
		"empty name": w.tree(rawEntry("100644", "", blob)),
	} {
		git(t, w.dir, "update-ref", "refs/heads/main", git(t, w.dir, "commit-tree", "-m", name, tree))
		w.push("evil")
		for _, subdir := range []string{"", "a"} {
			req := request(t, b.URL+"/evil.git", "main")
			req.Subdir = subdir
			if _, err := Checkout(t.Context(), req); err == nil {
				t.Errorf("%s: accepted: %q", name, list(t, req.Dir))
			}
			h.check(t, req.Dir)
		}
	}
}

// A .gitmodules that is a link, or that includes a file of the host, tells nothing.
func TestHostileModuleFile(t *testing.T) {
	t.Parallel()
	b, h := serve(t), newHost(t)
	s := newSimple(t, b.root, "r")
	included := h.dir + "-modules"
	defer os.Remove(included)
	content := "[submodule \"m\"]\n\tpath = m\n\turl = " + b.URL + "/r.git\n"
	if err := os.WriteFile(included, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, link := range []bool{true, false} {
		w := newWork(t, b.root)
		mode := "100644"
		w.write("modules", "[include]\n\tpath = "+included+"\n")
		if link {
			mode = "120000"
			w.write("modules", included)
		}
		blob := git(t, w.dir, "hash-object", "-w", "modules")
		tree := w.tree(rawEntry(mode, ".gitmodules", blob), rawEntry("160000", "m", s.head))
		git(t, w.dir, "update-ref", "refs/heads/main", git(t, w.dir, "commit-tree", "-m", "x", tree))
		w.push("evil")
		req := request(t, b.URL+"/evil.git", "main")
		req.Submodules = true
		if _, err := Checkout(t.Context(), req); err == nil {
			t.Errorf("link %v: accepted", link)
		}
	}
}

// Credentials go to submodules on the same server only, and a repository elsewhere cannot point to this machine.
func TestSubmoduleServers(t *testing.T) {
	t.Parallel()
	main, other := serve(t), serve(t)
	main.auth = basic("user", "hidden")
	s := newSimple(t, main.root, "r")
	newSimple(t, other.root, "r")
	inner := withModule(t, main.root, "inner", "m", other.URL+"/r.git", s.head)
	withModule(t, main.root, "outer", "m", main.URL+"/inner.git", inner)
	req := request(t, strings.Replace(main.URL, "http://", "http://user:hidden@", 1)+"/outer.git", "")
	req.Submodules = true
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for _, r := range other.requests {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s: credentials went along", r.URL)
		}
	}
	public := servePublic(t)
	for _, url := range []string{other.URL + "/r.git", daemon(t, other.root) + "/r.git", "http://169.254.169.254/r.git", "root@localhost:r.git"} {
		withModule(t, public.root, "r", "m", url, s.head)
		req = request(t, public.URL+"/r.git", "")
		req.Submodules = true
		if _, err := Checkout(t.Context(), req); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
