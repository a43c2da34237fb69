"""Shard sets: bytes, index, reading, and everything that can be wrong with them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
import zstandard

from tests.support.tiny_set import (
    HEIGHT,
    TAXONOMY,
    WIDTH,
    class_counts,
    damage,
    image_bytes,
    label_array,
    label_bytes,
    write_tiny,
)
from unimatch.codecs.decode import decode_label
from unimatch.codecs.encode import encode_label
from unimatch.data.load import load_image
from unimatch.errors import DataError
from unimatch.shardset import index as shard_index
from unimatch.shardset.archive import ShardSet, ShardWriter, finish_set, index_tars
from unimatch.shardset.scan import members
from unimatch.taxonomy import Taxonomy


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "set")


def every_file(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_reads_back_what_was_written(root: Path) -> None:
    shards = ShardSet.open(root, TAXONOMY)
    assert len(shards) == 15 and shards.subsets == ["train", "val"]
    assert shards.taxonomy == TAXONOMY
    for seed, row in enumerate(shards.rows("train").tolist()):
        record = shards.read(row)
        assert (record.key, record.image, record.image_ext) == (f"t{seed:03d}", image_bytes(seed), "png")
        assert record.label == (label_bytes(label_array(seed)) if seed < 5 else None)
        assert (record.width, record.height) == (WIDTH, HEIGHT)
        assert record.where == f"train-{seed // 4:05d}.tar:t{seed:03d}"
        assert shards.read(row, with_label=False).label is None
    total = sum(class_counts(label_array(seed)) for seed in range(5))
    assert shards.class_pixels("train").tolist() == total.tolist()  # type: ignore[union-attr]
    assert shards.check() == []


def test_webdataset_package_reads_it(root: Path) -> None:
    names = sorted(str(path) for path in root.glob("train-*.tar"))
    samples = list(webdataset.WebDataset(names, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"t{seed:03d}" for seed in range(11)]
    for seed, sample in enumerate(samples):
        assert sample["png"] == image_bytes(seed)
        assert sample.get("label.png") == (label_bytes(label_array(seed)) if seed < 5 else None)


def test_webdataset_package_reads_long_and_foreign_keys(tmp_path: Path) -> None:
    keys = ["a/b_c", "stra\u00dfe/\u6587", "long/" + "x" * 200]
    with ShardWriter(tmp_path, "train") as writer:
        for seed, key in enumerate(keys):
            writer.add(key, image_bytes(seed, "jpg"), "jpg", None, WIDTH, HEIGHT)
    finish_set(tmp_path, TAXONOMY, {}, [writer])
    samples = list(webdataset.WebDataset(str(tmp_path / "train-00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == keys
    shards = ShardSet.open(tmp_path)
    assert shards.keys(shards.rows("train")) == keys
    assert [shards.read(row).image for row in range(3)] == [image_bytes(seed, "jpg") for seed in range(3)]


def write_pairs(root: Path, count: int = 3) -> Path:
    """Pairs of images with labels, the last one mask-free."""
    with ShardWriter(root, "train") as writer:
        for seed in range(count):
            label = encode_label(label_array(seed), "zst")[0] if seed < count - 1 else None
            second = image_bytes(seed + 50)
            writer.add(f"A/p{seed}", image_bytes(seed), "png", label, WIDTH, HEIGHT, second=second)
    finish_set(root, TAXONOMY, {}, [writer])
    return root


def test_pairs_and_compressed_labels(tmp_path: Path) -> None:
    shards = ShardSet.open(write_pairs(tmp_path))
    for seed, row in enumerate(shards.rows("train").tolist()):
        record = shards.read(row)
        assert (record.key, record.image, record.second) == (
            f"A/p{seed}",
            image_bytes(seed),
            image_bytes(seed + 50),
        )
        if seed < 2:
            assert record.label_ext == "npy.zst" and record.label is not None
            assert (decode_label(record.label, record.where) == label_array(seed)).all()
        else:
            assert record.label is None and record.label_ext is None
    assert shards.check() == []
    with pytest.raises(DataError, match=r"train-00000\.tar:A/p0: holds a pair of images"):
        load_image(shards, 0)


def test_webdataset_package_reads_pairs_and_compressed_labels(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    samples = list(webdataset.WebDataset(str(tmp_path / "train-00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["A/p0", "A/p1", "A/p2"]
    for seed, sample in enumerate(samples):
        assert (sample["a.png"], sample["b.png"]) == (image_bytes(seed), image_bytes(seed + 50))
        if seed < 2:
            label = np.load(io.BytesIO(zstandard.decompress(sample["label.npy.zst"])))
            assert (label == label_array(seed)).all()
        else:
            assert not any("label" in name for name in sample)


def test_pairs_are_indexed_as_the_writer_does(tmp_path: Path) -> None:
    before = ShardSet.open(write_pairs(tmp_path))
    for name in ("index.json", "index.npy"):
        (tmp_path / name).unlink()
    assert (ShardSet.open(tmp_path, TAXONOMY).index == before.index).all()


def test_same_input_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    files = every_file(root)
    assert files == every_file(write_tiny(tmp_path / "again"))
    assert sorted(files) == [
        "index.json",
        "index.npy",
        *(f"train-{number:05d}.tar" for number in range(3)),
        "val-00000.tar",
    ]
    with tarfile.open(root / "train-00000.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}


def test_shards_are_cut_by_bytes_and_by_samples(tmp_path: Path) -> None:
    image = bytes(3000)
    with ShardWriter(tmp_path, "train", max_bytes=10_000, max_samples=100) as writer:
        for seed in range(7):
            writer.add(f"k{seed}", image, "jpg", None, 1, 1)
        writer.add("big", bytes(50_000), "jpg", None, 1, 1)
    # 512 + 3072 bytes a sample: two fit into 10,000
    assert [len(shard.samples) for shard in writer.shards] == [2, 2, 2, 1, 1]
    assert sum(len(shard.samples) for shard in writer.shards) == 8


def test_class_pixels_only_if_every_labelled_sample_was_counted(tmp_path: Path) -> None:
    label = label_array(0)
    with ShardWriter(tmp_path, "train") as writer:
        for seed, counts in enumerate([class_counts(label), None, class_counts(label)]):
            writer.add(
                f"k{seed}", image_bytes(0), "png", label_bytes(label), WIDTH, HEIGHT, counts, label_ext="png"
            )
    finish_set(tmp_path, TAXONOMY, {}, [writer])
    assert ShardSet.open(tmp_path).class_pixels("train") is None


def test_class_pixels_only_if_every_labelled_shard_was_counted(tmp_path: Path) -> None:
    label = label_array(0)
    for name, second in (("some", None), ("all", class_counts(label))):
        with ShardWriter(tmp_path / name, "train", max_samples=1) as writer:
            for seed, counts in enumerate([class_counts(label), second]):
                data = label_bytes(label)
                writer.add(f"k{seed}", image_bytes(0), "png", data, WIDTH, HEIGHT, counts, label_ext="png")
            writer.add("bare", image_bytes(0), "png", None, WIDTH, HEIGHT)  # has nothing to count
        assert len(writer.shards) == 3
        finish_set(tmp_path / name, TAXONOMY, {}, [writer])
    assert ShardSet.open(tmp_path / "some").class_pixels("train") is None
    counted = ShardSet.open(tmp_path / "all").class_pixels("train")
    assert counted is not None and counted.tolist() == (2 * class_counts(label)).tolist()


def test_a_shard_may_be_as_large_as_its_limit(tmp_path: Path) -> None:
    size = 512 + 3072
    for limit, expected in ((2 * size, [2, 2]), (2 * size - 1, [1, 1, 1, 1])):
        with ShardWriter(tmp_path / str(limit), "train", max_bytes=limit) as writer:
            for seed in range(4):
                writer.add(f"k{seed}", bytes(3000), "jpg", None, 1, 1)
        assert [len(shard.samples) for shard in writer.shards] == expected


@pytest.mark.parametrize("blocks", [16, 17, 18, 19])
def test_a_tar_ends_with_two_empty_blocks_wherever_its_record_ends(tmp_path: Path, blocks: int) -> None:
    """A record has 20 blocks; one of them is the member's header."""
    with ShardWriter(tmp_path, "train") as writer:
        writer.add("k", b"\xff" * (512 * blocks), "jpg", None, 1, 1)
    data = (tmp_path / "train-00000.tar").read_bytes()
    assert len(data) == writer.shards[0].size_bytes == (10240 if 1 + blocks + 2 <= 20 else 20480)
    assert not any(data[512 * (1 + blocks) :]) and len(data) - 512 * (1 + blocks) >= 1024


