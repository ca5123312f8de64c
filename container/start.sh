#!/bin/sh
# Starts workerd in the container. Variables of the Worker are environment variables named REPRISE_<VARIABLE>. PORT is the port
# (8787). MAX_SIZE is the size of the store, such as 500MB or 1GiB.
set -eu
dir=/data
at=/opt/reprise
format=1

say() { echo "reprise: $*" >&2; }
fail() { say "$*"; exit 1; }

port=${PORT:-8787}
case $port in '' | *[!0-9]*) fail "PORT expects a number." ;; esac

if [ -n "${MAX_SIZE:-}" ]; then
  size=$(printf %s "$MAX_SIZE" | tr a-z A-Z)
  case $size in
    *IB) units=iec size=${size%IB} ;;
    *[KMGT]B) units=si size=${size%B} ;;
    *) units=none size=${size%B} ;;
  esac
  STORE_MAX_BYTES=$(numfmt --from="$units" "$size" 2>/dev/null) || fail "MAX_SIZE expects a size such as 500MB or 1GiB."
  export STORE_MAX_BYTES
fi

[ -n "${REPRISE_PROXY_TOKENS:-}" ] ||
  say "Without REPRISE_PROXY_TOKENS, everybody who reaches the port may send requests."

# The folder is locked as long as workerd runs, which inherits the open file.
config=$at/no-store.capnp
if (: >>"$dir/container.lock") 2>/dev/null; then
  exec 9>>"$dir/container.lock"
  flock --nonblock 9 || fail "$dir is in use by another container."
  found=$(cat "$dir/format" 2>/dev/null || echo $format)
  [ "$found" = $format ] || fail "$dir has format $found, and this version knows format $format. Use the version that wrote it."
  if mkdir -p "$dir/entries" "$dir/index" "$dir/objects" && echo $format >"$dir/format.next" && mv "$dir/format.next" "$dir/format"; then
    # Files that a killed process had begun to write, and objects of requests that were in flight.
    find "$dir/entries" -type f -name '.*' -delete
    rm -rf "$dir/objects/coalescer"
    config=$at/store.capnp
  fi
fi
[ "$config" = $at/store.capnp ] || say "$dir cannot be written: responses are not stored."

# Names only. A value may be a secret, and reaches workerd through the environment.
names=$(env | sed -n 's/^REPRISE_\([A-Z][A-Z0-9_]*\)=.*/\1/p' | sort -u)
bindings=
for name in ${names:-UNSET}; do
  bindings="$bindings(name = \"$name\", fromEnvironment = \"REPRISE_$name\"), "
done
own=$(mktemp /tmp/reprise.XXXXXX)
sed -e "s|(name = \"VARIABLES\", [^)]*), |$bindings|" -e "s|:PORT\"|:$port\"|" "$config" >"$own"
exec "$at/workerd" serve --experimental "$own"
