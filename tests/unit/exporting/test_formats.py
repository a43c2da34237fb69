"""Files of each format say what the task predicts, for other numbers and sizes of images too."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from tests.support.small_net import small_net
from unimatch.codecs.bands import Bands
from unimatch.exporting.formats import EXTRA, FORMATS, KEY, in_numpy
from unimatch.exporting.graph import Graph, Sizes, example
from unimatch.models.same_padding import followed
from unimatch.tasks import TASKS
from unimatch.taxonomy import Taxonomy

BANDS = Bands((1, 2, 3, 4), ("",) * 4, ((0, 9),) * 4, 16, (0, 1, 2), mean=(0.5,) * 4, std=(0.25,) * 4)
# Of each task: classes, dates, the shape that the file is made with, and others that it must take.
CASES: dict[str, tuple[str, int, Bands | None, tuple[int, ...], list[tuple[int, ...]]]] = {
    "natural": ("natural", 3, None, (2, 20, 28, 3), [(2, 20, 28, 3), (1, 33, 18, 3)]),
    "bands": ("natural", 3, BANDS, (2, 20, 28, 4), [(3, 21, 17, 4)]),
    "change": ("change", 2, None, (2, 2, 20, 28, 3), [(1, 2, 17, 30, 3)]),
    "medical": ("medical", 3, None, (2, 20, 28, 1), [(3, 24, 24, 1), (1, 30, 19, 1)]),
}


def made(case: str) -> tuple[Any, nn.Module, Sizes, list[np.ndarray]]:
    """The task, its network, the sizes of a file and images to give it."""
    name, classes, bands, shape, others = CASES[case]
    entry = TASKS[name]
    views = typing.get_type_hints(entry.config)["views"]
    net = small_net(shape[-1], classes, len(shape) - 3)
    more = {} if bands is None else {"bands": bands}
    task = entry.cls(entry.config(views(crop=24)), Taxonomy.of(["a", "b", "c"][:classes]), net.encoder.mean,
                     net.encoder.std, **more)  # fmt: skip
    draw = np.random.default_rng(0)
    dtype = task.blank(1, 1).dtype
    images = [draw.integers(0, np.iinfo(dtype).max, one).astype(dtype) for one in others]
    return task, net, Sizes(shape, None), images


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *(
            (case, "torchscript") for case in CASES
        ),  # the quickest; those of ONNX are exported by torch.export
        *(("natural", "torch.export"), ("medical", "onnx")),
    ],
)
def test_a_file_predicts_as_the_task_does(case: str, kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx: pip install unimatch[onnx]")
    suffix, write, read = FORMATS[kind]
    task, net, sizes, images = made(case)
    path = tmp_path / f"file{suffix}"
    write(Graph(net, task), example(task, sizes), sizes, path, {"classes": ["a"]})
    run = read(path)
    for image in images:
        ids, confidence = in_numpy(lambda given: task.predicted(net, given, sure=True))(image)
        assert len(np.unique(ids)) > 1
        found, sure = run(image)
        assert (found.dtype, sure.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(found, ids)
        np.testing.assert_allclose(sure, confidence, atol=1e-5)
    assert json.loads(told(path, kind)) == {"classes": ["a"]}


def told(path: Path, kind: str) -> str:
    """What the file says about itself."""
    if kind == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map[KEY]
    extra = {EXTRA: ""}
    if kind == "torch.export":
        torch.export.load(path, extra_files=extra)
    else:
        torch.jit.load(path, _extra_files=extra)
    return extra[EXTRA]


def test_half_precision_is_inside_and_leaves_the_run_s_network_alone() -> None:
    task, net, sizes, images = made("natural")
    graph = Graph(net, task, half=True)
    ids, confidence = graph(torch.from_numpy(images[0]))
    whole, sure = task.predicted(net, torch.from_numpy(images[0]), sure=True)
    assert next(net.parameters()).dtype == torch.float32
    assert {one.dtype for one in graph.parameters()} == {torch.float16}
    assert 0 < (confidence - sure).abs().max() < 0.01
    assert (ids == whole).float().mean() > 0.98


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_followed_convolutions_pad_as_timm_does(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = Conv2dSame(2, 3, kernel, stride=stride, dilation=dilation)
    same = followed(nn.Sequential(conv))
    assert type(conv) is Conv2dSame and type(same[0]) is not Conv2dSame  # type: ignore[index]
    for height, width in ((7, 8), (9, 10), (11, 13)):
        image = torch.rand(1, 2, height, width)
        torch.testing.assert_close(same(image), conv(image), atol=0, rtol=0)
    assert F.relu(same(image)).shape == (1, 3, -(-11 // stride), -(-13 // stride))
