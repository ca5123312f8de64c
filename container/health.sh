#!/bin/bash
# Whether the Worker responds, for HEALTHCHECK. The image has no program that speaks HTTP.
exec 3<>"/dev/tcp/127.0.0.1/${PORT:-8787}" || exit 1
printf 'GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' >&3
read -r -t 5 _ status _ <&3
[ "$status" = 200 ]
