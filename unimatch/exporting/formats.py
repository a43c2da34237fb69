"""Files that hold a graph: written by one of the exporters of PyTorch, read and run again."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.exporting.graph import Sizes

INPUT, OUTPUTS = "image", ("ids", "confidence")
KEY = "unimatch"  # of the description in a file
EXTRA = f"{KEY}.json"
LARGEST = 2_000_000_000  # bytes of weights in one ONNX file: protobuf ends at 2 GiB
MISSING = "ONNX files are written and run by onnx, onnxscript and onnxruntime: pip install 'unimatch[onnx]'"

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Class ids uint8 [B, H, W] and their probabilities float32 of images [B, ..., H, W, C] as stored."""


def write_onnx(graph: nn.Module, image: Tensor, sizes: Sizes, path: Path, told: Mapping[str, Any]) -> None:
    """UserError: the extra is missing, or the weights are more than one file can hold."""
    require_onnx()
    size = sum(one.numel() * one.element_size() for one in graph.parameters())
    if size > LARGEST:
        raise UserError(
            f"the weights are {size / 1e9:.1f} GB, and an ONNX file holds 2: halve them with --fp16, or "
            "choose --format torch.export"
        )
    program = _exported(graph, image, sizes)
    with _quiet():
        made = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=list(OUTPUTS)
        )
    assert made is not None
    made.model.metadata_props[KEY] = json.dumps(told)
    made.save(path)


def write_torch_export(
    graph: nn.Module, image: Tensor, sizes: Sizes, path: Path, told: Mapping[str, Any]
) -> None:
    with _quiet():
        torch.export.save(_exported(graph, image, sizes), path, extra_files={EXTRA: json.dumps(told)})


def write_torchscript(
    graph: nn.Module, image: Tensor, sizes: Sizes, path: Path, told: Mapping[str, Any]
) -> None:
    with _quiet(), torch.no_grad():
        traced = torch.jit.trace(graph, (image,), check_trace=False)
        torch.jit.save(traced, path, _extra_files={EXTRA: json.dumps(told)})


def _exported(graph: nn.Module, image: Tensor, sizes: Sizes) -> torch.export.ExportedProgram:
    dynamic = dict.fromkeys(sizes.free, torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        return torch.export.export(graph, (image,), dynamic_shapes={INPUT: dynamic})


def read_onnx(path: Path) -> Run:
    """On the CPU, with as many threads as PyTorch has here."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(MISSING) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids, confidence = session.run(list(OUTPUTS), {INPUT: image})
        return ids, confidence

    return run


def read_torch_export(path: Path) -> Run:
    with _quiet():
        return in_numpy(torch.export.load(path).module())


def read_torchscript(path: Path) -> Run:
    with _quiet():
        return in_numpy(torch.jit.load(path))


def in_numpy(graph: Callable[[Tensor], tuple[Tensor, Tensor | None]]) -> Run:
    """The same for arrays."""

    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            ids, confidence = graph(torch.from_numpy(image))
        assert confidence is not None
        return ids.numpy(), confidence.numpy()

    return run


FORMATS = {
    "onnx": (".onnx", write_onnx, read_onnx),
    "torch.export": (".pt2", write_torch_export, read_torch_export),
    "torchscript": (".pt", write_torchscript, read_torchscript),
}
"""By name: how the file's name ends, what writes it and what reads it."""


def require_onnx() -> None:
    """UserError: the extra is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(MISSING) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of their own future, and tracing of sizes that are constants here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
