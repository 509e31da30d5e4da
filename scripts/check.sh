#!/usr/bin/env bash
# Format, lint, types, the generated SDK and the lock files: one line each, the whole story only of what fails.
#
#   check.sh BIN     BIN: the folder with python, ruff and pyright
set -euo pipefail

bin=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0

check() {
  local name=$1
  shift
  if "$@" >"$log" 2>&1 </dev/null; then
    printf 'check: %-7s ok\n' "$name"
  else
    cat "$log"
    printf 'check: %-7s FAILED: %s\n' "$name" "$*"
    failed=1
  fi
}

export PYRIGHT_PYTHON_IGNORE_WARNINGS=1
check format "$bin/ruff" format --check
check lint "$bin/ruff" check
check types "$bin/pyright"
check sdk "$bin/python" scripts/generate_sync.py --check
check lock "$bin/python" -m pytest -q tests/project/test_lock.py
exit $failed
