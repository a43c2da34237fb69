"""Checkpoints written beside the training, by one process and by several (here threads)."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import pytest
import torch

from tests.support.checkpoints import held, on_all, processes, save, saver, state, values
from tests.support.training import SUPERVISED, bare, built, trained
from unimatch.engine import checkpoint, parts
from unimatch.engine import saver as saver_module
from unimatch.engine.parts import Part, whole
from unimatch.engine.signals import Stopped
from unimatch.errors import UserError

STEP = "step_00000001"


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def held_up(monkeypatch, module, name):
    """From now on that function waits for the event that this returns."""
    go, plain = threading.Event(), getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: (go.wait(20), plain(*args))[1])
    return go


def test_training_goes_on_while_a_checkpoint_is_written_and_one_is_in_flight_at_most(tmp_path, monkeypatch):
    written = held_up(monkeypatch, parts, "write")
    one, live = saver(tmp_path, background=True), held(1.0)
    now = state(1)
    one.save(now, live, whole=True, best=False)
    now.step, now.best_step = 2, 2
    one.copied()
    live.networks["model"].pieces["w"].values.fill_(2.0)
    live.optimizer.pieces["0.momentum"].values.fill_(2.0)
    assert checkpoint.last_checkpoint(tmp_path) is None
    threading.Timer(0.05, written.set).start()
    one.save(state(2), live, whole=True, best=False)
    assert values(checkpoint.find(tmp_path, "1")) == {1.0}
    assert checkpoint.load_state(checkpoint.find(tmp_path, "1")) == state(1)
    one.finish()
    assert values(checkpoint.find(tmp_path, "2")) == {2.0}


def test_the_state_may_not_change_before_it_is_copied(tmp_path, monkeypatch):
    copied = held_up(monkeypatch, saver_module, "_to_host")
    one = saver(tmp_path, background=True)
    one.save(state(1), held(1.0), whole=True, best=False)
    waits = threading.Thread(target=one.copied)
    waits.start()
    waits.join(0.05)
    assert waits.is_alive()
    copied.set()
    waits.join(5)
    assert not waits.is_alive()
    one.finish()


@pytest.mark.parametrize("parted", [False, True])
@pytest.mark.parametrize("world", [2, 5])
def test_parts_of_several_processes_become_one_checkpoint(tmp_path, world, parted):
    savers = [saver(tmp_path, each, background=True) for each in processes(world)]

    def work(rank):
        live = held(3.0, rank, world if parted else 0)
        savers[rank].save(state(1), live, whole=True, best=True)
        savers[rank].finish()

    assert on_all(world, work) == [None] * world
    for folder in (tmp_path / "last", tmp_path / "best"):
        assert values(folder) == {3.0} and checkpoint.load_network(folder)["n"].item() == 4
        assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
        assert not (folder / "model").exists()
    files = sorted(path.name for path in (tmp_path / "last" / "optimizer").iterdir())
    assert len(files) == (world if parted else 1)


@pytest.mark.parametrize(("bad", "parted"), [(0, True), (1, True), (1, False)])
def test_what_one_process_cannot_write_is_told_on_all_and_leaves_the_one_before(
    tmp_path, monkeypatch, bad, parted
):
    savers = [saver(tmp_path, each, background=True) for each in processes(2)]
    save(tmp_path, 1)
    plain = parts.write

    def write(folder, file, pieces):
        if file.endswith(f"{bad:05d}.safetensors"):
            full()
        return plain(folder, file, pieces)

    monkeypatch.setattr(parts, "write", write)
    known = []

    def work(rank):
        savers[rank].save(state(2), held(2.0, rank, 2 if parted else 0), whole=True, best=True)
        savers[rank]._thread.join()
        known.append((rank, savers[rank].problem is not None))
        savers[rank].finish()

    told = on_all(2, work)
    assert sorted(known) == [(0, bad == 0), (1, bad == 1)]
    assert all(isinstance(one, UserError) for one in told)
    assert all(f"rank {bad}: could not write the checkpoint" in str(one) for one in told)
    assert all("no space left on the device" in str(one) for one in told)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [STEP]
    assert values(tmp_path / "last") == {1.0} and not (tmp_path / "best").exists()


@pytest.mark.parametrize("name", ["save_networks", "save_engine", "keep_newest"])
def test_a_bug_or_a_full_disk_while_a_checkpoint_is_completed_is_told(tmp_path, monkeypatch, name):
    savers = [saver(tmp_path, each, background=True) for each in processes(2)]
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, name, full if name != "keep_newest" else lambda *_: 1 / 0)

        def work(rank):
            savers[rank].save(state(2), held(2.0, rank, 2), whole=True, best=False)
            savers[rank].finish()

        told = on_all(2, work)
    text = "ZeroDivisionError" if name == "keep_newest" else "no space left on the device"
    assert all(isinstance(one, UserError) and text in str(one) for one in told)
    assert values(checkpoint.last_checkpoint(tmp_path)) == {2.0 if name == "keep_newest" else 1.0}


def test_a_process_that_ends_before_its_part_is_there_leaves_no_checkpoint(tmp_path, capfd):
    first, second = processes(2)
    one, other = saver(tmp_path, first, background=True), saver(tmp_path, second, background=True)
    dead = second._shared["beside"][0]
    other._write = lambda *_: dead.abort()
    on_all(2, lambda rank: (one, other)[rank].save(state(1), held(1.0, rank, 2), True, False))
    one._thread.join()
    assert one.problem is not None and "not all processes wrote their parts" in str(one.problem)
    assert checkpoint.last_checkpoint(tmp_path) is None and "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("made", [True, False])
def test_a_part_that_another_host_wrote_elsewhere_is_missed(tmp_path, made):
    """Where an earlier run has left the same folder, and where there is none."""
    homes = [tmp_path / "a", tmp_path / "b"]
    savers = [saver(home, each, background=True) for home, each in zip(homes, processes(2), strict=True)]
    if made:
        (homes[1] / "checkpoints" / f".{STEP}.partial").mkdir(parents=True)

    def work(rank):
        savers[rank].save(state(1), held(1.0, rank, 2), whole=True, best=False)
        savers[rank].finish()

    told = on_all(2, work)
    assert all("must lie on storage that all hosts share" in str(one) for one in told)
    assert checkpoint.last_checkpoint(homes[0]) is None


# Killed right before this call: what --resume finds, and what <run>/best is.
STAGES = [
    ("saver", "begin", 1, 1.0),
    ("saver", "_to_host", 1, 1.0),
    ("parts", "write", 1, 1.0),
    ("saver", "sync", 1, 1.0),
    ("saver", "_require", 1, 1.0),
    ("parts", "join", 1, 1.0),
    ("checkpoint", "save_engine", 1, 1.0),
    ("checkpoint", "save_state", 1, 1.0),
    ("saver", "write_folder", 1, 1.0),
    ("saver", "commit", 1, 2.0),
    ("saver", "point", 2, 2.0),
    ("checkpoint", "keep_newest", 2, 2.0),
]


@pytest.mark.parametrize(("module", "name", "step", "best"), STAGES, ids=[stage[1] for stage in STAGES])
def test_a_process_killed_at_any_stage_leaves_the_checkpoint_before_or_the_new_one(
    tmp_path, module, name, step, best
):
    saver(tmp_path).save(state(1), held(1.0, 0, 1), whole=True, best=True)
    child = os.fork()
    if child == 0:
        owner = {"saver": saver_module, "parts": parts, "checkpoint": checkpoint}[module]
        setattr(owner, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            one = saver(tmp_path, background=True)
            one.save(state(2), held(2.0, 0, 1), whole=True, best=True)
            one.finish()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    last = checkpoint.last_checkpoint(tmp_path)
    assert (checkpoint.load_state(last).step, values(last)) == (step, {float(step)})
    assert values(tmp_path / "best") == {best} and values(tmp_path / "last") <= {1.0, 2.0}
    save(tmp_path, 3, 3.0)  # and what is left is in nobody's way
    assert values(tmp_path / "last") == {3.0}
    assert not list((tmp_path / "checkpoints").glob(".*.partial")) or step == 1


def test_what_all_have_is_dealt_out_once_and_evenly():
    networks = {
        name: Part(whole({"w": torch.zeros(size)}), True) for name, size in (("model", 40), ("ema", 30))
    }
    optimizer = Part(whole({f"{number}.m": torch.zeros(number) for number in range(1, 21)}), True)
    dealt = [parts.deal(networks, optimizer, rank, 3) for rank in range(3)]
    every = [(file, name) for files in dealt for file, pieces in files.items() for name in pieces]
    assert len(every) == len(set(every)) == 22
    loads = [sum(parts.size_bytes(pieces) for pieces in files.values()) for files in dealt]
    assert max(loads) - min(loads) <= 4
    assert not any(parts.OPTIMIZER in file for files in [parts.deal(networks, None, 0, 1)] for file in files)


def test_values_are_put_where_they_were_and_missed_where_no_part_holds_them(tmp_path):
    tensor = torch.arange(12.0).view(4, 3)
    for rank in range(3):
        piece = parts.Piece(tensor.view(-1)[4 * rank : 4 * rank + 4], 4 * rank, (4, 3))
        parts.write(tmp_path, f"optimizer/{rank:05d}.safetensors", {"0.m": piece})
    files = sorted((tmp_path / "optimizer").iterdir())
    assert torch.equal(parts.join(files)["0.m"], tensor)
    with pytest.raises(ValueError, match="values of 0.m are in none of its parts"):
        parts.join(files[1:])


def tensors(run):
    """All that the checkpoints of a run hold."""
    found = {}
    for folder in sorted((run / "checkpoints").glob("step_*")):
        engine = checkpoint.load_engine(folder)["optimizer"]["state"]
        large = {f"{number}.{name}": value for number, one in engine.items() for name, value in one.items()}
        for name, value in {**checkpoint.load_network(folder), **large}.items():
            found[folder.name, name] = torch.as_tensor(value)
    return found


def test_a_checkpoint_in_the_background_holds_what_the_step_left(tiny_run, tmp_path, monkeypatch):
    """It is copied late, while the next step computes: neither an update nor a batch norm may get in."""
    settings = ("schedule.steps=3", "checkpoint={every_steps: 1, keep: 9, background: %s}")
    runs = {}
    plain = saver_module._to_host
    for name in ("false", "true"):
        trainer = built(bare(tiny_run, SUPERVISED, settings[0], settings[1] % name, f"out={tmp_path / name}"))
        if name == "true":
            monkeypatch.setattr(saver_module, "_to_host", lambda *given: (time.sleep(0.2), plain(*given))[1])
        trained(trainer)
        runs[name] = tensors(trainer.config.out)
    assert runs["true"].keys() == runs["false"].keys() and len({step for step, _ in runs["true"]}) == 3
    different = [key for key, value in runs["true"].items() if not torch.equal(value, runs["false"][key])]
    assert different == []


def test_a_full_disk_ends_the_run_at_the_next_step(tiny_run, monkeypatch):
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=30", "checkpoint.every_steps=6"))
    plain = parts.write

    def write(folder, file, pieces):
        return full() if "step_00000012" in str(folder) else plain(folder, file, pieces)

    monkeypatch.setattr(parts, "write", write)
    with pytest.raises(UserError, match="step_00000012: no space left on the device. Earlier"):
        trained(trainer)
    assert 12 <= trainer.state.step < 18  # not when the next one is begun
    assert checkpoint.load_state(checkpoint.last_checkpoint(trainer.config.out)).step == 6


def slowly(monkeypatch):
    """Files are written late."""
    plain = parts.write
    monkeypatch.setattr(parts, "write", lambda *given: (time.sleep(0.3), plain(*given))[1])


def test_a_signal_ends_the_run_once_its_checkpoint_is_complete(tiny_run, monkeypatch):
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=9", "checkpoint.every_steps=99"))
    slowly(monkeypatch)
    step = trainer.method.step
    trainer.method.step = lambda *given: (os.kill(os.getpid(), signal.SIGTERM), step(*given))[1]
    with pytest.raises(Stopped, match="after step 1; saved"):
        trained(trainer)
    assert checkpoint.load_state(checkpoint.last_checkpoint(trainer.config.out)).step == 1


def test_a_run_that_fails_completes_the_checkpoint_that_was_in_flight(tiny_run, monkeypatch):
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=9", "checkpoint.every_steps=2"))
    slowly(monkeypatch)
    step = trainer.method.step
    trainer.method.step = lambda *given: step(*given) if given[2].step < 2 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        trained(trainer)
    assert checkpoint.load_state(checkpoint.last_checkpoint(trainer.config.out)).step == 2


def test_the_last_checkpoint_is_complete_when_training_returns(tiny_run, monkeypatch):
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=1"))
    slowly(monkeypatch)
    trained(trainer)
    assert checkpoint.load_state(checkpoint.last_checkpoint(trainer.config.out)).step == 1
