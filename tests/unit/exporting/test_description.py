"""What a file says about itself is enough to feed it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.exporting.test_formats import made
from unimatch.codecs.prepared import Preparation
from unimatch.exporting.graph import Sizes, description, sizes_of
from unimatch.tasks.prediction import EvaluateConfig


def described(case: str, fixed: str | None = None) -> dict[str, Any]:
    task, _, sizes, _ = made(case)
    name = "natural" if case == "bands" else case
    model = SimpleNamespace(encoder=SimpleNamespace(name="e"), head=SimpleNamespace(name="h"))
    config = SimpleNamespace(
        task=SimpleNamespace(name=name), model=model, method=SimpleNamespace(name="unimatch")
    )
    found = SimpleNamespace(
        task=task,
        config=config,
        prepared=Preparation(downscale=2),
        network="ema",
        state=SimpleNamespace(step=5),
    )
    return description(found, Sizes(sizes.shape, fixed), "fp32")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "dtype", "layout"),
    [
        ("natural", "uint8", ["batch", "height", "width", "channel"]),
        ("bands", "uint16", ["batch", "height", "width", "channel"]),
        ("change", "uint8", ["batch", "date", "height", "width", "channel"]),
        ("medical", "uint16", ["batch", "height", "width", "channel"]),
    ],
)
def test_input_and_classes(case: str, dtype: str, layout: list[str]) -> None:
    told = described(case)
    given = told["input"]
    assert (given["dtype"], given["layout"], given["size"]) == (dtype, layout, None)
    assert given["preparation"]["downscale"] == 2
    assert len(told["classes"]) == len(told["colors"]) == (2 if case == "change" else 3)
    if case == "bands":
        assert given["bands"]["order"] == (1, 2, 3, 4) and given["bands"]["ranges"][0] == (0, 9)
    else:
        assert given["bands"] is None


@pytest.mark.parametrize(
    ("patch", "multiple_of", "reason"),
    [(1, 1, None), (14, 1, "adds a position to each patch of 14 pixels"), (1, 8, "multiples of 8 pixels")],
)
def test_a_size_is_fixed_by_patches_or_by_resizing(patch: int, multiple_of: int, reason: str | None) -> None:
    task = SimpleNamespace(config=SimpleNamespace(evaluate=EvaluateConfig(multiple_of=multiple_of)))
    config = SimpleNamespace(task=task, model=SimpleNamespace(encoder=SimpleNamespace(name="vit")))
    found = sizes_of(config, patch, (1, 28, 42, 3))  # type: ignore[arg-type]
    assert (found.fixed is None) == (reason is None) and (reason or "") in (found.fixed or "")
    assert found.shape == (2, 28, 42, 3) and found.taken == (None if reason is None else (28, 42))


def test_a_fixed_size_is_told_with_its_reason() -> None:
    given = described("change", "patches")["input"]
    assert (given["size"], given["fixed"]) == ([20, 28], "patches")
