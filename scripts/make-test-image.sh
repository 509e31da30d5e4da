#!/usr/bin/env bash
# Makes the Debian from which tests start sandboxes: apt and Python, as a tar.
#
#   make-test-image.sh FILE
#
# Needs root; for anyone else it makes none, and tests that want it are skipped.
set -euo pipefail

[ "$(id -u)" -eq 0 ] || exit 0
. /etc/os-release
sources=/etc/apt/sources.list.d/debian.sources
[ -s "$sources" ] || sources=/etc/apt/sources.list
[ -s "$sources" ] || sources=
mkdir -p "$(dirname "$1")"
made=$(mktemp --suffix .tar --tmpdir="$(dirname "$1")" .debian-XXXXXX)
trap 'rm -f "$made"' EXIT
mmdebstrap --quiet --variant=apt --include=passwd,python3,python3-pip "${VERSION_CODENAME:-stable}" "$made" ${sources:+"$sources"} </dev/null
mv "$made" "$1"
