#!/usr/bin/env bash
# Makes what the test with a browser needs (tests/network/test_browser.py), which is left out without it: Chromium, Node, and the
# modules of tests/network/vite as its lock file has them. Before the tests, whose network leads nowhere.
set -euo pipefail
cd "$(dirname "$0")/../tests/network/vite"

missing=()
for need in chromium "node nodejs" npm; do
  read -r command package <<<"$need"
  command -v "$command" >/dev/null || missing+=("${package:-$command}")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" -eq 0 ] || { echo "setup: as root, type: apt-get install -y --no-install-recommends ${missing[*]}" >&2; exit 1; }
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
fi
# Without the scripts of packages: none is needed, and none is read by anybody here.
[ node_modules -nt package-lock.json ] || npm ci --ignore-scripts --no-audit --no-fund
