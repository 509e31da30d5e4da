#!/usr/bin/env bash
# Makes the virtual environment and installs the locked requirements and this project into it.
#
#   setup-python.sh VENV REQUIREMENTS
#
# PYTHON names the interpreter; otherwise the first of a few names that runs and is 3.11 or newer.
# uv is the one on PATH, else a pinned one that pip puts into the virtual environment.
set -euo pipefail

venv=$1
requirements=$2
export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_PROGRESS=1
# The certificates this machine trusts, like pip; uv by itself has a list of its own.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"

fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null </dev/null
}

find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || fail "PYTHON=$PYTHON does not run, or is older than Python 3.11."
    echo "$PYTHON"
    return
  fi
  for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if command -v "$name" >/dev/null && new_enough "$name"; then
      echo "$name"
      return
    fi
  done
  fail "no Python 3.11 or newer found. On Debian 12/13 and Ubuntu 24.04: apt-get install python3 python3-venv." \
    "On Ubuntu 22.04: apt-get install python3.11 python3.11-venv. Or name one: make setup PYTHON=/path/to/python3"
}

make_venv() {
  local python version
  python=$(find_python)
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  # Debian and Ubuntu split these off Python; without them venv fails half-way with a long story.
  "$python" -c 'import venv' 2>/dev/null ||
    fail "Python $version has no venv module. As root, type: apt-get install python$version-venv"
  if [ -z "$uv" ] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
    fail "Python $version cannot put pip into a virtual environment. As root, type: apt-get install python$version-venv"
  fi
  echo "setup: making $venv with Python $version"
  rm -rf "$venv"
  "$python" -m venv ${uv:+--without-pip} "$venv"
}

uv=
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
  uv=$(command -v uv)
fi

[ -x "$venv/bin/python" ] && new_enough "$venv/bin/python" || make_venv

if [ -z "$uv" ]; then
  uv=$venv/bin/uv
  if ! "$uv" --version >/dev/null 2>&1; then
    echo "setup: uv is not on PATH; installing it into $venv"
    "$venv/bin/python" -m pip install --quiet --require-hashes -r scripts/setup-uv.txt </dev/null
  fi
fi

by_pip() {
  # pip reads a configuration (mirror, certificates) that uv does not.
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null 2>&1 ||
    fail "uv could not install $requirements; its reason is above."
  echo "setup: uv could not; trying pip" >&2
  "$venv/bin/python" -m pip install --quiet --require-hashes -r "$requirements" </dev/null
}

# Compiled now: the first `bay run` would do it otherwise, which takes some 20 s, and as root in a directory of a user's.
echo "setup: installing $requirements"
"$uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --require-hashes -r "$requirements" </dev/null || by_pip
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --offline -e . </dev/null
"$venv/bin/python" -m compileall -qq src || true # a read-only checkout works all the same
