#!/bin/bash
# Stores a value in a memcached of its own and reads it again.
set -eu
docker-entrypoint.sh -l 127.0.0.1 -p 11211 -d -P /tmp/memcached.pid
for _ in {1..50}; do
	if { exec 3<>/dev/tcp/127.0.0.1/11211; } 2>/dev/null; then break; fi
	sleep 0.1
done
printf 'set greeting 0 60 5\r\nhello\r\nget greeting\r\nstats settings\r\nquit\r\n' >&3
tr -d '\r' <&3 | awk '/^hello$/ { said = $1 } / maxbytes / { size = $3 / 1048576 }
	END { printf "%s from %d MB", said, size }'
echo ", $(id -un), $(cat /usr/local/share/memcached.bits) bits"
