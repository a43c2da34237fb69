import errno
import os

import pytest
import torch

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


@pytest.mark.parametrize("survived", range(8))
def test_a_crash_at_any_moment_of_a_save_leaves_a_complete_last(tmp_path, monkeypatch, survived):
    """The process dies right before its n-th change to a file name or flush to disk, for every n."""

    class Killed(BaseException):
        pass

    save(tmp_path, 1)
    calls = 0

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > survived:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", deadly(os.replace))
        patch.setattr(os, "fsync", deadly(os.fsync))
        with pytest.raises(Killed):
            save(tmp_path, 2, value=9.0)
    last = checkpoint.last_checkpoint(tmp_path)
    step = checkpoint.load_state(last).step
    assert checkpoint.load_network(last)["w"].tolist() == [9.0 if step == 2 else 1.0] * 3
    checkpoint.load_engine(last)
    checkpoint.load_network(tmp_path / "last")
    save(tmp_path, 3)  # and the next save is not disturbed by what the crash left
    assert checkpoint.last_checkpoint(tmp_path).name == "step_00000003"


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
