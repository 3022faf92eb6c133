#!/usr/bin/env bash
# Run the whole suite again and again, to find tests that fail now and then.
# Usage: scripts/repeat_tests.sh [IDLE [BUSY [CROWDED]]]   how often each; default 5 5 3
#   idle     as `make test` runs it
#   busy     the same, while one process burns each core
#   crowded  with 4 workers, whatever the number of cores
# Prints a line a run; stops at the first failure, whose output it keeps.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp -t stal-tests.XXXXXX)
burners=()
trap 'kill "${burners[@]}" 2>/dev/null || true' EXIT

repeat() { # NAME COUNT PYTEST-OPTIONS...
  local name=$1 count=$2 number start
  shift 2
  for ((number = 1; number <= count; number++)); do
    start=$SECONDS
    if ! .venv/bin/python -m pytest "$@" --dist loadgroup -q >"$log" 2>&1; then
      tail -n 60 "$log"
      echo "$name $number of $count: FAILED after $((SECONDS - start)) s; all of its output: $log" >&2
      exit 1
    fi
    echo "$name $number of $count: $(tail -n 1 "$log") ($((SECONDS - start)) s)"
  done
}

repeat idle "${1-5}" --numprocesses logical --maxprocesses 4
for _ in $(seq "$(nproc)"); do
  (while :; do :; done) &
  burners+=($!)
done
repeat busy "${2-5}" --numprocesses logical --maxprocesses 4
kill "${burners[@]}"
burners=()
repeat crowded "${3-3}" --numprocesses 4
rm -f "$log"
