#!/bin/sh
# curl through Reprise: the base URL is the only change.
#
#   npm start                          (in another terminal)
#   OPENAI_API_KEY=… sh samples/sample-usage.sh
set -eu
url="${OPENAI_BASE_URL:-http://localhost:8787/proxy}/chat/completions"

# ask WHAT [HEADER]…: asks the same question and says what the cache did.
ask() {
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

# The first call goes to OpenAI, unless somebody with this key has asked before …
ask first
# … and the second comes from the cache.
ask second
# An answer that expires a day after it was stored: the lifetime belongs to the call that stores it.
ask 'refreshed, for a day' 'X-Proxy-Refresh: true' 'X-Proxy-TTL: 86400'
