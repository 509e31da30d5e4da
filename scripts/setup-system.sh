#!/usr/bin/env bash
# Makes sure that the system packages Bay stands on are there.
#
#   setup-system.sh [tests]     tests: also what only the tests need
#
# A package is judged by the command or the file it brings. As root with apt-get they are installed; anyone else
# gets the exact command to type, and exit code 1.
set -euo pipefail

# command and the package that brings it. /usr/bin/python3: the `host` image shows the host's /usr.
needs=(
  "runc runc"
  "mkfs.btrfs btrfs-progs"
  "mount mount"
  "/usr/sbin/nft nftables" # its library, for the networks of sandboxes
  "/usr/bin/bash bash"
  "/usr/bin/python3 python3"
  "skopeo skopeo" # fetches images
)
packages=/usr/lib/python3/dist-packages
initdb=$(compgen -G "/usr/lib/postgresql/*/bin/initdb" | tail -n 1 || true) # each version has a folder of its own
[ "${1:-}" = tests ] && needs+=(
  "ip iproute2"
  "pgrep procps"
  "git git"
  "crun crun" # another OCI runtime, for `bay doctor --runtime`
  "docker-registry docker-registry" # the tests pull from it, with a password and a certificate
  "htpasswd apache2-utils"
  "openssl openssl"
  "dropbear dropbear-bin"
  "ssh openssh-client"
  "caddy caddy" # with nginx: the proxies in deploy/
  "nginx nginx-light"
  "${initdb:-initdb} postgresql" # the store's other database, of which the tests start a server
  "haproxy haproxy" # before several Bays
  "systemd-analyze systemd" # looks at the units in deploy/
  "busybox busybox-static" # with musl and mmdebstrap: images for sandboxes to start from
  "/lib/ld-musl-$(uname -m).so.1 musl"
  "mmdebstrap mmdebstrap"
  "node nodejs"
  "npm npm"
  "chromium chromium" # looks at a Vite dev server in a sandbox
  "$packages/matplotlib/__init__.py python3-matplotlib" # figures and tables of kernels, which use the host's Python
  "$packages/pandas/__init__.py python3-pandas"
)

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
missing=()
for need in "${needs[@]}"; do
  read -r command package <<<"$need"
  command -v "$command" >/dev/null || [ -f "$command" ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

command_line="apt-get install -y --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  echo "setup: these packages are missing: ${missing[*]} (names as in Debian). Install them and try again." >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "setup: these packages are missing: ${missing[*]}. As root, type:" >&2
  echo "  apt-get update && $command_line" >&2
  exit 1
fi

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Package lists may be missing or old: fetch them only when the first try shows it.
if ! $command_line </dev/null >"$log" 2>&1; then
  if ! { apt-get update && $command_line; } </dev/null >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup: could not install ${missing[*]}; the command was: apt-get update && $command_line" >&2
    exit 1
  fi
fi
