"""`unimatch init` writes files that the other commands take as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.change_set import write_change_run
from tests.support.medical_set import write_medical_run
from unimatch import init, shipped
from unimatch.config import load
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import training_samples
from unimatch.errors import UserError
from unimatch.methods import METHODS
from unimatch.packing.recipe import Recipe
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import Published, read_keys, write_keys


def written(folder: Path, *arguments: object) -> RunConfig:
    path = folder / "my_run.yaml"
    path.unlink(missing_ok=True)
    init.main(["run", str(path), *map(str, arguments)])
    return load(path, RunConfig)


def test_a_recipe_is_the_one_for_folders(tmp_path: Path):
    init.main(["recipe", str(tmp_path / "my.yaml")])
    assert load(tmp_path / "my.yaml", Recipe) == load("recipes/folder", Recipe)


@pytest.mark.parametrize("method", METHODS.names())
def test_a_run_is_whole_and_fits_the_shards(method: str, tiny_shards: Path, tmp_path: Path):
    split = tiny_shards.parent / "split"
    config = written(tmp_path, "--shards", tiny_shards, "--split", split, "--method", method)
    assert "include" not in (tmp_path / "my_run.yaml").read_text()
    assert config.out == Path("runs/my_run") and config.method.name == method
    assert config.data.shards == str(tiny_shards) and config.data.val == "val"
    assert [config.data.labeled, config.data.unlabeled] == [f"{split}/labeled.txt", f"{split}/unlabeled.txt"]
    crop = 42 if method == "unimatch_v2" else 32  # of 48 x 64 pixels; patches have 14
    assert config.task.name == "natural" and config.task.config.views.crop == crop
    assert config.task.config.evaluate.multiple_of == (14 if method == "unimatch_v2" else 1)
    assert config.model.head.name == ("dpt" if method == "unimatch_v2" else "deeplabv3plus")
    assert config.task.config.loss.name == "ce"
    assert config.batch.labeled == (16 if method == "supervised" else 8)


def test_a_published_split_is_named(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By its name or as a file; of these shards, or the reason why not."""
    keys = read_keys(tiny_shards.parent / "split" / "labeled.txt")
    published = tmp_path / "published.txt"
    write_keys(published, keys, Published(40, "train", "a paper"))
    for name in (str(published), "set/6"):
        monkeypatch.setattr(shipped, "found", lambda name, *_: published if name == "set/6" else Path(name))
        config = written(tmp_path, "--shards", tiny_shards, "--split", name)
        assert (config.data.split, config.data.labeled, config.data.unlabeled) == (name, None, None)
        unlabeled = training_samples(config, ShardSet.open(tiny_shards)).unlabeled
        assert unlabeled is not None and len(unlabeled) == 34
    monkeypatch.undo()
    assert written(tmp_path, "--shards", tiny_shards, "--split", published, "--method", "supervised")
    for name, told in (
        ("pascal/92", "data.split pascal/92: .* A published split has the keys that our recipe makes"),
        (
            "pascal/93",
            "data.split 'pascal/93': no such file, nor a published split; did you mean 'pascal/92'",
        ),
    ):
        with pytest.raises(UserError, match=told):
            written(tmp_path, "--shards", tiny_shards, "--split", name)
    write_keys(published, keys, Published(50, "train", "a paper"))
    with pytest.raises(UserError, match="divides 50 samples, but subset 'train' of .* has 40"):
        written(tmp_path, "--shards", tiny_shards, "--split", published)


@pytest.mark.parametrize(
    ("write", "task", "channels"), [(write_change_run, "change", 3), (write_medical_run, "medical", 1)]
)
def test_the_task_is_that_of_the_samples(write, task: str, channels: int, tmp_path: Path):
    shards = load(write(tmp_path), RunConfig).data.shards
    labeled = tmp_path / "split"
    config = written(tmp_path, "--shards", shards, "--split", labeled)
    assert config.task.name == task and config.model.encoder.in_channels == channels
    assert config.task.config.views.crop % 32 == 0
    assert (
        written(tmp_path, "--shards", shards, "--split", labeled, "--task", "natural").task.name == "natural"
    )


def test_paths_are_quoted_where_yaml_would_read_something_else(tiny_shards: Path, tmp_path: Path):
    odd = tmp_path / "a: b #1 \N{LATIN SMALL LETTER A WITH DIAERESIS}"
    odd.symlink_to(tiny_shards)
    split = tmp_path / "[x]"
    split.symlink_to(tiny_shards.parent / "split")
    config = written(tmp_path, "--shards", odd, "--split", split, "--out", "1_16 'runs'")
    assert config.data.shards == str(odd) and config.data.labeled == f"{split}/labeled.txt"
    assert config.out == Path("1_16 'runs'")


def test_what_cannot_be_written_is_told(tiny_shards: Path, tmp_path: Path):
    arguments = ["--shards", str(tiny_shards)]
    with pytest.raises(UserError, match="no two subsets .* unimatch split --shards"):
        written(tmp_path, *arguments)
    assert written(tmp_path, *arguments, "--method", "supervised").data.unlabeled is None
    with pytest.raises(UserError, match=r"no labeled.txt in it; name one of .*/split$"):
        written(tmp_path, *arguments, "--split", tiny_shards.parent)
    with pytest.raises(UserError, match="no labeled.txt in it; make it with unimatch split"):
        written(tmp_path, *arguments, "--split", tmp_path)
    with pytest.raises(UserError, match="no such folder; make the shards first"):
        written(tmp_path, "--shards", tmp_path / "none")
    (tmp_path / "old.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"old.yaml exists: name another file"):
        init.main(["run", str(tmp_path / "old.yaml"), *arguments])
    assert (tmp_path / "old.yaml").read_text() == "mine"
