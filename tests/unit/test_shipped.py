"""Recipes, configurations and launch files are found by name, and travel with the package."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.conftest import ROOT
from unimatch import pack, shipped, where
from unimatch.config import load
from unimatch.engine.run_config import RunConfig
from unimatch.errors import ConfigError, UserError


def test_every_file_has_one_name():
    files = [path for folder in shipped.FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert sorted(shipped.names().values()) == sorted(files)
    for name, path in shipped.names().items():
        assert shipped.find(name) == shipped.find(name + path.suffix) == path
        assert shipped.find(path.relative_to(ROOT).as_posix()) == path


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("launch/cpu2", "", "launch/accelerate/cpu2.yaml"),
        ("cpu2.yaml", "launch", "launch/accelerate/cpu2.yaml"),
        ("launch/deepspeed/zero2.json", "launch", "launch/deepspeed/zero2.json"),
        ("launch/torchrun.sh", "", "launch/torchrun.sh"),
        ("camvid", "recipes", "shards/recipes/camvid.yaml"),
        ("recipes/camvid.yaml", "configs", "shards/recipes/camvid.yaml"),
        ("base/camvid.yaml", "configs", "configs/base/camvid.yaml"),
        ("base/camvid.yaml", "recipes", None),
        ("../base/camvid.yaml", "configs", None),
        ("camvid", "", None),
        ("", "", None),
    ],
)
def test_a_name_means_one_file(name: str, kind: str, path: str | None):
    assert shipped.find(name, kind) == (None if path is None else ROOT / path)


def test_a_file_of_the_users_goes_first_and_a_folder_does_not(tmp_path: Path):
    (tmp_path / "camvid").mkdir()
    assert shipped.found("camvid", "recipes", tmp_path) == ROOT / "shards/recipes/camvid.yaml"
    (tmp_path / "camvid.yaml").touch()
    assert shipped.found("camvid.yaml", "recipes", tmp_path) == tmp_path / "camvid.yaml"
    assert shipped.found("none.yaml", "recipes", tmp_path) == tmp_path / "none.yaml"


def test_a_wheel_holds_every_room_and_the_files():
    """`find:` in setup.cfg cannot map the folders beside the package, so its packages are a list."""
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = settings["options"]["packages"].split()
    rooms = {path.parent.relative_to(ROOT) for path in (ROOT / "unimatch").rglob("__init__.py")}
    tops = {folder.split("/")[0] for folder in shipped.FOLDERS}
    assert sorted(listed) == sorted(
        {".".join(room.parts) for room in rooms} | {f"unimatch.files.{t}" for t in tops}
    )


def test_a_run_includes_what_came_with_unimatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "sub" / "run.yaml"
    run.parent.mkdir()
    run.write_text("include: synthetic/unimatch.yaml\nseed: 3\n")
    config = load("sub/run.yaml", RunConfig)
    theirs = load(ROOT / "configs/synthetic/unimatch.yaml", RunConfig)
    assert config.seed == 3 and config.model == theirs.model and config.method == theirs.method
    assert load("synthetic/unimatch", RunConfig) == theirs
    # A file beside the one that includes it goes first.
    (run.parent / "synthetic").mkdir()
    (run.parent / "synthetic" / "unimatch.yaml").write_text("include: synthetic/fixmatch.yaml")
    assert load("sub/run.yaml", RunConfig).method.name == "fixmatch"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("include: ../base/camvid.yaml", "base/camvid.yaml: no such file; did you mean 'base/camvid'"),
        ("include: base/camvd.yaml", "base/camvd.yaml: no such file; did you mean 'base/camvid'"),
    ],
)
def test_a_name_that_is_none_gets_the_nearest(tmp_path: Path, text: str, told: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "in" / "run.yaml", RunConfig)
    assert str(caught.value).startswith(f"{tmp_path}/in/run.yaml:1: include: ") and told in str(caught.value)


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()  # as people call the folder of the data

    def told(recipe: str) -> str:
        with pytest.raises(UserError) as caught:
            pack.make(pack.parse(["--recipe", recipe, "--source", "camvid", "--out", "out"]))
        return str(caught.value)

    assert "classes.txt" in told("camvid")  # which that folder lacks
    assert told("camvid") == told(str(ROOT / "shards/recipes/camvid.yaml")) == told("recipes/camvid.yaml")
    assert told("camvd") == "--recipe camvd: no such file, nor a recipe of unimatch; did you mean 'camvid'?"
    (tmp_path / "mine.yaml").write_text("classes: [a]\nsubsets: {train: {images: x/*.png}}")
    assert "did you mean 'mine.yaml'?" in told("mina.yaml")
    (tmp_path / "camvid.yaml").write_text("colour: 1")
    assert "\ncamvid.yaml:1: colour: unknown key" in told("camvid.yaml")


def test_where_prints_a_path_and_lists_all(capsys: pytest.CaptureFixture[str]):
    assert where.main(["launch/cpu2"]) == 0
    assert capsys.readouterr().out == f"{ROOT}/launch/accelerate/cpu2.yaml\n"
    assert where.main([]) == 0
    listed = capsys.readouterr().out.split()
    for name in shipped.names():
        assert name.partition("/")[2] in listed, name


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("cpu2", "did you mean 'launch/cpu2'?"),
        ("lunch/zero3_offload", "did you mean 'launch/zero3_offload'"),
        ("x", "all names: unimatch where"),
    ],
)
def test_where_gives_no_path_for_a_wrong_name(name: str, advice: str, capsys: pytest.CaptureFixture[str]):
    assert where.main([name]) == 1
    out, err = capsys.readouterr()
    assert out == "" and advice in err
