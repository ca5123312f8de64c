#!/bin/sh
# curl through Reprise: the base URL is the only change.
#
#   npm start                          (in another terminal)
#   OPENAI_API_KEY=… sh samples/sample-usage.sh
set -eu
url="${OPENAI_BASE_URL:-http://localhost:8787/proxy}/chat/completions"

# send LABEL [HEADER]…: sends the same request and prints what the cache did.
send() {
  echo "$1:"
  shift
  for header in "$@"; do
    set -- "$@" -H "$header"
    shift
  done
  curl --silent --show-error --fail-with-body --include "$url" \
    -H "Authorization: Bearer $OPENAI_API_KEY" \
    -H 'Content-Type: application/json' \
    "$@" \
    -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Write a haiku about computers."}]}' |
    grep -i -e '^x-cache-status' -e '^cache-status' -e '"content"'
}

# The first request goes to OpenAI, unless it was sent before with this key.
send first
# The second is served from the cache.
send second
# A new response that expires after a day. The request that stores a response determines its lifetime.
send 'refreshed, for a day' 'X-Proxy-Refresh: true' 'X-Proxy-TTL: 86400'
