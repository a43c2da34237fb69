"""What `hf://` stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from unimatch.engine.hub import on_this_machine


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("hf://me/streets", "me/streets", None),
        ("hf:/me/streets", "me/streets", None),  # what pathlib makes of it
        ("hf://me/streets@v1.2", "me/streets", "v1.2"),
    ],
)
def test_the_revision_that_was_asked_for_is_fetched(
    text: str, name: str, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fetched(repo: str, **more: Any) -> str:
        asked.append((repo, more))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert on_this_machine(text) == tmp_path and asked == [(name, {"revision": revision})]


def test_folders_are_themselves() -> None:
    assert on_this_machine("runs/hf:/me") == Path("runs/hf:/me")
