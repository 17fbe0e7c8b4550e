# Makes the repository that cases fetch, with the same commits at every time:
#   main     f "two", sub/g, run.sh (0755), link -> f, .dockerignore (f)
#   v1       a tag with a message, of the first commit: f "one"
#   side     a branch with a file "side"
#   lib      a submodule of lib.git (on the branch "modules")
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
commit() {
	GIT_AUTHOR_DATE="$1 +0000" GIT_COMMITTER_DATE="$1 +0000" git commit -q -m "$2"
}
git init -q -b main lib
(cd lib && echo lib >lib.c && git add . && commit 1400000000 lib)
git clone -q --bare lib lib.git
git init -q -b main work
cd work
echo one >f
git add .
commit 1400000100 one
GIT_COMMITTER_DATE='1400000100 +0000' git tag -a -m v1 v1
echo two >f
mkdir sub
echo g >sub/g
printf '#!/bin/sh\n' >run.sh
chmod 755 run.sh
ln -s f link
echo f >.dockerignore
git add .
commit 1400000200 two
git checkout -q -b side
echo side >side
git add .
commit 1400000300 side
git checkout -q -b modules main
git -c protocol.file.allow=always submodule --quiet add ../lib.git lib
git config -f .gitmodules submodule.lib.url ../lib.git
git add .
commit 1400000400 modules
git checkout -q main
cd ..
git clone -q --bare work repo.git
git -C repo.git config uploadpack.allowAnySHA1InWant true
git -C repo.git update-server-info
git -C lib.git update-server-info
