"""Which files predict takes for images, and that all others are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimatch.errors import UserError
from unimatch.predicting.inputs import find_inputs


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_images_of_a_folder_and_what_else_lies_there(tmp_path: Path) -> None:
    photos = touch(
        tmp_path / "photos", "b.JPG", "a/x y.tif", "a/z.gif", "a/notes.txt", "a/._z.gif", ".DS_Store",
        ".thumbs/t.png", "scan.nii.gz", "Makefile",
    )  # fmt: skip
    (tmp_path / "linked").mkdir()
    touch(tmp_path / "linked", "l.png")
    (photos / "more").symlink_to(tmp_path / "linked")
    (photos / "loop").symlink_to(photos)
    found = find_inputs(photos, None, tmp_path / "out", 1)
    assert [name.as_posix() for name in found.names] == ["a/x y.tif", "a/z.gif", "b.JPG", "more/l.png"]
    told = "\n".join(found.told)
    assert "2 files whose names begin with a dot were left out\n" in told
    assert "1 folders whose names begin with a dot were left out: .thumbs" in told
    assert "1 linked folders lead back" in told
    assert "3 files are of no kind that this run reads (1 no ending, 1 .txt, 1 .gz): Makefile, a/n" in told
    volumes = find_inputs(photos, None, tmp_path / "out", 1, (".nii.gz",))
    assert [name.as_posix() for name in volumes.names] == ["scan.nii.gz"]


@pytest.mark.parametrize("earlier", ["predicted", "deep/old results"])
def test_results_are_no_photos(tmp_path: Path, earlier: str) -> None:
    photos = touch(tmp_path, "a.png", "ids/mine.png", "deep/b.png")
    results = touch(photos / earlier, "legend.png", "ids/a.png.png", "colors/a.png.png", "overlays/a.png.png")
    for out in (results, photos / "new"):
        found = find_inputs(photos, None, out, 1)
        assert [name.as_posix() for name in found.names] == ["a.png", "deep/b.png", "ids/mine.png"]
        assert found.told == [
            f"4 files of earlier results were left out: {earlier}/colors/a.png.png, "
            f"{earlier}/ids/a.png.png, {earlier}/legend.png, ..."
        ]
    touch(results, "c.png")  # of results, only what predict writes
    assert Path(earlier, "c.png") in find_inputs(photos, None, photos / "new", 1).names


def test_images_in_a_folder_of_results_are_found_and_the_folder_itself_is_refused(tmp_path: Path) -> None:
    photos = touch(tmp_path, "a.png")
    with pytest.raises(UserError, match="is the folder of images itself"):
        find_inputs(photos, None, photos, 1)
    overlays = touch(tmp_path / "old", "legend.png", "ids/a.png", "overlays/a.png") / "overlays"
    assert find_inputs(overlays, None, tmp_path / "out", 1).names == [Path("a.png")]


def test_one_file_and_two_dates(tmp_path: Path) -> None:
    touch(tmp_path, "A/1.png", "B/1.png", "A/2.png", "B/3.png", "C/1.png")
    one = find_inputs(tmp_path / "A" / "1.png", None, tmp_path / "out", 1)
    assert (one.folders, one.names, one.told) == ([tmp_path / "A"], [Path("1.png")], [])
    pair = find_inputs(tmp_path / "A" / "1.png", tmp_path / "B" / "1.png", tmp_path / "out", 2)
    assert (pair.folders, pair.names) == ([tmp_path / "A", tmp_path / "B"], [Path("1.png")])
    with pytest.raises(UserError, match="2 image.*A/2.png .not in.*B/3.png .not in"):
        find_inputs(tmp_path / "A", tmp_path / "B", tmp_path / "out", 2)
    with pytest.raises(UserError, match="must have the same file name"):
        find_inputs(tmp_path / "A" / "1.png", tmp_path / "B" / "3.png", tmp_path / "out", 2)
    with pytest.raises(UserError, match="B/3.png is not a folder as the other is"):
        find_inputs(tmp_path / "A", tmp_path / "B" / "3.png", tmp_path / "out", 2)
    with pytest.raises(UserError, match="compares two dates"):
        find_inputs(tmp_path / "A", None, tmp_path / "out", 2)
    with pytest.raises(UserError, match="--second is for runs of task change"):
        find_inputs(tmp_path / "A", tmp_path / "B", tmp_path / "out", 1)


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", ".b.png")
    with pytest.raises(UserError, match=r"no images in .*; looked for \.jpg.*1 files whose names begin"):
        find_inputs(tmp_path, None, tmp_path / "out", 1)