@pytest.mark.parametrize(
    "key",
    [
        "",
        " ",
        " a",
        "a ",
        "a.b",
        "dir.x/a",
        "..",
        "a/../b",
        "/abs",
        "a//b",
        "a/",
        "a\\b",
        "a\nb",
        "a\x00b",
        "./a",
    ],
)
def test_writer_refuses_keys(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path, "train") as writer:
        with pytest.raises(DataError, match="key"):
            writer.add(key, b"x", "jpg", None, 1, 1)
        writer.add("good", b"x", "jpg", None, 1, 1)
        with pytest.raises(DataError, match="occurs twice"):
            writer.add("good", b"x", "jpg", None, 1, 1)
        with pytest.raises(DataError, match="image type 'gif'; allowed: jpg"):
            writer.add("other", b"x", "gif", None, 1, 1)
        with pytest.raises(DataError, match="other: the label file is empty"):
            writer.add("other", b"x", "jpg", b"", 1, 1)


def test_writer_refuses_a_used_folder_and_odd_subsets(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="already holds shards"):
        ShardWriter(root, "test")
    with pytest.raises(DataError, match="subset name 'a/b'"):
        ShardWriter(tmp_path / "new", "a/b")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"):
        ShardWriter(tmp_path / "file" / "set", "train")


