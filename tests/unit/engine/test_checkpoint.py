import errno
import os
import shutil

import pytest
import torch

from tests.support.power_cut import cuts
from unimatch.engine import checkpoint
from unimatch.errors import UserError


def state(step: int) -> checkpoint.TrainerState:
    return checkpoint.TrainerState(
        step=step,
        headline="miou",
        best=0.5,
        best_step=1,
        taxonomy={"names": ["a", "b"]},
        splits={"labeled": "00"},
        world=2,
    )


def save(run, step, value=1.0, keep=2):
    weights = {"w": torch.full((3,), value), "n": torch.tensor(4)}
    engine = {"optimizer": {"state": {0: {"momentum": torch.ones(3)}}}, "scaler": {}, "method": {}}
    return checkpoint.save_checkpoint(run, state(step), {"model": weights}, engine, keep)


def test_what_was_saved_is_loaded(tmp_path):
    folder = save(tmp_path, 12, value=2.5)
    assert checkpoint.load_state(folder) == state(12)
    weights = checkpoint.load_network(folder)
    assert weights["w"].tolist() == [2.5] * 3 and weights["n"].item() == 4
    assert checkpoint.load_engine(folder)["optimizer"]["state"][0]["momentum"].tolist() == [1.0] * 3
    assert (tmp_path / "last").resolve() == folder.resolve()


def test_the_newest_are_kept_and_found(tmp_path):
    for step in (2, 4, 100):
        save(tmp_path, step)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000004", "step_00000100"]
    assert checkpoint.find(tmp_path, "last").name == "step_00000100"
    assert checkpoint.find(tmp_path, "4").name == "step_00000004"
    with pytest.raises(UserError, match="steps there: 4, 100"):
        checkpoint.find(tmp_path, "3")
    with pytest.raises(UserError, match="no checkpoint 'best'"):
        checkpoint.find(tmp_path, "best")
    with pytest.raises(UserError, match="no checkpoint 'newest'"):
        checkpoint.find(tmp_path, "newest")


def test_a_power_cut_at_any_moment_of_a_save_leaves_a_complete_last(tmp_path):
    def fresh():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        for step in (1, 2):
            save(tmp_path / "run", step, value=float(step))

    run, found = tmp_path / "run", []
    for _ in cuts(lambda: save(run, 3, value=3.0), run, fresh):
        last = checkpoint.last_checkpoint(run)
        step = checkpoint.load_state(last).step
        assert checkpoint.load_network(last)["w"].tolist() == [step] * 3
        checkpoint.load_engine(last)
        checkpoint.load_network(run / "last")
        found.append(step)
        save(run, 4)  # and the next save is not disturbed by what the cut left
        assert checkpoint.last_checkpoint(run).name == "step_00000004"
    assert found == sorted(found) and set(found) == {2, 3} and len(found) > 8


def test_a_power_cut_leaves_the_old_or_the_new_best(tmp_path):
    def save_best(value):
        checkpoint.save_best(tmp_path, state(5), {"model": {"w": torch.tensor([value])}})

    found = []
    for _ in cuts(lambda: save_best(2.0), tmp_path, lambda: save_best(1.0)):
        if (tmp_path / "best").exists():
            found.append(checkpoint.load_network(checkpoint.find(tmp_path, "best"))["w"].item())
    assert found == sorted(found) and set(found) == {1.0, 2.0}


@pytest.mark.parametrize("fail", ["save_file", "torch.save", "fsync"])
def test_a_full_disk_is_one_message_and_keeps_the_earlier_checkpoint(tmp_path, monkeypatch, fail):
    save(tmp_path, 1)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"save_file": (checkpoint, "save_file"), "torch.save": (torch, "save"), "fsync": (os, "fsync")}[
        fail
    ]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(UserError, match=r"step_00000002: no space left on the device.*--resume"):
            save(tmp_path, 2)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


def test_best_is_replaced_as_a_whole(tmp_path):
    for value in (1.0, 2.0):
        checkpoint.save_best(tmp_path, state(5), {"model": {"w": torch.tensor([value])}})
    assert checkpoint.load_network(checkpoint.find(tmp_path, "best"))["w"].item() == 2.0
    with pytest.raises(UserError, match="weights only"):
        checkpoint.load_engine(tmp_path / "best")


def test_damage_is_named(tmp_path):
    folder = save(tmp_path, 1)
    with pytest.raises(UserError, match="no network 'ema'; networks there: model"):
        checkpoint.load_network(folder, "ema")
    for name, load in [
        ("model.safetensors", checkpoint.load_network),
        ("optimizer.pt", checkpoint.load_engine),
        ("trainer.json", checkpoint.load_state),
    ]:
        (folder / name).write_bytes((folder / name).read_bytes()[:20])
        with pytest.raises(UserError, match=f"{name}.*another checkpoint"):
            load(folder)
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoint.load_state(tmp_path)
