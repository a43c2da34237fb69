"""Label sets: written, gone on with, read, and refused where they do not fit."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.label_sets import true_label, write_label_set
from tests.support.tiny_set import TAXONOMY, label_array, write_tiny
from unimatch import check
from unimatch.codecs.decode import decode_label
from unimatch.codecs.encode import encode_label
from unimatch.errors import DataError
from unimatch.inspection.check_labels import check_labels, holds_labels
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.label_set import LabelSet, label_writer, written
from unimatch.taxonomy import Taxonomy


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "images", train=11, labeled=11)


@pytest.fixture
def labels(images: Path, tmp_path: Path) -> Path:
    return write_label_set(tmp_path / "labels", images, "train")


def test_labels_come_back_by_key_whatever_the_order_of_the_images(images, labels):
    shards, found = ShardSet.open(images), LabelSet.open(labels, TAXONOMY)
    rows = found.rows_in(shards)
    assert shards.keys(rows) == found.keys(np.arange(len(found))) and len(found.shard_names) == 3
    for place, row in enumerate(rows.tolist()):
        data, where = found.read_label(place)
        assert where.endswith(f":{shards.keys(rows[place : place + 1])[0]}")
        assert np.array_equal(decode_label(data, where), true_label(shards.read(row)))
    assert found.class_pixels("labels").tolist() == shards.class_pixels("train").tolist()
    with tarfile.open(labels / "labels-00000.tar") as tar:
        assert all(name.endswith(".label.npy.zst") for name in tar.getnames())


def test_labels_lie_in_any_order(images, tmp_path):
    shards = ShardSet.open(images)
    rows = shards.rows("train")[[7, 2, 9]]
    with label_writer(tmp_path / "some", TAXONOMY, {}) as writer:
        for row in rows.tolist():
            ids = true_label(shards.read(row))
            writer.add_label(shards.keys([row])[0], *encode_label(ids, "zst"), ids.shape[::-1], np.zeros(3))
    assert LabelSet.open(tmp_path / "some").rows_in(shards).tolist() == rows.tolist()


def test_a_writer_that_was_killed_goes_on_to_the_same_bytes(images, labels, tmp_path):
    shards, again = ShardSet.open(images), tmp_path / "again"

    def write(stop: int | None, **created: Any) -> None:
        with label_writer(again, shards.taxonomy, created, max_samples=5) as writer:
            done = len(written(writer))
            assert list(written(writer)) == shards.keys(shards.rows("train")[:done])
            for row in shards.rows("train")[done:].tolist():
                if row == stop:
                    raise KeyboardInterrupt
                record = shards.read(row)
                ids = true_label(record)
                counts = np.bincount(ids[ids < 255], minlength=TAXONOMY.num_classes)
                writer.add_label(record.key, *encode_label(ids, "zst"), ids.shape[::-1], counts)

    with pytest.raises(KeyboardInterrupt):
        write(stop=8)
    assert sorted(path.name for path in again.iterdir()) == [".begun.json", "labels-00000.tar"]
    with pytest.raises(DataError, match=r"begun with another step, weights: remove it, or choose another"):
        write(stop=None, step=3, weights="abc")
    with pytest.raises(DataError, match=r"has no index.json: an unfinished label set; unimatch predict"):
        LabelSet.open(again)
    (again / ".labels-00001.tar.tmp-1").write_bytes(b"left behind")
    write(stop=None)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in labels.iterdir()
    }
    assert LabelSet.open(again).hash == LabelSet.open(labels).hash


def test_the_hash_tells_other_labels_of_the_same_keys(images, labels, tmp_path):
    other = write_label_set(tmp_path / "other", images, "train", lambda record: 0 * true_label(record))
    assert LabelSet.open(other).hash != LabelSet.open(labels).hash


def test_each_kind_of_set_is_refused_in_place_of_the_other(images, labels):
    with pytest.raises(DataError, match="is a label set, without images: data.pseudo takes it"):
        ShardSet.open(labels)
    with pytest.raises(DataError, match="is a shard set of images and no label set"):
        LabelSet.open(images)
    with pytest.raises(DataError, match="is no folder; unimatch predict RUN --data LIST --labels"):
        LabelSet.open(images / "nothing")


def test_labels_of_other_images_are_refused_with_the_reason(images, labels, tmp_path):
    found = LabelSet.open(labels)
    fewer = ShardSet.open(write_tiny(tmp_path / "fewer", train=9, labeled=9))
    with pytest.raises(DataError, match=r"2 of its 11 keys are not in .*fewer: 't009', 't010'; a label set"):
        found.rows_in(fewer)
    small = write_label_set(tmp_path / "small", images, "train", lambda record: label_array(0)[:4, :5])
    with pytest.raises(DataError, match=r"11 of its 11 labels have another size .*first: t000, label 5x4"):
        LabelSet.open(small).rows_in(ShardSet.open(images))
    with pytest.raises(DataError, match="has other classes than asked for"):
        LabelSet.open(labels, Taxonomy.of(["a", "b"]))


def test_check_reads_every_label(images, labels, tmp_path, capsys):
    assert holds_labels(labels) and not holds_labels(images) and not holds_labels(tmp_path)
    report = check_labels(labels, images)
    assert report.problems == [] and report.subsets["labels"].samples == 11
    assert check.main([str(labels), "--of", str(images)]) == 0 and "11 samples" in capsys.readouterr().out
    other = write_tiny(tmp_path / "other", train=3)
    assert "8 of its 11 keys are not in" in check_labels(labels, other).problems[0]
    for wrong in ([str(images), "--of", str(images)], [str(labels), "--picture", "a.png"]):
        assert check.main(wrong) == 1 and "label set" in capsys.readouterr().err
    path = labels / "labels-00001.tar"
    data = bytearray(path.read_bytes())
    offset = LabelSet.open(labels).index["label_offset"][5]
    data[offset + 20] ^= 255
    path.write_bytes(bytes(data))
    assert any("labels-00001.tar:t005" in one for one in check_labels(labels).problems)
    path.write_bytes(bytes(data[:-1]) + b"x")
    assert any("labels-00001.tar" in one for one in check_labels(labels).problems)


def test_a_tar_with_more_than_labels_is_no_part_of_a_label_set(images, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "labels-00000.tar").write_bytes((images / "train-00000.tar").read_bytes())
    with (
        pytest.raises(DataError, match="in a label set it needs one label and nothing else"),
        label_writer(folder, TAXONOMY, {}),
    ):
        pass