def test_an_exception_leaves_no_partial_shard_and_no_index(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "train", max_samples=2) as writer:
        for seed in range(3):
            writer.add(f"k{seed}", b"x", "jpg", None, 1, 1)
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.tar"]
    with pytest.raises(DataError, match=r"no index\.json.*unimatch pack"):
        ShardSet.open(tmp_path)


def test_a_key_in_two_subsets_is_refused(tmp_path: Path) -> None:
    writers = []
    for subset in ("train", "val"):
        with ShardWriter(tmp_path, subset) as writer:
            writer.add("same", b"x", "jpg", None, 1, 1)
        writers.append(writer)
    with pytest.raises(DataError, match="1 key.*same"):
        finish_set(tmp_path, TAXONOMY, {}, writers)


def test_finish_set_refuses_no_samples_and_other_class_counts(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train") as empty:
        pass
    with pytest.raises(DataError, match="at least one sample"):
        finish_set(tmp_path, TAXONOMY, {}, [empty])
    with ShardWriter(tmp_path, "val") as writer:
        writer.add("a", b"x", "jpg", b"y", 1, 1, [1, 2])
    with pytest.raises(DataError, match=r"\(2,\) for 3 classes"):
        finish_set(tmp_path, TAXONOMY, {}, [writer])


@pytest.mark.parametrize("url", ["pipe:cat x.tar", "s3://bucket/set", "https://host/set", "file:/x"])
def test_sets_are_not_written_to_urls_and_commands(url: str) -> None:
    with pytest.raises(DataError, match="folder only"):
        ShardWriter(url, "train")


def test_rows_of_a_key_list_do_not_depend_on_its_order(root: Path, tmp_path: Path) -> None:
    shards = ShardSet.open(root)
    listing = tmp_path / "list.txt"
    keys = ["v101", "t009", "t001", "t010", "t000"]
    listing.write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(keys).encode() + b"\n\n"
    )  # as an editor on Windows leaves it
    rows = shards.rows(listing)
    assert rows.dtype == np.int64 and shards.keys(rows) == sorted(keys)
    assert shards.shard_sizes(rows).tolist() == [2, 2, 1]  # shards 0, 2 and that of val; none of shard 1
    assert shards.shard_sizes(shards.rows("train")).tolist() == [4, 4, 3]


