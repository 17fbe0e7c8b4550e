#!/bin/sh
set -e

# What is in /docker-entrypoint.d prepares the server, in the order of its names.
if [ "$1" = nginx ]; then
	for f in $(find /docker-entrypoint.d/ -follow -type f -name '*.sh' | sort); do
		[ -x "$f" ] && "$f"
	done
fi

exec "$@"
