#!/usr/bin/env bash
# Lint, types and tests, in the environment that tools/venv.sh makes. Arguments go to pytest, as in
# tools/test.sh tests/unit -k plan
# Tests run in two processes more than there are cores, eight at most, of about 2 GB each; "-n 2" takes two, "-n 0"
# only this one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/venv.sh

ruff check .
# Types are checked beside the tests; what mypy says is kept together, and shown when it is a complaint.
types="$(mktemp)"
mypy unimatch tools >"$types" 2>&1 &
checking=$!
trap 'kill "$checking" 2>/dev/null || true; rm -f "$types"' EXIT

# Kept bytecode: without it every process that a test starts compiles the package again, and every pytest all tests.
unset PYTHONDONTWRITEBYTECODE

# One thread a process: tests start several processes, and on few cores their thread pools would fight.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Two more than cores: tests of whole runs wait, for timeouts and for their processes. The more, the more collect the tests.
processes=$(($(nproc) < 6 ? $(nproc) + 2 : 8))
# worksteal: neighbours in a file stay in one process, and share its fixtures, until the other has nothing left.
status=0
python -m pytest -n "$processes" --dist worksteal "$@" || status=$?

if ! wait "$checking"; then
    echo "tools/test.sh: mypy failed:" >&2
    cat "$types" >&2
    [ "$status" -ne 0 ] || status=1
fi
exit "$status"
