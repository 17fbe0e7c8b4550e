#!/bin/sh
set -e

# Options alone are for memcached.
if [ "${1#-}" != "$1" ]; then
	set -- memcached "$@"
fi
if [ "$1" = memcached ]; then
	shift
	set -- memcached -m "$MEMCACHED_SIZE" "$@"
fi

exec "$@"
