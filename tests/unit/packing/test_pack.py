"""Packing: the same bytes for any number of workers and however often the run was killed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.packing import FileJob, Packing, convert, every_file
from tests.support.power_cut import cuts
from tests.support.tiny_set import HEIGHT, TAXONOMY, WIDTH, image_bytes
from unimatch.errors import DataError
from unimatch.inspection.check import check_set
from unimatch.packing import pieces, resume, synthetic
from unimatch.packing.pack import NewSample, Outcome, Packed, Problem, write_set
from unimatch.packing.pool import ordered
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import Taxonomy


@pytest.fixture
def packing(tmp_path: Path) -> Packing:
    return Packing(tmp_path)


def undisturbed(packing: Packing, jobs: Sequence[FileJob] | None = None, **changes: dict) -> dict[str, bytes]:
    """The files of a run that was not stopped, elsewhere."""
    other = packing.folder / "undisturbed"
    before, packing.out = packing.out, other
    packing.pack(jobs, overwrite=True, **changes)  # type: ignore[arg-type]
    packing.out = before
    return every_file(other)


def test_a_stopped_run_is_continued(packing: Packing, capsys: pytest.CaptureFixture[str]) -> None:
    expected = undisturbed(packing)
    packing.stopped_at("k10")
    assert packing.converted == [f"k{i:02d}" for i in range(11)]
    assert sorted(path.name for path in packing.partial.iterdir()) == [
        ".lock",
        *[f"train-0000{number}.tar{end}" for number in range(3) for end in ("", ".json")],
    ]
    capsys.readouterr()
    made = packing.pack()
    assert packing.converted == [f"k{i:02d}" for i in range(9, 20)]
    assert made == Packed({"train": (16, 16), "val": (4, 4)}, {"why not": 20}, kept=9)
    assert "kept 3 finished shards with 9 images of an interrupted run" in capsys.readouterr().err
    assert every_file(packing.out) == expected and not packing.partial.exists()
    assert sorted(expected)[:2] == ["index.json", "index.npy"] and len(expected) == 2 + 6 + 2
    assert check_set(packing.out).problems == []


def test_a_finished_subset_is_kept_whole(packing: Packing) -> None:
    expected = undisturbed(packing)
    packing.stopped_at("k17")
    assert packing.pack().kept == 16
    assert packing.converted == ["k16", "k17", "k18", "k19"] and every_file(packing.out) == expected


def test_stopped_again_and_again(packing: Packing) -> None:
    expected = undisturbed(packing)
    for key in ("k02", "k04", "k05", "k12", "k16", "k18"):
        packing.stopped_at(key)
    packing.pack()
    assert packing.converted == ["k16", "k17", "k18", "k19"] and every_file(packing.out) == expected


def test_a_changed_input_discards_from_its_shard_on(packing: Packing) -> None:
    packing.stopped_at("k14")
    path = packing.jobs[7].path  # in the third shard
    path.write_bytes(image_bytes(70))
    expected = undisturbed(packing)
    packing.pack()
    assert packing.converted[0] == "k06" and every_file(packing.out) == expected


def test_a_touched_input_counts_as_changed(packing: Packing) -> None:
    packing.stopped_at("k14")
    os.utime(packing.jobs[4].path, ns=(1, 1))
    packing.pack()
    assert packing.converted[0] == "k03"


def test_the_sample_behind_a_shard_counts_too(packing: Packing) -> None:
    # It was too large for the rest of the shard. Were it smaller now, it would belong there.
    packing.stopped_at("k14")
    packing.jobs[9].path.write_bytes(image_bytes(90, "png", 3, 3))
    packing.pack()
    assert packing.converted[0] == "k06"


def test_more_or_fewer_or_other_images(packing: Packing) -> None:
    for jobs, first in (
        (packing.jobs[:5] + packing.jobs[6:], "k03"),
        (packing.jobs[:4] + packing.jobs[5:6] + packing.jobs[4:5] + packing.jobs[6:], "k03"),
        (packing.jobs[1:], "k01"),
    ):
        expected = undisturbed(packing, jobs)
        packing.stopped_at("k14")
        packing.pack(jobs, overwrite=True)
        assert packing.converted[0] == first and every_file(packing.out) == expected


def test_a_shard_that_was_the_last_is_not_when_images_are_added(packing: Packing) -> None:
    packing.stopped_at("k18")
    longer = packing.jobs[:16] + [FileJob(packing.folder / "new.png")] + packing.jobs[16:]
    longer[16].path.write_bytes(image_bytes(99))
    expected = undisturbed(packing, longer)
    packing.pack(longer)
    assert packing.converted[0] == "k15" and every_file(packing.out) == expected


def test_other_settings_discard_everything(packing: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[dict] = [{"created": {"downscale": 2}}, {"taxonomy": Taxonomy.of(["a", "b", "c"])}]
    for changes in settings:
        packing.stopped_at("k14")
        packing.pack(overwrite=True, **changes)
        assert packing.converted[0] == "k00"
    packing.stopped_at("k14")
    monkeypatch.setattr(resume, "PACKING", resume.PACKING + 1)
    packing.pack(overwrite=True)
    assert packing.converted[0] == "k00"


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "note cut", "note gone", "note of another"])
def test_a_damaged_shard_is_made_again(packing: Packing, damage: str) -> None:
    expected = undisturbed(packing)
    packing.stopped_at("k14")
    shard = packing.partial / "train-00001.tar"
    note = packing.partial / "train-00001.tar.json"
    data = shard.read_bytes()
    if damage == "byte":
        shard.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
    elif damage == "cut":
        shard.write_bytes(data[:-600])
    elif damage == "gone":
        shard.unlink()
    elif damage == "note cut":
        note.write_bytes(note.read_bytes()[:-9])
    elif damage == "note gone":
        note.unlink()
    else:
        note.write_bytes((packing.partial / "train-00002.tar.json").read_bytes())
    assert packing.pack().kept == 3
    assert packing.converted[0] == "k03" and every_file(packing.out) == expected


def test_problems_keep_what_is_finished_and_look_for_more(packing: Packing) -> None:
    expected = undisturbed(packing)
    good = {place: packing.jobs[place].path.read_bytes() for place in (7, 18)}
    for place in good:
        packing.jobs[place].path.write_bytes(b"bad")
    with pytest.raises(DataError) as error:
        packing.pack()
    assert len(packing.converted) == 20
    assert str(error.value) == (
        f"2 problems in here, 2 finished shards wait in {packing.partial} for the next try: 2 x bad file\n"
        "  k07: is bad\n  k18: is bad"
    )
    for place, data in good.items():
        packing.jobs[place].path.write_bytes(data)
    assert packing.pack().kept == 6
    assert packing.converted[0] == "k06" and every_file(packing.out) == expected


def test_problems_in_the_first_shard_leave_nothing(packing: Packing) -> None:
    packing.jobs[1].path.write_bytes(b"bad")
    with pytest.raises(DataError, match="2 problems in here, nothing was written: 1 x bad file, 1 x layout"):
        packing.pack(problems=[Problem("layout", "no such folder")])
    assert not packing.out.exists() and not packing.partial.exists()


def test_two_programs_cannot_pack_into_one_folder(packing: Packing) -> None:
    with resume.growing(packing.out, False):
        with pytest.raises(DataError, match="another program is packing into .*out.partial"):
            packing.pack()
        # The second one must not have touched what the first one holds.
        assert (packing.partial / resume.LOCK).exists()
    assert packing.out.is_dir()


def test_other_files_are_not_removed(packing: Packing) -> None:
    for folder in (packing.out, packing.partial):
        folder.mkdir()
        (folder / "thesis.docx").write_text("dear")
        with pytest.raises(DataError, match=rf"{folder.name} holds more than a shard set \(thesis.docx\)"):
            packing.pack(overwrite=True)
        assert (folder / "thesis.docx").exists()
        (folder / "thesis.docx").unlink()
    packing.pack()
    with pytest.raises(DataError, match="out is not empty; choose another --out"):
        packing.pack()
    packing.out.rename(packing.folder / "other")
    packing.out.write_text("")
    with pytest.raises(DataError, match="out exists and is not a folder"):
        packing.pack()


def test_a_linked_folder_is_filled_where_it_is(packing: Packing) -> None:
    (packing.folder / "disk" / "set").mkdir(parents=True)
    packing.out.symlink_to(packing.folder / "disk" / "set")
    packing.pack()
    assert packing.out.is_symlink() and len(ShardSet.open(packing.folder / "disk" / "set")) == 20


# Real processes


def scenes(count: int) -> dict[str, list[synthetic.SceneJob]]:
    return {name: [synthetic.SceneJob(name, index) for index in range(count)] for name in ("train", "val")}


def pack_scenes(out: Path, workers: int, count: int = 60) -> None:
    write_set(
        out,
        synthetic.TAXONOMY,
        scenes(count),
        functools.partial(synthetic.draw, seed=1, height=48, width=64),
        {},
        shard_bytes=20_000,
        workers=workers,
        overwrite=False,
        source_name="scenes",
    )


def in_own_group(out: Path, workers: int) -> None:
    os.setpgrp()
    if workers > 1:
        pieces.TRIED, pieces.PAYS_S, pieces.MOST_JOBS = 2, 0.0, 4
    pack_scenes(out, workers)


def test_killed_ten_times_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL to the whole process group, at a random moment after a random number of finished shards."""
    monkeypatch.setattr(pieces, "PAYS_S", 0.0)
    pack_scenes(tmp_path / "undisturbed", workers=2)
    expected = every_file(tmp_path / "undisturbed")
    assert sum(name.endswith(".tar") for name in expected) >= 20
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["unimatch.packing.synthetic", __name__])
    draw, out, partial = random.Random(3), tmp_path / "out", tmp_path / "out.partial"
    progress = []
    for kill in range(10):
        process = server.Process(target=in_own_group, args=(out, 2 if kill in (0, 4) else 1))
        process.start()
        wanted = len(list(partial.glob("*.tar.json"))) + draw.choice([0, 0, 1, 2])
        deadline = time.monotonic() + 300
        assert process.pid is not None
        started = False
        while not started or len(list(partial.glob("*.tar.json"))) < wanted:
            started = started or (os.getpgid(process.pid) == process.pid and partial.exists())
            assert time.monotonic() < deadline and process.is_alive()
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it was killed: pack more scenes"
        progress.append(len(list(partial.glob("*.tar.json"))))
    assert progress == sorted(progress) and progress[-1] > 3
    pack_scenes(out, workers=1)
    assert every_file(out) == expected


