#!/bin/sh
# Makes what the tests need from outside and is not there yet: Debian packages
# (as root), and in the cache directory a static busybox, a Debian base image as an
# OCI layout and the registry of distribution v3. Quiet and quick when there is
# nothing to do.
#
#   BUILDER_TEST_CACHE  the cache directory          /var/tmp/builder-test
#   BUILDER_TEST_SUITE  the Debian of the base image bookworm
#
# Tests find the results as $BUILDER_TEST_CACHE/busybox and .../debian (tag "latest"); servers
# that are no Debian packages, built by Go, are in .../bin.
set -eu

cache=${BUILDER_TEST_CACHE:-/var/tmp/builder-test}
suite=${BUILDER_TEST_SUITE:-bookworm}
mirror=${BUILDER_TEST_MIRROR:-http://deb.debian.org/debian}
packages='buildah busybox-static bzip2 ca-certificates curl docker-registry gcc git iproute2 libc6-dev libcap2-bin qemu-user-static
mmdebstrap pigz runc skopeo tar uidmap umoci util-linux xz-utils zstd'

say() { echo "setup: $*"; }

missing_packages() {
	for p in $packages; do
		dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || printf '%s ' "$p"
	done
}

# Packages that bring a service must not start it: the tests start their own.
install_packages() {
	say "apt-get install $*"
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# A minimal Debian without documentation, as an OCI layout. umoci writes it, so
# that the image under the tests is not the work of the program under test.
make_debian() {
	say "Debian $suite base image in $cache/debian"
	work=$(mktemp -d "$cache/new.XXXXXX")
	mmdebstrap --quiet --variant=minbase \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook='rm -rf "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/* "$1"/etc/resolv.conf "$1"/etc/hostname' \
		"$suite" "$work/rootfs.tar" "$mirror"
	umoci init --layout "$work/image"
	umoci new --image "$work/image:latest"
	umoci raw add-layer --image "$work/image:latest" "$work/rootfs.tar"
	umoci config --image "$work/image:latest" --config.cmd bash \
		--config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	umoci gc --layout "$work/image"
	chmod -R a+rX "$work/image"
	rm -rf "$cache/debian"
	mv "$work/image" "$cache/debian"
	rm -rf "$work"
}

# A server that speaks the S3 API over a directory.
versitygw=github.com/versity/versitygw/cmd/versitygw@v1.8.0

missing=$(missing_packages)
if [ -n "$missing" ]; then
	if [ "$(id -u)" = 0 ]; then
		# shellcheck disable=SC2086
		install_packages $missing
	else
		say "not root, the tests that need these are skipped: $missing"
	fi
fi

mkdir -p "$cache"
if [ ! -x "$cache/busybox" ] && command -v busybox >/dev/null; then
	cp "$(command -v busybox)" "$cache/busybox.new"
	mv "$cache/busybox.new" "$cache/busybox"
fi
if [ ! -e "$cache/debian/index.json" ]; then
	if command -v mmdebstrap >/dev/null && command -v umoci >/dev/null; then
		make_debian
	else
		say 'no mmdebstrap or umoci: the tests on a Debian base are skipped'
	fi
fi

# Servers to test against that are no Debian packages: the registry that Debian's grew
# into, and one that speaks S3. They are programs of their own, so none of their modules
# is in our go.mod.
go_install() { # PROGRAM PACKAGE@VERSION
	[ ! -x "$cache/bin/$1" ] || return 0
	say "go install $2"
	mkdir -p "$cache/bin"
	new=$(mktemp -d "$cache/new.XXXXXX")
	(cd "$new" && GOBIN="$new" GOFLAGS=-mod=mod CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$2") &&
		mv "$new/$1" "$cache/bin/$1" || say "no $1: the tests against it are skipped"
	rm -rf "$new"
}
go_install registry github.com/distribution/distribution/v3/cmd/registry@v3.1.2
go_install versitygw "$versitygw"
