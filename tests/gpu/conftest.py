"""What tests of this folder share. Each runs on a GPU where there is one. Where there is none those that can
run on the CPU do, which shows that they run; the others, of what only GPUs have, are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; found none")
    return torch.device("cuda")


@pytest.fixture
def no_wait() -> Iterator[None]:
    """On a GPU, any call that makes the host wait for it raises."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """float32 is float32: without it, convolutions of a GPU would round their inputs to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
