"""The published networks with an eighth of their channels, the UNet a quarter: the same blocks, quicker."""

from __future__ import annotations

from typing import Any

import pytest
import timm

from unimatch.models import unet, xception

NARROW_UNET = tuple(width // 4 for width in unet.WIDTHS)


def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's ResNets and the released Xception-65 are built narrow while the patch holds."""
    create = timm.create_model

    def create_narrow(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("resnet"):
            options["channels"] = (8, 16, 32, 64)
        return create(name, *args, **options)

    monkeypatch.setattr(timm, "create_model", create_narrow)
    for part in ("ENTRY", "MIDDLE", "EXIT"):
        blocks = [(a // 8, tuple(b // 8 for b in widths), s) for a, widths, s in getattr(xception, part)]
        if part == "ENTRY":
            blocks[0] = (64, *blocks[0][1:])  # what the stem gives
        monkeypatch.setattr(xception, part, blocks)
    monkeypatch.setattr(xception, "LAST", tuple(channels // 8 for channels in xception.LAST))
