#!/bin/sh
set -e

# "say TEXT" starts a broker, leaves a message there and fetches it again.
if [ "$1" = say ]; then
	printf 'listener 1883 127.0.0.1\nallow_anonymous false\npassword_file /etc/mosquitto/passwd\n' > /tmp/m.conf
	mosquitto -d -c /tmp/m.conf
	for i in 1 2 3 4 5 6 7 8 9 10; do
		mosquitto_pub -u builder -P "$MQTT_PASSWORD" -t words -r -m "$2" 2> /dev/null && break
		sleep 0.2
	done
	if mosquitto_pub -u builder -P wrong -t words -m no 2> /dev/null; then
		exit 1
	fi
	exec mosquitto_sub -u builder -P "$MQTT_PASSWORD" -t words -C 1 -W 5
fi

exec "$@"
