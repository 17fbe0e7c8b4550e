package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// differencesText copies a tree of many files in the ways in which only what differs may be copied, over what the base has
// already, and lists what a command then sees. By default it does not go to the end.
const differencesText = `FROM shell AS base
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /app/d1/own /app/d1/e5 /app/d2 /to/d1; echo app:x:7:8::/: > /etc/passwd; chmod 711 /app/d1; \
  echo base | tee /app/d1/e5/f150 /app/d1/own/f /app/n3 /to/f; ln /to/f /to/g; ln -s to /link

FROM base AS made
COPY --chown=app tree /made/
RUN rm -rf /made/d7/e36 /made/n1; echo made > /made/made; find /made/d4 -type f -exec chmod 600 {} +

FROM base AS usual
ARG MODE
COPY --chmod=$MODE --exclude=**/n2* --exclude=d0/e* --exclude=!d0/e[0-3] tree Dockerfile <<inline /app/
text
inline
COPY --from=made /made /copied
` + differencesSeen + `
FROM usual
COPY --parents ./tree/./d* ./tree/n* /parents/
ADD tree/d6/ tree Dockerfile /link/
COPY --link --chown=7:8 tree /parents/linked/
` + differencesSeen

const differencesSeen = `RUN set -e; find app parents to copied -type d | sort | xargs stat -c '%n %f %u %g' > /dirs; \
  find app parents to copied ! -type d | sort | xargs stat -c '%N %f %u %g %s' > /files; \
  find app parents to copied -type f | sort | xargs sha256sum > /sums
`

// differences is a tree that is edited, and a store that has built it over and over.
type differences struct {
	*cli
	rng  *rand.Rand
	dir  string   // of the context
	tree string   // of what is copied
	more []string // arguments of all builds
	log  []string
}

// stampTime is how old a file has to be for its stamp to tell of later changes.
const stampTime = 2100 * time.Millisecond

// enough is how many files there have to be for copies to be compared, a few excluded.
const enough = 1050

// modes are what a COPY has as --chmod, mostly the first.
var modes = []string{"--build-arg=MODE=u=rwX,go=rX", "--build-arg=MODE=755", "--build-arg=MODE=u+r"}

// TestDifferences edits a tree of many files, and builds it in a store that knows how it was before and in an empty one:
// the images have the same digest, whatever was edited, killed, pruned or built otherwise in between. With $BUILDER_TORTURE
// it goes on for that long, with other edits each time.
func TestDifferences(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	t.Parallel()
	seed, more := uint64(6), []string{"--target=usual"}
	long := tortureTime(t, 0)
	if long > 0 {
		seed, more = uint64(time.Now().UnixNano()), nil
	}
	d := newDifferences(t, seed)
	d.more = more
	time.Sleep(stampTime)
	d.run(d.build(d.root, modes[0])...)
	rounds, shared := 0, 0
	for end := time.Now().Add(long); rounds < 1 || time.Now().Before(end); rounds++ {
		d.round(rounds)
		shared += d.sharing()
	}
	d.run("check")
	d.sound()
	t.Logf("seed %d: %d rounds, %d copies brought differences alone", seed, rounds, shared)
	if shared == 0 {
		t.Error("that tells nothing")
	}
}

func newDifferences(t *testing.T, seed uint64) *differences {
	d := &differences{cli: newCLI(t), rng: rand.New(rand.NewPCG(seed, 7)), dir: busyboxContext(t, "")}
	d.env = []string{"SOURCE_DATE_EPOCH=1000000000"}
	d.write("base/Dockerfile", "FROM scratch\nCOPY busybox /bin/busybox\n")
	must(t, "mv", filepath.Join(d.dir, "busybox"), filepath.Join(d.dir, "base"))
	d.run("build", "-q", "-o", "type=oci,tar=false,dest="+filepath.Join(d.dir, "layout"), filepath.Join(d.dir, "base"))
	d.write("Dockerfile", differencesText)
	d.tree = filepath.Join(d.dir, "tree")
	d.plant()
	return d
}

// plant makes the tree anew.
func (d *differences) plant() {
	d.t.Helper()
	must(d.t, "rm", "-rf", d.tree, filepath.Join(d.dir, ".dockerignore"))
	for i := range 1200 {
		d.write(fmt.Sprintf("tree/d%d/e%d/f%d", i/150, i/30, i), fmt.Sprint("content of ", i))
	}
}