def test_bad_key_lists(root: Path, tmp_path: Path) -> None:
    shards = ShardSet.open(root)
    listing = tmp_path / "list.txt"
    cases = [
        ("t001\nzebra\n" + "\n".join(f"u{i}" for i in range(6)), "7 of 8 keys.*'u0', 'u1', .* and 2 more"),
        ("t00\n", "1 of 1 keys"),  # a prefix of a key
        ("t0011\n", "1 of 1 keys"),
        ("t001\nt002\nt001\n", "1 key.*more than once: t001"),
        ("\n \n", "empty"),
    ]
    for text, message in cases:
        listing.write_text(text)
        with pytest.raises(DataError, match=message):
            shards.rows(listing)
    listing.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        shards.rows(listing)
    with pytest.raises(DataError, match=r"'?tran'?: neither a subset .*train, val"):
        shards.rows("tran")


def test_tars_without_an_index_are_indexed_when_classes_are_given(root: Path) -> None:
    before = ShardSet.open(root)
    for name in ("index.json", "index.npy"):
        (root / name).unlink()
    with pytest.raises(DataError, match=r"no index\.json"):
        ShardSet.open(root)
    after = ShardSet.open(root, TAXONOMY)
    assert (after.index == before.index).all()
    assert after.info["shards"] == before.info["shards"]
    assert ShardSet.open(root).subsets == ["train", "val"]


def foreign_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1234.5
            tar.addfile(member, io.BytesIO(data))


def test_tars_of_other_programs_are_indexed(tmp_path: Path) -> None:
    label = label_bytes(label_array(1))
    foreign_tar(
        tmp_path / "some-name-7.tar",
        [
            ("./x/a.label.png", label),
            ("./x/a.json", b"{}"),
            ("./x/a.JPG", image_bytes(0, "jpg")),
            ("./x/b.webp", image_bytes(1, "webp")),
        ],
    )
    index_tars(tmp_path, TAXONOMY)
    shards = ShardSet.open(tmp_path)
    assert shards.subsets == ["some-name"]
    first, second = shards.read(0), shards.read(1)
    assert (first.key, first.image_ext, first.label) == ("x/a", "jpg", label)
    assert (second.key, second.image, second.width, second.height) == (
        "x/b",
        image_bytes(1, "webp"),
        WIDTH,
        HEIGHT,
    )


def test_samples_are_indexed_as_they_lie_whatever_their_names(tmp_path: Path) -> None:
    names = ["m", "z", "a"]
    foreign_tar(tmp_path / "train-0.tar", [(f"{name}.png", image_bytes(7)) for name in names])
    index_tars(tmp_path, TAXONOMY)
    shards = ShardSet.open(tmp_path)
    assert shards.keys(np.arange(3)) == names and np.all(np.diff(shards.index["image_offset"]) > 0)
    listing = tmp_path / "list.txt"
    listing.write_text("a\nz\n")
    assert shards.keys(shards.rows(listing)) == ["z", "a"]


def test_check_finds_an_index_that_describes_other_samples(root: Path) -> None:
    """Of as many samples, with the right hash of its own: only the tars tell."""
    rows = np.load(root / "index.npy")
    rows["image_size"][5] -= 1
    np.save(root / "index.npy", rows)
    info = json.loads((root / "index.json").read_text())
    info["index"]["sha256"] = hashlib.sha256((root / "index.npy").read_bytes()).hexdigest()
    (root / "index.json").write_text(json.dumps(info))
    (problem,) = ShardSet.open(root).check()
    assert problem.startswith("train-00001.tar: the index does not describe it")


