#!/usr/bin/env bash
# What a GPU says, in nine minutes: bash tools/gpu_check.sh OUT. Options and parts: --help; docs/gpu.md.
# For a machine with its own PyTorch and no network: wheels that it lacks are taken from build/gpu_check/wheels,
# where `PYTHONPATH=tools python -m gpu_check.carry` has put them. PYTHON names another interpreter than python3.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="${PYTHON:-python3}"
export PYTHONPATH="$root:$root/tools${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if compgen -G "$root/build/gpu_check/wheels/*.whl" >/dev/null; then
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    # Only what is missing: the machine's own packages fit its PyTorch.
    "$python" - "$root"/build/gpu_check/wheels/*.whl <<'PYTHON' |
import sys
from importlib import metadata
from pathlib import Path

for wheel in sys.argv[1:]:
    try:
        metadata.version(Path(wheel).name.split("-")[0])
    except metadata.PackageNotFoundError:
        print(wheel)
PYTHON
        xargs --no-run-if-empty "$python" -m pip install --quiet --no-index --no-deps --no-compile \
            --disable-pip-version-check --target "$site" ||
        echo "gpu_check: a carried wheel could not be installed; what needs it will fail" >&2
    export PYTHONPATH="$PYTHONPATH:$site"
fi
"$python" -m gpu_check "$@"