func (d *differences) write(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// build is the arguments of a build with a store at root.
func (d *differences) build(root string, more ...string) []string {
	shell := "shell=oci-layout://" + filepath.Join(d.dir, "layout")
	return slices.Concat([]string{"build", "-q", "--root", root, "--build-context", shell, d.dir}, more, d.more)
}

// round edits the tree and compares.
func (d *differences) round(n int) {
	d.t.Helper()
	if n%4 == 3 {
		time.Sleep(stampTime)
	}
	for range 1 + d.rng.IntN(1<<d.rng.IntN(6)) {
		d.edit()
	}
	d.between()
	fresh := filepath.Join(d.t.TempDir(), "fresh")
	mode := modes[max(d.rng.IntN(12)-9, 0)]
	want := make(chan string)
	go func() { want <- d.result(fresh, mode) }()
	got := d.result(d.root, mode)
	if want := <-want; got != want {
		d.t.Fatalf("round %d: %s, and with an empty store %s\n%s\n%s", n, got, want, d.dir, strings.Join(d.log, "\n"))
	}
	must(d.t, "rm", "-rf", fresh)
	if !strings.HasPrefix(got, "sha256:") { // some file went where the base has a directory
		d.t.Logf("round %d: %s", n, got)
	}
	if _, files := d.survey(); len(files) < enough || !strings.HasPrefix(got, "sha256:") {
		d.plant()
	}
}

// result is the ID of the image that a build makes in a store, or the error.
func (d *differences) result(root string, more ...string) string {
	out, err := d.command(d.build(root, more...)...).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return string(out)
}

// between does something else with the store before the next build.
func (d *differences) between() {
	what := d.rng.IntN(10)
	d.log = append(d.log, fmt.Sprint("between ", what))
	switch what {
	case 0:
		d.run("prune", "-f")
	case 1:
		d.run("prune", "-f", "--max-used-space", "1MB")
	case 2:
		d.run("check")
	case 3:
		d.result(d.root, "--no-cache", modes[0])
	case 4:
		d.result(d.root, "--snapshotter=native", "--store-limit=3MB", modes[0])
	case 5, 6, 7:
		d.killed()
	}
}

// killed is a build that does not get to its end.
func (d *differences) killed() {
	cmd := d.command(d.build(d.root, modes[0])...)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	time.Sleep(time.Duration(d.rng.IntN(600)) * time.Millisecond)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	d.edit()
}

// sharing is how many snapshots hold only what differs from another.
func (d *differences) sharing() (n int) {
	metas, _ := filepath.Glob(filepath.Join(d.root, "trees/*/meta"))
	for _, path := range metas {
		if b, _ := os.ReadFile(path); bytes.Contains(b, []byte(`"shared":1`)) {
			n++
		}
	}
	return n
}

// edit makes one change that a user can make and read.
func (d *differences) edit() {
	d.t.Helper()
	dirs, files := d.survey()
	dir, file := dirs[d.rng.IntN(len(dirs))], files[d.rng.IntN(len(files))]
	fresh := filepath.Join(dirs[d.rng.IntN(len(dirs))], fmt.Sprintf("n%d", d.rng.IntN(30)))
	for _, err := os.Lstat(fresh); err == nil; _, err = os.Lstat(fresh) {
		fresh += "x"
	}
	sh := edits[d.rng.IntN(len(edits))]
	if filepath.Dir(dir) == d.tree || dir == d.tree || strings.HasPrefix(fresh, dir+"/") {
		dir = filepath.Join(d.tree, "none") // what the Dockerfile names stays
	}
	d.log = append(d.log, fmt.Sprintf("%s; file %s dir %s fresh %s", sh, file, dir, fresh))
	must(d.t, "sh", "-c", sh, "sh", file, dir, fresh, d.dir, fmt.Sprint(d.rng.IntN(1e6)))
}

// edits are of a file $1, a directory $2 and a new name $3; $4 is the context.
var edits = []string{
	`[ ! -f "$1" ] || echo $5 >> "$1"`,
	`touch -d @$(($5 % 100000)) "$1"`,
	`echo new > "$3"`,
	`mkdir "$3"`,
	`mkdir "$3"; cp -a "$1" "$3/copy"; cp -a "$1" "$3/n1"`,
	`rm -f "$1"`,
	`rm -rf "$2"`,
	`mv "$1" "$3"`,
	`[ ! -d "$2" ] || mv "$2" "$3"`,
	`ln "$1" "$3"`,
	`ln "$1" "$3"; ln "$1" "$3.too" || true`,
	`ln -s ../d1 "$3"`,
	`mkfifo "$3"`,
	`rm -f "$1"; mkdir "$1"; echo below > "$1/n1"`,
	`[ ! -d "$2" ] || { rm -r "$2"; echo file > "$2"; }`,
	`[ ! -d "$2" ] || { mv "$2" "$2.old"; mkdir "$2"; mv "$2.old" "$2/n5"; }`,
	`[ ! -d "$2" ] || { cp -a "$2" "$2.new"; rm -r "$2"; mv "$2.new" "$2"; }`,
	`[ -h "$1" ] || chmod $(($5 % 3 + 5))44 "$1"`,
	`[ ! -d "$2" ] || chmod 7$(($5 % 3 + 5))5 "$2"`,
	`[ -h "$1" ] || setfattr -n user.k -v $5 "$1" 2> /dev/null || true`,
	`echo "tree/d*/e$(($5 % 40))" > "$4/.dockerignore"`,
	`printf '*/d2\n!*/d2/e1*\n**/n4\n' > "$4/.dockerignore"`,
	`rm -f "$4/.dockerignore"`,
	`head -c 9000000 /dev/zero | tr '\0' $(($5 % 10)) > "$3"`,
	`sed -i s/of/by/ "$(dirname "$1")"/f* 2> /dev/null || true`,
}

// survey lists the directories, the root first, and all other files.
func (d *differences) survey() (dirs, files []string) {
	err := filepath.WalkDir(d.tree, func(path string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			dirs = append(dirs, path)
		} else {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return dirs, files
}
