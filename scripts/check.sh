#!/usr/bin/env bash
# Format, lint, types, texts, the generated SDK and the lock files: one line each, the whole story only of what fails.
#
#   check.sh BIN        BIN: the folder with python, ruff and pyright
#   check.sh BIN fast   format, lint, the types of the files that differ from the main branch, the tests marked `pure`
set -euo pipefail

bin=$1
scope=${2:-all}
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
if [ "$scope" = fast ]; then
  base=$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD)
  mapfile -t changed < <(git diff --name-only --diff-filter=d "$base" -- '*.py'; git ls-files -o --exclude-standard -- '*.py')
  [ ${#changed[@]} -eq 0 ] || check types "$bin/pyright" "${changed[@]}"
  mapfile -t pure < <(grep -rl --include='test_*.py' 'mark\.pure' tests)
  check tests "$bin/python" -m pytest -q -m pure -n 2 --dist worksteal "${pure[@]}"
  exit $failed
fi
check types "$bin/pyright"
check docs "$bin/python" scripts/check_docs.py
check sdk "$bin/python" scripts/generate_sync.py --check
check lock "$bin/python" -m pytest -q tests/project/test_lock.py
exit $failed
