"""Files of weights: what is in one, and which of its networks is meant. No code in a file runs.

A source is `file:PATH`; of a file that holds two networks, `file:PATH#model` or `file:PATH#model_ema`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from unimatch.errors import UserError

State = dict[str, Tensor]

STUDENT, TEACHER = "model", "model_ema"  # as the released code of UniMatch V2 calls its two networks
WRAPPERS = (STUDENT, "state_dict", "model_state_dict")
# What lies in place of a file that was not fetched, by its first bytes.
NO_WEIGHTS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<": "is a web page, as a download that failed leaves one; fetch the file again",
}
# Training scripts keep a best score as a numpy scalar beside the tensors. These names only rebuild numbers.
NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int64")),
]


def split_source(source: str | Path) -> tuple[Path, str | None]:
    """The file of `file:PATH#NETWORK`, and which network of it is meant, if the source says so."""
    text = str(source).removeprefix("file:")
    path, mark, network = text.rpartition("#")
    if mark and network in (STUDENT, TEACHER):
        return Path(path).expanduser(), network
    return Path(text).expanduser(), None


def named(path: Path, network: str | None) -> str:
    """The source again, for people."""
    return str(path) if network is None else f"{path}#{network}"


def networks_of(path: Path) -> list[str]:
    """Which of `model` and `model_ema` a file holds, each under its name; none: tensors as they are."""
    content = _content(path)[0]
    return [name for name in (STUDENT, TEACHER) if isinstance(content.get(name), Mapping)]


def read_file(path: Path, network: str | None = None) -> tuple[State, str]:
    """All tensors in a .safetensors or PyTorch file, with plain names, and the file's sha256.

    Wrappers are taken off: a mapping under `model`, `model_ema`, `state_dict` or `model_state_dict`, and the
    prefix `module.`. PyTorch files are read with weights_only=True.

    UserError: it cannot be read, holds something else, or two networks of which `network` names none.
    """
    content, digest = _content(path)
    names = [name for name in (STUDENT, TEACHER) if isinstance(content.get(name), Mapping)]
    if network is not None and network not in names:
        held = f"only {names[0]}" if names else "one network without a name"
        raise UserError(f"weights file {path}: it holds no {network}, {held}: leave out #{network}")
    if network is None and len(names) == 2:
        raise UserError(
            f"weights file {path} holds two networks, a student ({STUDENT}) and its moving average "
            f"({TEACHER}): name one, such as file:{path}#{TEACHER}; the published figures of UniMatch V2 are "
            "those of the moving average"
        )
    for wrapper in (network or "", *WRAPPERS, TEACHER):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = {
        str(key).removeprefix("module."): item for key, item in content.items() if isinstance(item, Tensor)
    }
    if not state or len(state) != len(content):
        raise UserError(
            f"weights file {path}: expected named tensors only, found {len(state)} tensors and "
            f"{len(content) - len(state)} other entries"
        )
    return state, digest


def _content(path: Path) -> tuple[Mapping[Any, Any], str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"weights file {path}: {error.strerror or error}") from error
    for beginning, what in NO_WEIGHTS.items():
        if data.startswith(beginning):
            raise UserError(f"weights file {path} {what}")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_safetensors(data)
        else:
            with torch.serialization.safe_globals(NUMPY_SCALARS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"weights file {path} {_unread(error)}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"weights file {path}: expected named tensors, found {type(content).__name__}")
    return content, hashlib.sha256(data).hexdigest()


def _unread(error: Exception) -> str:
    """Why a file cannot be read, and what to do. Torch's text says how its check is switched off."""
    held = re.search(r"GLOBAL ([\w.]+)", str(error))
    if held is not None:
        return (
            f"holds more than tensors ({held[1]}), which is not opened for safety. Save the state_dict "
            "alone, best as .safetensors"
        )
    reason = "no whole PyTorch file" if isinstance(error, UnpicklingError) else str(error).partition("\n")[0]
    return f"is damaged ({reason or type(error).__name__}); fetch or save it again"
