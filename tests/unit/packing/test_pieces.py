"""A set packed by many: parts that are joined, worker processes, Ray; always the bytes of one process."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.support.packing import Packing, every_file
from unimatch import pack as command
from unimatch.errors import DataError, UserError
from unimatch.packing import on_ray, pieces, pool, resume
from unimatch.packing.pieces import Join, OnRay, Part


@pytest.fixture
def packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packing:
    """20 images: 16 of train in 6 pieces, 4 of val in 2."""
    monkeypatch.setattr(pieces, "PART_JOBS", 3)
    return Packing(tmp_path)


def alone(packing: Packing) -> dict[str, bytes]:
    """The files that one process writes, elsewhere."""
    own, packing.out = packing.out, packing.folder / "alone"
    packing.pack()
    packing.out = own
    return every_file(packing.folder / "alone")


def make_parts(packing: Packing, *numbers: int) -> list[list[str]]:
    """Of each of three parts the keys that it converted."""
    found = []
    for number in numbers:
        made = packing.pack(across=Part(number, 3))
        assert made.subsets == {} and made.told[0].startswith(f"part {number}/3: ")
        found.append(packing.converted)
    return found


def test_parts_make_the_set_of_one_process(packing: Packing) -> None:
    expected = alone(packing)
    two, three, one = make_parts(packing, 2, 3, 1)
    assert sorted(one + two + three) == [job.key for job in packing.jobs] and len(two) == 7
    assert not packing.out.exists() and list(packing.partial.glob("*.tar")) == []
    made = packing.pack(across=Join(3))
    assert packing.converted == [] and made.subsets == {"train": (16, 16), "val": (4, 4)}
    assert made.notes == {"why not": 20}
    assert every_file(packing.out) == expected and not packing.partial.exists()


def test_a_stopped_part_goes_on_behind_its_finished_pieces(packing: Packing) -> None:
    expected = alone(packing)
    make_parts(packing, 1, 3)
    packing.stopped_at("k13", Part(2, 3))
    assert packing.converted == ["k03", "k04", "k05", "k12", "k13"]
    (two,) = make_parts(packing, 2)
    assert two == ["k12", "k13", "k14", "k19"]
    packing.pack(across=Join(3))
    assert every_file(packing.out) == expected


def test_a_stopped_join_goes_on_behind_its_finished_shards(
    packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(packing)
    make_parts(packing, 1, 2, 3)
    joined = pieces.joined

    def dies(*args: object) -> Generator[object, None, None]:
        yield from islice(joined(*args), 11)  # type: ignore[arg-type]
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "joined", dies)
        with pytest.raises(RuntimeError, match="stopped"):
            packing.pack(across=Join(3))
    assert len(list(packing.partial.glob("*.tar.json"))) == 3
    assert packing.pack(across=Join(3)).kept == 9
    assert every_file(packing.out) == expected


def test_a_missing_part_is_named_and_costs_the_others_nothing(packing: Packing) -> None:
    make_parts(packing, 1)
    with pytest.raises(DataError) as error:
        packing.pack(across=Join(3))
    assert str(error.value).splitlines() == [
        f"part {number}/3 is not finished: {count} of its {count} pieces are missing, or of other files or "
        f"settings; run it with --part {number}/3"
        for number, count in ((2, 3), (3, 2))
    ]
    make_parts(packing, 2, 3)
    assert make_parts(packing, 1) == [[]], "what was made is still there"


def test_what_was_made_of_other_files_or_settings_is_made_again(packing: Packing) -> None:
    make_parts(packing, 1, 2, 3)
    packing.jobs[4].path.write_bytes(packing.jobs[5].path.read_bytes())
    with pytest.raises(DataError, match=r"part 2/3 is not finished: 1 of its 3 pieces"):
        packing.pack(across=Join(3))
    assert make_parts(packing, 1, 2, 3) == [[], ["k03", "k04", "k05"], []]
    with pytest.raises(DataError, match=r"part 1/3 .*\n.*part 2/3 .*\n.*part 3/3"):
        packing.pack(across=Join(3), created={"other": "settings"})
    packing.pack(across=Join(3))
    assert every_file(packing.out) == alone(packing)


def test_problems_of_all_parts_are_told_together(packing: Packing) -> None:
    good = packing.jobs[4].path.read_bytes()
    for number in (4, 18):
        packing.jobs[number].path.write_bytes(b"bad")
    make_parts(packing, 1, 2, 3)
    with pytest.raises(DataError, match=r"2 x bad file\n  k04: is bad\n  k18: is bad"):
        packing.pack(across=Join(3))
    for number in (4, 18):
        packing.jobs[number].path.write_bytes(good)
    assert make_parts(packing, 1, 2, 3) == [["k16", "k17", "k18"], ["k03", "k04", "k05"], []]
    packing.pack(across=Join(3))
    assert every_file(packing.out) == alone(packing)


def test_a_key_of_two_parts_is_found(packing: Packing) -> None:
    other = packing.folder / "other" / "k00.png"
    other.parent.mkdir()
    other.write_bytes(packing.jobs[3].path.read_bytes())
    packing.jobs[3] = dataclasses.replace(packing.jobs[3], path=other)
    make_parts(packing, 1, 2, 3)
    with pytest.raises(DataError, match="'k00' occurs twice"):
        packing.pack(across=Join(3))


def test_a_damaged_piece_is_no_sample(packing: Packing) -> None:
    make_parts(packing, 1, 2, 3)
    path = packing.partial / resume.PARTS / "train-000000006"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="train-000000006 is damaged"):
        packing.pack(across=Join(3))
    path.unlink()
    make_parts(packing, 3)
    packing.pack(across=Join(3))
    assert every_file(packing.out) == alone(packing)


def test_parts_and_writers_keep_out_of_each_others_way(packing: Packing) -> None:
    with resume.shared(packing.out, False), resume.shared(packing.out, False) as root:
        with pytest.raises(DataError, match="another program is packing"):
            packing.pack(across=Join(3))
        assert root == packing.partial
    with pytest.raises(DataError, match="holds what --part has converted"):
        packing.pack()
    with resume.growing(packing.out, False, join=True):
        with pytest.raises(DataError, match="another program is packing"):
            packing.pack(across=Part(1, 3))
        (packing.partial / "index.json").write_text("{}")
    with pytest.raises(DataError, match="is not empty"):
        packing.pack(across=Part(1, 3))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Worker processes that are none; of each call the sizes of its pieces."""
    sizes: list[int] = []

    def ordered(items, work, workers: int) -> Iterator[None]:  # type: ignore[no-untyped-def]
        assert workers == 2
        sizes.extend(len(piece.jobs) for piece in items)
        yield from map(work, items)

    monkeypatch.setattr(pool, "ordered", ordered)
    monkeypatch.setattr(pieces, "TRIED", 2)
    return sizes


