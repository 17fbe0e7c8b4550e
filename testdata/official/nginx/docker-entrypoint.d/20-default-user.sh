#!/bin/sh
# The user is given on the command line.
sed -i '/^user /d' /etc/nginx/nginx.conf