def test_what_cannot_be_indexed_is_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no shards"):
        ShardSet.open(tmp_path, TAXONOMY)
    foreign_tar(tmp_path / "a-0.tar", [("a.label.png", b"x"), ("b.jpg", b"not an image")])
    image, png = image_bytes(0, "jpg"), image_bytes(0)
    foreign_tar(tmp_path / "b-0.tar", [("c.jpg", image), ("c.png", png), ("d.a.jpg", image)])
    two_labels = [("e.jpg", image), ("e.label.png", png), ("e.label.npy.zst", png)]
    foreign_tar(tmp_path / "d-0.tar", [*two_labels, ("f.a.png", png), ("f.b.png", png), ("f.jpg", image)])
    (tmp_path / "c-0.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError) as error:
        ShardSet.open(tmp_path, TAXONOMY)
    message = str(error.value)
    assert "a-0.tar:b: the image is not a JPEG" in message
    assert "b-0.tar: key 'c' has 2 images" in message
    assert "key 'd' has 1 images (a.jpg); needs one, or a pair" in message
    assert "d-0.tar: key 'e' has 2 labels" in message and "key 'f' has 3 images" in message
    assert "c-0.tar: not a whole tar" in message


def test_a_cut_tar_is_found_wherever_it_was_cut(root: Path) -> None:
    """At any place: inside a member, at its edge (which tarfile takes for the end), in the end marker."""
    path = root / "train-00000.tar"
    whole = path.read_bytes()
    ends = [offset + -(-size // 512) * 512 for _, offset, size in members(path)]
    for cut in [100, ends[0] - 700, *ends]:
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"train-00000\.tar: .*copy or pack it again"):
            list(members(path))
        with pytest.raises(
            DataError, match=rf"1 shard.*train-00000\.tar: {cut} bytes, the index says {len(whole)}"
        ):
            ShardSet.open(root)


def test_a_damaged_header_is_not_taken_for_the_end(root: Path) -> None:
    path = root / "train-00000.tar"
    data = bytearray(path.read_bytes())
    (_, offset, size), *_ = members(path)
    header = offset + -(-size // 512) * 512
    data[header : header + 8] = b"\xffbroken\xff"
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged member header"):
        list(members(path))
    assert "damaged member header" in ShardSet.open(root).check()[0]


def test_a_shard_cut_while_open_names_shard_and_key(root: Path) -> None:
    shards = ShardSet.open(root)
    path = root / "train-00001.tar"
    os.truncate(path, 3 * 512)
    row = int(shards.rows("train")[7])
    with pytest.raises(DataError, match=r"train-00001\.tar:t007: the shard ends after 0 of"):
        shards.read(row)
    shards.close()
    path.unlink()
    with pytest.raises(DataError, match=r"train-00001\.tar:t007: cannot read the shard"):
        shards.read(row)
    with pytest.raises(DataError, match=r"1 shard.*train-00001\.tar: No such file"):
        ShardSet.open(root)


def test_a_damaged_index_is_refused(root: Path) -> None:
    array = (root / "index.npy").read_bytes()
    text = (root / "index.json").read_text()
    for damaged in (array[:-1], array[:200], b"", array[:300] + b"\x55" + array[301:]):
        (root / "index.npy").write_bytes(damaged)
        with pytest.raises(DataError, match=r"index\.npy is damaged"):
            ShardSet.open(root)
    (root / "index.npy").unlink()
    with pytest.raises(DataError, match=r"index\.npy is missing"):
        ShardSet.open(root)
    (root / "index.npy").write_bytes(array)
    info = json.loads(text)
    shards = info["shards"]
    for changed, message in [
        (text[:-30], "not a shard index"),
        ("[]", "not a shard index"),
        ("{}", "not a shard index"),
        (json.dumps({**info, "version": 9}), "version 9; this program reads"),
        (json.dumps({**info, "format": "other"}), "format 'other'"),
        (json.dumps({**info, "taxonomy": {}}), r"index\.json is damaged"),
        (json.dumps({**info, "shards": [{**shards[0], "name": "../x.tar"}]}), r"index\.json is damaged"),
        (json.dumps({**info, "shards": shards[:-1]}), "counts other samples"),
        (json.dumps({**info, "shards": [{**shards[0], "samples": 5}, *shards[1:]]}), "counts other samples"),
    ]:
        (root / "index.json").write_text(changed)
        with pytest.raises(DataError, match=message):
            ShardSet.open(root)


def test_other_classes_and_no_folder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"other classes.*3 \(road, tree, car.*2 \(road, tree;"):
        ShardSet.open(root, Taxonomy.of(["road", "tree"]))
    with pytest.raises(DataError, match="no such folder"):
        ShardSet.open(tmp_path / "nowhere")


def test_check_finds_changed_bytes(root: Path) -> None:
    damage(root, "t006")
    problems = ShardSet.open(root).check()
    assert len(problems) == 1 and problems[0].startswith("train-00001.tar: the bytes differ")


def test_a_set_travels_to_spawned_workers_and_survives_forks(root: Path) -> None:
    shards = ShardSet.open(root)
    expected = [shards.read(row).image for row in range(len(shards))]
    assert len(pickle.dumps(shards)) < 5000  # the index is mapped again, not sent
    copy = pickle.loads(pickle.dumps(shards))
    assert [copy.read(row).image for row in range(len(copy))] == expected
    child = os.fork()
    if child == 0:  # shares the descriptors; nothing here may reach pytest
        os._exit([shards.read(row).image for row in reversed(range(len(shards)))] != expected[::-1])
    assert [shards.read(row).image for row in range(len(shards))] == expected
    assert os.waitpid(child, 0)[1] == 0


def test_few_descriptors_for_many_shards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimatch.shardset.archive.OPEN_SHARDS", 2)
    shards = ShardSet.open(root)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for row in [*range(len(shards)), 0, 14, 3]:
        assert shards.read(row).key
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_places_beyond_four_gigabytes_and_large_files_are_kept(tmp_path: Path) -> None:
    far, large = 5 << 32, (1 << 32) - 1
    places = (far, large, b"jpeg", far + 1, large - 1, far + 2, large - 2, b"npy.zst", 65535, 40000)
    sample = shard_index.Sample(b"", *places)
    shards = [
        shard_index.Shard(f"train-{n:05d}.tar", "train", 1, "", [sample._replace(key=b"k%d" % n)])
        for n in range(3)
    ]
    rows = shard_index.rows_of(shards)
    assert rows["shard"].tolist() == [0, 1, 2] and rows["key"].tolist() == [b"k0", b"k1", b"k2"]
    for name, value in sample._asdict().items():
        assert name == "key" or rows[name].tolist() == [value] * 3


def test_a_large_index_opens_quickly_and_reading_is_cheap(tmp_path: Path) -> None:
    count = 50_000
    samples = [
        shard_index.Sample(b"key%07d" % (i * 7919 % count), 512, 10, b"jpg", 0, 0, 0, 0, b"", 4, 3)
        for i in range(count)
    ]
    (tmp_path / "train-00000.tar").write_bytes(bytes(range(256)) * 4)
    shard = shard_index.Shard("train-00000.tar", "train", 1024, "", samples)
    shard_index.write(tmp_path, TAXONOMY, {}, [shard])
    start = time.perf_counter()
    shards = ShardSet.open(tmp_path)
    opened = time.perf_counter() - start
    assert opened < 0.5  # milliseconds on an idle core
    rows = shards.rows("train")
    listing = tmp_path / "list.txt"
    listing.write_bytes(b"\n".join(shards.index["key"][rows[::2]]))
    assert (shards.rows(listing) == rows[::2]).all()
    assert shards.read(count - 1).image == bytes(range(10))
