#!/usr/bin/env bash
# Lint, types and tests, in the environment that tools/venv.sh makes. Arguments go to pytest, as in
# tools/test.sh tests/unit -k plan
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/venv.sh

ruff check .
mypy unimatch tools
# One thread a process: tests start several processes, and on few cores their thread pools would fight.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python -m pytest "$@"
