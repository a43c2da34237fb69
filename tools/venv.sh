# Sourced by the other scripts: puts an environment with this package and its development tools first in PATH.
#
# The environment is .venv in the repository, made when it is missing or unusable and brought up to date when
# setup.cfg, pyproject.toml, the Python version or the place of the repository has changed. UNIMATCH_VENV
# names another environment instead; that one is installed into, but never cleared.

unimatch_venv() {
    local root venv python candidate current
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
    venv="${UNIMATCH_VENV:-$root/.venv}"
    if [ -d "$venv" ]; then
        venv="$(cd "$venv" && pwd -P)"
    fi

    # pip must say that it belongs to this folder: in a moved, copied or half-made environment it does not.
    if [[ "$("$venv/bin/pip" --version 2>/dev/null || true)" != *" from $venv/"* ]]; then
        if [ -n "${UNIMATCH_VENV:-}" ] && [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
            echo "venv: UNIMATCH_VENV=$UNIMATCH_VENV is not an environment with a working pip;" \
                "give one, or a folder that does not exist yet" >&2
            return 1
        fi
        python=""
        for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
            # Tried, not only found: a launcher of that name may have no interpreter behind it.
            if "$candidate" -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 10))' 2>&-; then
                python="$candidate"
                break
            fi
        done
        if [ -z "$python" ]; then
            echo "venv: needs Python 3.10 or newer and its venv module (Debian, Ubuntu: python3-venv)" >&2
            return 1
        fi
        echo "venv: making $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" || return 1
        venv="$(cd "$venv" && pwd -P)"
    fi

    current="$("$venv/bin/python" - "$root" <<'PYTHON'
import hashlib, pathlib, sys

if sys.version_info < (3, 10):
    sys.exit(f"venv: needs Python 3.10 or newer, found {sys.version.split()[0]} in {sys.prefix}")
root = pathlib.Path(sys.argv[1])
parts = [sys.version, str(root), *((root / name).read_text() for name in ("setup.cfg", "pyproject.toml"))]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PYTHON
    )" || return 1
    if [ "$(cat "$venv/unimatch.stamp" 2>/dev/null || true)" != "$current" ]; then
        echo "venv: installing into $venv (the first time: several gigabytes, some minutes)"
        "$venv/bin/python" -m pip install --disable-pip-version-check -e "$root[dev]" || return 1
        echo "$current" >"$venv/unimatch.stamp"
        echo "venv: ready"
    fi
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
}

unimatch_venv
