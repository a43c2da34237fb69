import errno
import os
import shutil

import pytest
import torch

from tests.support.checkpoints import held, save, save_best, saver, state, values
from tests.support.power_cut import cuts
from unimatch.engine import checkpoint, parts
from unimatch.errors import UserError


@pytest.fixture
def quick_disk(monkeypatch):
    """Flushes nothing, where power_cut says what would be on disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_what_was_saved_is_loaded(tmp_path):
    folder = save(tmp_path, 12, value=2.5)
    assert checkpoint.load_state(folder) == state(12)
    weights = checkpoint.load_network(folder)
    assert weights["w"].tolist() == [[2.5] * 3] * 4 and weights["n"].item() == 4
    assert values(folder) == {2.5}
    assert (tmp_path / "last").resolve() == folder.resolve()


def test_a_checkpoint_of_before_has_the_optimiser_in_one_file(tmp_path):
    """As it was written until checkpoints were made of parts: optimizer.pt has all tensors, and no list."""
    folder = save(tmp_path, 12, value=2.5)
    engine = checkpoint.load_engine(folder)
    torch.save(engine, folder / "optimizer.pt")
    shutil.rmtree(folder / parts.OPTIMIZER)
    assert "momentum" in torch.load(folder / "optimizer.pt", weights_only=True)["optimizer"]["state"][0]
    assert values(folder) == {2.5}
    assert checkpoint.load_engine(folder).keys() == {"optimizer", "scaler", "method"}


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


def test_a_power_cut_at_any_moment_of_a_save_leaves_a_complete_last(tmp_path, quick_disk):
    def fresh():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        for step in (1, 2):
            save(tmp_path / "run", step, value=float(step))

    run, found = tmp_path / "run", []
    for _ in cuts(lambda: save(run, 3, value=3.0), run, fresh):
        last = checkpoint.last_checkpoint(run)
        step = checkpoint.load_state(last).step
        assert values(last) == {step}
        values(run / "last")
        found.append(step)
        save(run, 4)  # and the next save is not disturbed by what the cut left
        assert checkpoint.last_checkpoint(run).name == "step_00000004"
    assert found == sorted(found) and set(found) == {2, 3} and len(found) > 8


def test_a_power_cut_leaves_the_old_or_the_new_best(tmp_path, quick_disk):
    found = []
    for _ in cuts(lambda: save_best(tmp_path, 6, 2.0), tmp_path, lambda: save_best(tmp_path, 5, 1.0)):
        if (tmp_path / "best").exists():
            found += values(checkpoint.find(tmp_path, "best"))
    assert found == sorted(found) and set(found) == {1.0, 2.0}


def test_a_checkpoint_that_names_a_best_step_is_not_there_before_those_weights(tmp_path, quick_disk):
    def fresh():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        saver(tmp_path / "run").save(state(1), held(1.0), whole=True, best=True)

    run, found = tmp_path / "run", []
    for _ in cuts(lambda: saver(run).save(state(2), held(2.0), whole=True, best=True), run, fresh):
        last = values(checkpoint.last_checkpoint(run))
        if (run / "best").exists():
            found.append((*last, *values(run / "best")))
        else:
            assert last == {1.0}
    assert list(dict.fromkeys(found)) == [(1.0, 1.0), (1.0, 2.0), (2.0, 2.0)]


@pytest.mark.parametrize("fail", ["save_file", "torch.save", "fsync"])
def test_a_full_disk_is_one_message_and_keeps_the_earlier_checkpoint(tmp_path, monkeypatch, fail):
    save(tmp_path, 1)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"save_file": (parts, "save_file"), "torch.save": (torch, "save"), "fsync": (os, "fsync")}[fail]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(UserError, match=r"step_00000002: no space left on the device.*--resume"):
            save(tmp_path, 2)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


def test_best_is_replaced_as_a_whole(tmp_path):
    for value in (1.0, 2.0):
        save_best(tmp_path, 5, value)
    assert values(checkpoint.find(tmp_path, "best")) == {2.0}
    with pytest.raises(UserError, match="weights only"):
        checkpoint.load_engine(tmp_path / "best")


def test_damage_is_named(tmp_path):
    folder = save(tmp_path, 1)
    with pytest.raises(UserError, match="no network 'ema'; networks there: model"):
        checkpoint.load_network(folder, "ema")
    for name, load in [
        ("model.safetensors", checkpoint.load_network),
        ("optimizer.pt", checkpoint.load_engine),
        ("optimizer/00000.safetensors", checkpoint.load_engine),
        ("trainer.json", checkpoint.load_state),
    ]:
        complete = (folder / name).read_bytes()
        (folder / name).write_bytes(complete[:20])
        told = name.replace("/", " is damaged .")  # the folder, and which of its files
        with pytest.raises(UserError, match=f"{told}.*another checkpoint"):
            load(folder)
        (folder / name).write_bytes(complete)
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoint.load_state(tmp_path)