def test_a_set_that_is_refused_its_name_is_whole_for_the_next_run(
    packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(packing)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(packing.out))

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", refused)
        with pytest.raises(DataError, match="Permission denied"):
            packing.pack()
    assert not packing.out.exists()
    assert packing.pack().kept == len(packing.jobs) and packing.converted == []
    assert every_file(packing.out) == expected


def test_a_power_cut_costs_no_set_and_no_sound_shard(tmp_path: Path) -> None:
    """The set that stands is the old or the new one; packed again, it is the one of an undisturbed run."""
    packing = Packing(tmp_path, count=6)
    new = undisturbed(packing, created={"made": "anew"})
    packing.pack(created={"made": "first"})
    old = every_file(packing.out)
    kept = []

    def fresh() -> None:
        for folder in (packing.out, packing.partial):
            shutil.rmtree(folder, ignore_errors=True)
        packing.out.mkdir()
        for name, data in old.items():
            (packing.out / name).write_bytes(data)

    def pack() -> Packed:
        return packing.pack(created={"made": "anew"}, overwrite=True)

    for _ in cuts(pack, tmp_path, fresh):
        if (packing.out / "index.json").exists():
            found = {name: data for name, data in every_file(packing.out).items() if name in new}
            assert found in (old, new)
        kept.append(pack().kept)
        assert every_file(packing.out) == new
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out", "undisturbed"}
    assert max(kept) == 6 and len(set(kept)) > 2, "finished shards are kept"


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    server = multiprocessing.get_context("forkserver")
    process = server.Process(target=tell_and_wait, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 300
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tell_and_wait(folder: Path) -> None:
    for _ in ordered([folder] * 32, write_pid, 2):
        pass


def write_pid(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(0.3)


def die(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_worker_is_an_error() -> None:
    with pytest.raises(DataError, match="a worker process was killed.*fewer --workers"):
        list(ordered(range(32), die, 2))


def test_results_come_in_order() -> None:
    assert list(ordered(range(99), abs, 2)) == list(range(99))


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    """In images, labels, headers, padding and the end marker."""
    jobs = {"train": [FileJob(tmp_path / f"k{seed}.png") for seed in range(3)]}
    for seed, job in enumerate(jobs["train"]):
        job.path.write_bytes(image_bytes(seed))
    write_set(
        tmp_path / "set",
        TAXONOMY,
        jobs,
        functools.partial(convert, log=tmp_path / "log"),
        {},
        shard_bytes=1 << 20,
        workers=1,
        overwrite=False,
        source_name="here",
    )
    assert check_set(tmp_path / "set").problems == []
    draw = random.Random(5)
    for name, times in (("train-00000.tar", 200), ("index.npy", 50)):
        path = tmp_path / "set" / name
        data = path.read_bytes()
        for _ in range(times):
            at, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
            path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            problems = check_set(tmp_path / "set").problems
            assert any(name in problem for problem in problems), f"{name}: bit {bit} of byte {at}"
        path.write_bytes(data)


def test_a_sample_with_two_images_is_packed(tmp_path: Path) -> None:
    first, second = image_bytes(1), image_bytes(2)
    job = FileJob(tmp_path / "pair.png")
    job.path.write_bytes(first)
    sample = NewSample("pair", first, "png", None, WIDTH, HEIGHT, None, second=second)
    write_set(
        tmp_path / "set",
        TAXONOMY,
        {"train": [job]},
        functools.partial(give, sample=sample),
        {},
        shard_bytes=1 << 20,
        workers=1,
        overwrite=False,
        source_name="here",
    )
    record = ShardSet.open(tmp_path / "set").read(0)
    assert (record.image, record.second, record.label) == (first, second, None)


def give(job: FileJob, sample: NewSample) -> Outcome:
    return Outcome(sample)
