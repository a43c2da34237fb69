from __future__ import annotations

from pathlib import Path

import pytest

from unimatch.errors import DataError
from unimatch.shardset.key_list import HEADER, list_hash, read_keys, write_keys

KEYS = ["b/2", "a/1", "c/%20x"]


def test_hash_ignores_the_order() -> None:
    assert list_hash(["b", "a"]) == list_hash(["a", "b"]) != list_hash(["a", "bc"]) != list_hash(["ab", "c"])
    assert len(list_hash([])) == 16


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_keys(tmp_path / "list.txt", KEYS)
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert lines == [f"# unimatch split: 3 keys, sha256 {list_hash(KEYS)}", "a/1", "b/2", "c/%20x"]
    assert read_keys(tmp_path / "list.txt") == sorted(KEYS)


@pytest.mark.parametrize(
    "text", ["a/1\nb/2\nc/%20x", "\ufeffa/1\r\n\r\nb/2  \r\nc/%20x\r\n", "a/1\nb/2\nc/%20x\n\n"]
)
def test_plain_lists_are_read_as_they_are(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert read_keys(tmp_path / "list.txt") == sorted(KEYS, key=lambda key: key[0])


def test_the_order_of_the_lines_may_change(tmp_path: Path) -> None:
    write_keys(tmp_path / "list.txt", KEYS)
    first, *rest = (tmp_path / "list.txt").read_text().splitlines()
    (tmp_path / "list.txt").write_text("\r\n".join([first, *rest[::-1]]))
    assert sorted(read_keys(tmp_path / "list.txt")) == sorted(KEYS)


def test_a_list_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "list.txt", KEYS)
    whole = (tmp_path / "list.txt").read_bytes()
    for size in range(len(HEADER), len(whole) - 1):  # without the last line end it is still whole
        (tmp_path / "list.txt").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"list\.txt: its first line says .* cut or edited"):
            read_keys(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("old", "new"), [("b/2", "b/3"), ("b/2\n", ""), ("b/2\n", "b/2\nd\n"), ("3 keys", "4 keys")]
)
def test_an_edited_list_is_refused(tmp_path: Path, old: str, new: str) -> None:
    write_keys(tmp_path / "list.txt", KEYS)
    text = (tmp_path / "list.txt").read_text()
    (tmp_path / "list.txt").write_text(text.replace(old, new))
    with pytest.raises(DataError, match="cut or edited"):
        read_keys(tmp_path / "list.txt")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8 text"):
        read_keys(tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"cannot write .*nowhere"):
        write_keys(tmp_path / "nowhere" / "list.txt", KEYS)
