#!/bin/sh
set -e
for t in /etc/nginx/conf.d/*.template; do
	envsubst '${PORT}' < "$t" > "${t%.template}"
done
