"""`unimatch push`: a run with its card on a hub, and back from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import unimatch
from tests.conftest import tiny_run_text
from tests.support.hub import Hub, hub_here
from unimatch import evaluate, push
from unimatch.errors import UserError

SHORT = ("schedule.steps=2", "evaluation.every_steps=2", "checkpoint.every_steps=1", "data.workers=0")
SHORT += ("log.pictures_every_steps=0", "log.trackers=[]")


@pytest.fixture(scope="module")
def run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unimatch.fit(tiny_run_text(tmp_path_factory.mktemp("push") / "run", tiny_shards), *SHORT)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The only hub that is asked."""
    from huggingface_hub import constants

    with hub_here() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        address = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield hub


def test_what_is_pushed_is_loaded_from_the_hub(
    run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    push.main([str(run), "me/streets"])
    assert f"{hub.endpoint}/me/streets" in capsys.readouterr().out
    assert hub.private == {"me/streets": True}
    pushed = set(hub.files["me/streets"])
    networks = {"model.safetensors", "trainer.json"}
    assert pushed == {"README.md", "config.yaml", "metrics.jsonl"} | {
        f"checkpoints/step_00000002/{name}" for name in networks
    }
    here, there = unimatch.load(run), unimatch.load("hf://me/streets")
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    np.testing.assert_array_equal(there.predict(image), here.predict(image))
    assert there.step == 2 and there.classes == here.classes

    evaluate.main(["hf://me/streets", "--workers", "0"])
    assert "10 images" in capsys.readouterr().out
    push.main([str(run), "me/streets", "--checkpoint", "1"])  # the other one is gone
    assert "checkpoints/step_00000002/trainer.json" not in hub.files["me/streets"]
    assert "checkpoints/step_00000001/trainer.json" in hub.files["me/streets"]
    assert "was not evaluated at step 1" in hub.files["me/streets"]["README.md"].decode()


def test_the_card_says_what_the_run_is(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    push.main([str(run), "me/streets", "--folder", str(folder), "--licence", "mit"])
    card = (folder / "README.md").read_text()
    about = yaml.safe_load(card.split("---")[1])
    assert about["license"] == "mit" and about["pipeline_tag"] == "image-segmentation"
    trained = unimatch.load(folder)
    assert ", ".join(trained.classes) in card
    assert "labelled: 6 images" in card and "unlabelled: 34 images" in card
    assert "Of the encoder's first weights: none: the encoder began with random weights." in card
    assert "10 images that it did not learn from" in card and '"mode": "whole"' in card
    assert 'unimatch.load("hf://me/streets")' in card
    assert all(f"\n| {name} | " in card for name in trained.classes)
    with pytest.raises(UserError, match="given exists"):
        push.main([str(run), "me/streets", "--folder", str(folder)])


def test_what_the_hub_refuses_is_told(run: Path, hub: Hub) -> None:
    hub.refuses = True
    with pytest.raises(UserError, match="me/streets: the hub took nothing .*no such owner"):
        push.main([str(run), "me/streets"])
    with pytest.raises(UserError, match="hf://me/none: cannot be fetched"):
        unimatch.load("hf://me/none")
    with pytest.raises(UserError, match="a run on the hub is hf://OWNER/NAME"):
        unimatch.load("hf://streets")
    with pytest.raises(UserError, match="must be OWNER/NAME, found 'streets'"):
        push.main([str(run), "streets"])