def test_workers_are_started_for_long_work_alone(
    packing: Packing, engine: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(packing)
    packing.pack(workers=2)
    assert engine == [] and every_file(packing.out) == expected
    monkeypatch.setattr(pieces, "PAYS_S", 0.0)
    monkeypatch.setattr(pieces, "PIECE_S", 1e9)
    monkeypatch.setattr(pieces, "MOST_JOBS", 5)
    packing.pack(workers=2, overwrite=True)
    assert engine == [5, 5, 5, 3] and every_file(packing.out) == expected
    monkeypatch.setattr(pieces, "PIECE_S", 1e-9)  # slow jobs go one by one
    packing.pack(workers=2, overwrite=True)
    assert engine[4:] == [1] * 18 and every_file(packing.out) == expected


def test_what_workers_left_when_they_were_killed_is_removed(
    packing: Packing, engine: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(packing)
    packing.stopped_at("k10")
    spool = packing.partial / resume.SPOOL
    spool.mkdir()
    (spool / "piece-000000000").write_bytes(b"of another run")
    monkeypatch.setattr(pieces, "PAYS_S", 0.0)
    assert packing.pack(workers=2).kept == 9
    assert engine and every_file(packing.out) == expected


def test_a_part_has_workers_too(packing: Packing, engine: list[int]) -> None:
    packing.pack(across=Part(1, 2), workers=2)
    packing.pack(across=Part(2, 2), workers=2)
    packing.pack(across=Join(2))
    assert engine == [3, 3, 3, 3, 3, 3, 1, 1] and every_file(packing.out) == alone(packing)


def test_ray_makes_the_set_of_one_process(packing: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra ray: pip install unimatch[ray]")
    # What Ray's processes import lies where these tests do.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(pieces, "MOST_JOBS", 4)
    expected = alone(packing)
    packing.pack(workers=2, across=OnRay())
    assert sorted(packing.converted) == [job.key for job in packing.jobs]
    assert every_file(packing.out) == expected


def test_without_ray_its_engine_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'unimatch\[ray\]'"):
        list(on_ray.ordered([1], abs, 2))


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "a/b", "1/0"])
def test_a_part_is_one_of_so_many(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--recipe", "camvid", "--source", "x", "--out", "y", "--part", text])
    assert "such as 3/8" in capsys.readouterr().err


def test_the_command_says_how_a_set_is_divided(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--recipe", "camvid", "--source", "x", "--out", "y"]
    assert command.parse(files).across is None
    assert command.parse([*files, "--part", "3/8"]).across == Part(3, 8)
    assert command.parse([*files, "--join", "8"]).across == Join(8)
    assert command.parse([*files, "--engine", "ray"]).across == OnRay()
    for wrong in (
        [*files, "--part", "1/2", "--join", "2"],
        ["--recipe", "synthetic", "--out", "y", "--join", "2"],
    ):
        with pytest.raises(SystemExit):
            command.parse(wrong)
    assert "--join" in capsys.readouterr().err
