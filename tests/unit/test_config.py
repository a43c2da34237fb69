import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

import pytest

from unimatch.config import Section, dump, from_text, load, nodes
from unimatch.config.mistakes import Mistakes
from unimatch.errors import ConfigError, DataError
from unimatch.registry import Registry

METHODS = Registry("method")


@dataclass
class FixConfig:
    threshold: float = 0.95
    views: int = 1


@dataclass
class DuoConfig:
    threshold: float = 0.9
    partner: Literal["same", "shuffled"] = "same"


@METHODS.register("fix", FixConfig)
class Fix:
    pass


@METHODS.register("duo", DuoConfig)
class Duo:
    pass


@dataclass
class Batch:
    labeled: int
    unlabeled: int = 8

    def __post_init__(self) -> None:
        if self.labeled < 1:
            raise ValueError(f"labeled must be at least 1, found {self.labeled}")
        if self.unlabeled == 13:
            raise DataError("unlucky\nvery unlucky")


@dataclass
class Run:
    batch: Batch
    method: Section = field(metadata={"registry": METHODS})
    seed: int = 0


RUN = "batch:\n  labeled: 4\nmethod:\n  name: fix\n"


def one(hint: object, text: str, overrides: tuple[str, ...] = ()) -> object:
    """The value of a setting of type `hint` whose YAML text is `text`."""

    @dataclass
    class One:
        x: hint  # type: ignore[valid-type]

    return from_text(f"x: {text}\n", One, overrides).x


def mistakes(text: str, schema: type, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_text(text, schema, overrides, source="run.yaml")
    return str(caught.value).splitlines()


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


# Scalars


@pytest.mark.parametrize(
    ("hint", "text", "expected"),
    [
        (str, "1_16", "1_16"),
        (str, "'1_16'", "1_16"),
        (str, "on", "on"),
        (str, "No", "No"),
        (str, "007", "007"),
        (str, "5e-6", "5e-6"),
        (str, "2024-01-02", "2024-01-02"),
        (str, "12:30:45", "12:30:45"),
        (str, "true", "true"),
        (str, '""', ""),
        (str, '"null"', "null"),
        (str, "|\n  two\n  lines", "two\nlines\n"),
        (int, "4", 4),
        (int, "-12", -12),
        (int, "0", 0),
        (int, "4  # four", 4),
        (float, "5e-6", 5e-6),
        (float, "5E+6", 5e6),
        (float, "-.5", -0.5),
        (float, "1.", 1.0),
        (float, "3", 3.0),
        (float, ".inf", float("inf")),
        (float, "-.inf", float("-inf")),
        (bool, "true", True),
        (bool, "false", False),
        (Path, "../data/camvid", Path("../data/camvid")),
        (Path, "1_16", Path("1_16")),
        (Literal["off", "global"], "off", "off"),
        (Literal["off", "global"], "'off'", "off"),
        (Literal["yes", "no"], "no", "no"),
        (Literal["1_8", "1_16"], "1_16", "1_16"),
        (Literal[8, 16, 32], "16", 16),
        (Literal["auto", True], "true", True),
        (int | None, "null", None),
        (int | None, "~", None),
        (int | None, "", None),
        (int | None, "3", 3),
        (Optional[str], "null", None),  # noqa: UP045  (the older spelling is read too)
        (str | None, "'null'", "null"),
        (str | None, "none", "none"),
        (Literal["a"] | None, "~", None),
    ],
)
def test_scalars_are_read_by_declared_type(hint, text, expected):
    value = one(hint, text)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("hint", "text", "message"),
    [
        (int, "four", "expected an integer, found 'four'"),
        (int, "1.5", "expected an integer, found '1.5'"),
        (int, "4.0", "expected an integer, found '4.0'"),
        (int, "1_000", "expected an integer, found '1_000'"),
        (int, "'4'", "expected an integer, found the quoted text '4'"),
        (int, "0x10", "expected an integer, found '0x10'"),
        (int, "010", "expected an integer, found '010'"),
        (int, "1e3", "expected an integer, found '1e3'"),
        (int, "true", "expected an integer, found 'true'"),
        (int, "9" * 5000, "expected an integer, found '" + "9" * 57 + "...'"),
        (int, "", "expected an integer, found nothing"),
        (int, "~", "expected an integer, found ~"),
        (int, "[1]", "expected an integer, found a list"),
        (int, "{a: 1}", "expected an integer, found a mapping"),
        (int, "\u0664", "expected an integer, found '\u0664'"),
        (float, "fast", "expected a number, found 'fast'"),
        (float, "1_0.5", "expected a number, found '1_0.5'"),
        (float, "'0.5'", "expected a number, found the quoted text '0.5'"),
        (float, ".nan", "expected a number, found '.nan'"),
        (float, "nan", "expected a number, found 'nan'"),
        (float, "1e999", "expected a number, found '1e999'"),
        (float, "1,5", "expected a number, found '1,5'"),
        (bool, "yes", "expected true or false, found 'yes'"),
        (bool, "True", "expected true or false, found 'True'"),
        (bool, "1", "expected true or false, found '1'"),
        (bool, "'true'", "expected true or false, found the quoted text 'true'"),
        (str, "null", "expected text, found null"),
        (str, "", "expected text, found nothing"),
        (str, "[a]", "expected text, found a list"),
        (Path, '""', "expected a path, found the quoted text ''"),
        (Path, "~/data", "expected a path with the home folder written in full, found '~/data'"),
        (Literal["off", "global"], "of", "expected one of off, global, found 'of'"),
        (Literal["off", "global"], "[off]", "expected one of off, global, found a list"),
        (Literal[8, 16], "'8'", "expected one of 8, 16, found the quoted text '8'"),
        (Literal[8, 16], "8.0", "expected one of 8, 16, found '8.0'"),
        (Literal["null"], "null", "expected one of null, found null"),
        (int | None, "none", "expected an integer, found 'none'"),
        (list[int], "3", "expected a list, found '3'"),
        (list[int], "~", "expected a list, found ~"),
        (tuple[int, int], "[1, 2, 3]", "expected 2 values, found 3"),
        (tuple[int, int], "1, 2", "expected a list of 2 values, found '1, 2'"),
        (dict[str, int], "[1]", "expected a mapping ('key: value' lines), found a list"),
        (Batch, "4", "expected a mapping ('key: value' lines), found '4'"),
        (Batch, "", "expected a mapping ('key: value' lines), found nothing"),
        (
            int,
            "!!python/object/apply:os.getpid []",
            "tags such as !!python/object/apply:os.getpid are not supported",
        ),
        (str, "!!str 5", "tags such as !!str are not supported"),
        (str, "!secret 5", "tags such as !secret are not supported"),
    ],
)
def test_a_wrong_scalar_says_what_was_expected_and_found(hint, text, message):
    with pytest.raises(ConfigError) as caught:
        one(hint, text)
    assert f"<text>:1: x: {message}" in str(caught.value).splitlines()


# Containers


def test_containers_are_read_item_by_item():
    assert one(list[float], "[1, 2.5, 5e-6]") == [1.0, 2.5, 5e-6]
    assert one(list[str], "[1_16, on]") == ["1_16", "on"]
    assert one(list[int], "[]") == []
    assert one(tuple[int, ...], "[1, 2, 3]") == (1, 2, 3)
    assert one(tuple[float, str], "[1, 1]") == (1.0, "1")
    assert one(tuple[tuple[int, int], ...], "[[1, 2], [3, 4]]") == ((1, 2), (3, 4))
    assert one(dict[str, float], "{on: 1, '2': 2}") == {"on": 1.0, "2": 2.0}
    assert one(dict[int, str], "{0: sky, -1: road}") == {0: "sky", -1: "road"}
    assert one(dict[str, list[int]] | None, "{a: [1]}") == {"a": [1]}
    assert one(list[Batch], "[{labeled: 1}, {labeled: 2, unlabeled: 3}]") == [Batch(1), Batch(2, 3)]
    assert one(dict[str, Batch], "{a: {labeled: 1}}") == {"a": Batch(1)}


def test_mistakes_in_containers_name_the_item():
    @dataclass
    class Lists:
        scale: tuple[float, float]
        sizes: list[int]
        names: dict[int, str]
        parts: list[Batch]

    text = (
        "scale: [0.5, wide]\nsizes:\n- 1\n- two\nnames: {a: sky, 1: ~}\nparts:\n- labeled: 0\n- labelled: 1\n"
    )
    assert mistakes(text, Lists) == [
        "run.yaml:1: scale[1]: expected a number, found 'wide'",
        "run.yaml:4: sizes[1]: expected an integer, found 'two'",
        "run.yaml:5: names.a: expected an integer, found 'a'",
        "run.yaml:5: names.1: expected text, found ~",
        "run.yaml:7: parts[0]: labeled must be at least 1, found 0",
        "run.yaml:8: parts[1].labelled: unknown key; did you mean 'labeled' or 'unlabeled'?",
        "run.yaml:8: parts[1].labeled: required, but not given",
    ]


# Sections


def test_fields_not_given_keep_their_defaults():
    assert from_text(RUN, Run) == Run(Batch(4, 8), Section("fix", FixConfig(0.95, 1)), 0)


def test_a_section_given_in_part_keeps_the_rest_of_its_fields_default():
    @dataclass
    class Parts:
        batch: Batch = field(default_factory=lambda: Batch(3, 7))
        method: Section = field(
            default_factory=lambda: Section("duo", DuoConfig(0.5, "shuffled")), metadata={"registry": METHODS}
        )

    assert from_text("batch: {labeled: 1}", Parts).batch == Batch(1, 7)
    assert from_text("method: {threshold: 0.1}", Parts).method == Section("duo", DuoConfig(0.1, "shuffled"))
    assert from_text("method: {name: fix}", Parts).method == Section("fix", FixConfig())


def test_a_registry_decides_which_fields_a_section_has():
    run = from_text("batch: {labeled: 4}\nmethod: {name: duo, partner: shuffled}", Run)
    assert run.method == Section("duo", DuoConfig(0.9, "shuffled"))
    assert mistakes("batch: {labeled: 4}\nmethod: {name: duo, views: 2}", Run) == [
        "run.yaml:2: method.views: unknown key of method 'duo'; choose from: threshold, partner"
    ]
    assert mistakes("batch: {labeled: 4}\nmethod:\n  name: fixx\n  anything: 1", Run) == [
        "run.yaml:3: method.name: unknown method 'fixx'; did you mean 'fix'?"
    ]
    assert mistakes("batch: {labeled: 4}\nmethod:\n  views: 1", Run) == [
        "run.yaml:2: method.name: required, but not given; choose from: fix, duo"
    ]
    assert mistakes("batch: {labeled: 4}\nmethod: fix", Run) == [
        "run.yaml:2: method: expected a mapping ('key: value' lines), found 'fix'"
    ]


def test_sections_may_be_optional_or_many():
    @dataclass
    class Many:
        first: Section | None = field(default=None, metadata={"registry": METHODS})
        rest: list[Section] = field(default_factory=list, metadata={"registry": METHODS})

    assert from_text("first: ~", Many) == Many()
    many = from_text("first: {name: fix}\nrest: [{name: duo}, {name: fix, views: 2}]", Many)
    assert many == Many(
        Section("fix", FixConfig()), [Section("duo", DuoConfig()), Section("fix", FixConfig(views=2))]
    )
    assert from_text(dump(many), Many) == many


# Mistakes


def test_every_mistake_is_reported_at_once_in_the_order_of_lines():
    text = (
        "seed: four\n"  # 1
        "bacth: 1\n"
        "method:\n"
        "  name: fix\n"
        "  threshold: high\n"  # 5
        "  name: fix\n"
        "batch:\n"
        "  unlabeled: 1.5\n"
    )
    assert mistakes(text, Run) == [
        "run.yaml:1: seed: expected an integer, found 'four'",
        "run.yaml:2: bacth: unknown key; did you mean 'batch'?",
        "run.yaml:5: method.threshold: expected a number, found 'high'",
        "run.yaml:6: method.name: this key is given twice; first in line 4",
        "run.yaml:7: batch.labeled: required, but not given",
        "run.yaml:8: batch.unlabeled: expected an integer, found '1.5'",
    ]


def test_what_is_missing_at_the_top_names_the_file():
    assert mistakes("seed: 1", Run) == [
        "run.yaml: batch: required, but not given",
        "run.yaml: method: required, but not given",
    ]


def test_a_file_of_another_kind_is_one_mistake():
    """Not one for each of its keys; a single wrong key is still told with the nearest one."""
    assert mistakes("about: a\nbase: b\naxes: {}\nseed: 3", Run) == [
        "run.yaml: a file of another kind: expected batch, method, found about, base, axes"
    ]
    assert len(mistakes("about: a\nbase: b\nbacth: {}", Run, ("seed=1", "seed=2"))) == 1
    assert "run.yaml:1: bacth: unknown key; did you mean 'batch'?" in mistakes("bacth: {}", Run)


def test_post_init_mistakes_are_collected_where_the_field_stands():
    text = "batch:\n  unlabeled: 2\n  labeled: 0\nmethod: {name: fix}\nseed: x"
    assert mistakes(text, Run) == [
        "run.yaml:3: batch: labeled must be at least 1, found 0",
        "run.yaml:5: seed: expected an integer, found 'x'",
    ]
    # A message that begins with no field stands at the section, each of its lines with the place.
    assert mistakes("method: {name: fix}\nbatch:\n  labeled: 1\n  unlabeled: 13", Run) == [
        "run.yaml:2: batch: unlucky",
        "run.yaml:2: batch: very unlucky",
    ]


def test_post_init_of_the_top_level_names_the_file():
    @dataclass
    class Top:
        a: int = 1

        def __post_init__(self) -> None:
            raise ValueError("no value will do" if self.a == 2 else "")

    assert mistakes("a: 2", Top) == ["run.yaml: no value will do"]
    assert mistakes("a: 3", Top) == ["run.yaml: not valid"]


def test_other_exceptions_of_post_init_are_bugs_and_pass():
    @dataclass
    class Broken:
        a: int = 1

        def __post_init__(self) -> None:
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        from_text("a: 2", Broken)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["run.yaml: expected 'key: value' lines, found nothing; the file is empty"]),
        ("# nothing here\n", ["run.yaml: expected 'key: value' lines, found nothing; the file is empty"]),
        ("- a\n- b\n", ["run.yaml: expected 'key: value' lines, found a list"]),
        ("seed=3\n", ["run.yaml: expected 'key: value' lines, found 'seed=3'"]),
        ("a: 1\nb: [1, 2\nc: 3\n", ["run.yaml:3: not valid YAML: "]),
        ("a: 1\n\tb: 2\n", ["run.yaml:2: not valid YAML: "]),
        ("a: 1\n---\na: 2\n", ["run.yaml:2: not valid YAML: "]),
        ("a: *missing\n", ["run.yaml:1: not valid YAML: "]),
        ("a: 1\nb: \x07\n", ["run.yaml:2: not valid YAML: character 7 is not allowed"]),
        ("a: " + "[" * 500 + "]" * 500, ["run.yaml: not valid YAML: nested too deeply"]),
        ("a: &x [*x]\n", ["run.yaml:1: not valid YAML: the anchor of a[0] contains itself"]),
        (
            "base: &b {x: 1}\nbatch:\n  <<: *b\n",
            ["run.yaml:3: batch: merge keys (<<) are not supported; use include"],
        ),
    ],
)
def test_a_text_that_cannot_be_read_is_reported_alone(text, expected):
    found = mistakes(text, Run)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


# In the first three libyaml, which reads where PyYAML has it, would see no mistake.
@pytest.mark.parametrize(
    "text",
    ["a: [b?c]\n", "a:\tb\n", "a: b\ufeffc\n", "a: 'x: 1\n"]
    + ['a: [1,\n  {b: 2}]\nc: "3"\nd: |\n  4\ne: &x 5\nf: *x\n'],
)
def test_both_readers_of_yaml_find_the_same(text, monkeypatch):
    def found() -> list:
        mistakes = Mistakes()
        waiting, places = [nodes.compose(text, "run.yaml", mistakes)], []
        for node in waiting:
            parts = [] if isinstance(node.value, str) else node.value
            waiting += [part for pair in parts for part in (pair if isinstance(pair, tuple) else [pair])]
            text_of = (node.value, nodes.is_quoted(node)) if isinstance(node.value, str) else None
            places.append((node.tag, node.start_mark.name, node.start_mark.line, text_of))
        return [places, mistakes.found]

    ours = found()
    monkeypatch.setattr(nodes, "FAST", None)
    assert ours == found()


def test_anchors_and_aliases_are_plain_repetition():
    @dataclass
    class Two:
        a: Batch
        b: Batch

    assert from_text("a: &x {labeled: 1}\nb: *x", Two) == Two(Batch(1), Batch(1))
    assert mistakes("a: &x {labeled: y}\nb: *x", Two) == [
        "run.yaml:1: a.labeled: expected an integer, found 'y'",
        "run.yaml:1: b.labeled: expected an integer, found 'y'",
    ]


def test_keys_are_words():
    @dataclass
    class One:
        x: dict[str, int]

    assert mistakes("x:\n  ? [a]\n  : 1\n  ~: 2", One) == [
        "run.yaml:2: x: a key must be a word, found a list",
        "run.yaml:4: x.~: expected text, found ~",
    ]


def test_unsupported_types_are_our_mistake():
    for hint in (complex, int | str, Section):
        with pytest.raises(AssertionError):
            one(hint, "{name: 1}" if hint is Section else "1")


# Files


def test_load_reads_a_file_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + RUN.encode())
    assert load(path, Run) == load(str(path), Run) == from_text(RUN, Run)


def test_files_that_cannot_be_opened(tmp_path):
    write(tmp_path, run=RUN)
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1 # caf\xe9\n")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for name, message in {
        "rum.yaml": "no such file; did you mean 'run.yaml'?",
        "nowhere/run.yaml": "no such file",
        "": "this is a folder; give a YAML file",
        "latin.yaml": "not UTF-8 text (byte 13 is 0xe9)",
        "run.yaml/x.yaml": "cannot be read: Not a directory",
        "loop.yaml": "cannot be read: ",
        "a\0b.yaml": "cannot be read: ",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(f"{tmp_path}/{name}", Run)
        start = f"{os.path.normpath(f'{tmp_path}/{name}')}: {message}"
        assert str(caught.value) == start or (message.endswith(": ") and str(caught.value).startswith(start))


def test_an_unreadable_file(tmp_path, monkeypatch):
    def refuse(path: Path) -> bytes:  # root may read everything, so no mode would do
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match="run.yaml: cannot be read: Permission denied$"):
        load(tmp_path / "run.yaml", Run)


# Includes


def test_includes_merge_and_the_file_itself_wins(tmp_path):
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", data="include: [more.yaml]\nbatch: {labeled: 1, unlabeled: 2}", more="seed: 5\n")
    write(tmp_path / "base", method="method: {name: fix, threshold: 0.5, views: 2}\nbatch:\n  unlabeled: 3")
    write(
        tmp_path, run="batch: {labeled: 9}\ninclude: [base/data.yaml, base/method.yaml]\nmethod: {views: 4}"
    )
    expected = Run(Batch(9, 3), Section("fix", FixConfig(0.5, 4)), 5)
    assert load(tmp_path / "run.yaml", Run) == expected
    write(tmp_path, outer="include: run.yaml\nseed: 6")
    assert load(tmp_path / "outer.yaml", Run).seed == 6


def test_a_new_name_drops_the_settings_inherited_for_the_old_one(tmp_path):
    write(tmp_path, base=RUN + "  threshold: 0.1\n  views: 3\n")
    write(
        tmp_path,
        duo="include: base.yaml\nmethod: {name: duo}",
        fix="include: base.yaml\nmethod: {name: fix, views: 4}",
    )
    assert load(tmp_path / "duo.yaml", Run).method == Section("duo", DuoConfig(threshold=0.9))
    assert load(tmp_path / "fix.yaml", Run).method == Section("fix", FixConfig(threshold=0.1, views=4))


def test_the_name_of_a_plain_dataclass_drops_nothing(tmp_path):
    @dataclass
    class Encoder:
        name: str
        stride: int = 16

    @dataclass
    class Model:
        encoder: Encoder

    write(tmp_path, base="encoder: {name: a, stride: 8}", run="include: base.yaml\nencoder: {name: b}")
    assert load(tmp_path / "run.yaml", Model).encoder == Encoder("b", 8)


def test_lists_are_replaced_and_mappings_of_any_keys_merge(tmp_path):
    @dataclass
    class Data:
        sizes: list[int]
        names: dict[int, str]
        extra: dict[str, int] | None = None

    write(tmp_path, base="sizes: [1, 2]\nnames: {0: a, 1: b}\nextra: {x: 1}")
    write(tmp_path, run="include: base.yaml\nsizes: [3]\nnames: {1: c}\nextra: ~")
    assert load(tmp_path / "run.yaml", Data) == Data([3], {0: "a", 1: "c"}, None)


def test_mistakes_name_the_file_that_they_are_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", a="seed: x\nbatch:\n  lebeled: 3\nmethod: {name: fix, views: y}\n")
    write(tmp_path, run="include: base/a.yaml\nmethod:\n  views: 1.5\n")
    with pytest.raises(ConfigError) as caught:
        load("run.yaml", Run)
    assert str(caught.value).splitlines() == [
        "base/a.yaml:1: seed: expected an integer, found 'x'",
        "base/a.yaml:2: batch.labeled: required, but not given",
        "base/a.yaml:3: batch.lebeled: unknown key; did you mean 'labeled' or 'unlabeled'?",
        "run.yaml:3: method.views: expected an integer, found '1.5'",
    ]


def test_a_file_may_be_reached_twice_but_not_from_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        a="include: [b.yaml, c.yaml]\n" + RUN,
        b="include: d.yaml",
        c="include: ./d.yaml",
        d="seed: 3",
    )
    assert load("a.yaml", Run).seed == 3
    write(tmp_path, d="include: a.yaml")
    with pytest.raises(ConfigError) as caught:
        load("a.yaml", Run)
    assert str(caught.value).splitlines() == [
        "d.yaml:1: include: a.yaml: files include each other: a.yaml -> b.yaml -> d.yaml -> a.yaml",
        "d.yaml:1: include: a.yaml: files include each other: a.yaml -> c.yaml -> d.yaml -> a.yaml",
    ]


def test_bad_includes_are_all_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        a="include:\n- other/none.toml\n- bad.yaml\n- {x: 1}\n- empty.yaml\n- .\n",
        bad="x: [",
        empty="",
    )
    with pytest.raises(ConfigError) as caught:
        load("a.yaml", Run)
    found = str(caught.value).splitlines()
    assert found[:3] == [
        "a.yaml:2: include: other/none.toml: no such file",
        "a.yaml:4: include: expected a file name or a list of them, found a mapping",
        "a.yaml:6: include: .: this is a folder; give a YAML file",
    ]
    assert found[3].startswith("bad.yaml:") and "not valid YAML" in found[3]
    assert found[4] == "empty.yaml: expected 'key: value' lines, found nothing; the file is empty"
    assert len(found) == 5
    for text in ("include:\n", "include: ~\n", "include: ''\n"):
        write(tmp_path, a=text)
        with pytest.raises(
            ConfigError, match="^a.yaml:1: include: expected a file name or a list of them, found "
        ):
            load("a.yaml", Run)


# Overrides


def test_overrides_win_and_take_any_yaml_value():
    run = from_text(
        RUN, Run, ["seed=3", "batch.unlabeled=5", "method={name: duo, partner: shuffled}", "seed=4"]
    )
    assert run == Run(Batch(4, 5), Section("duo", DuoConfig(0.9, "shuffled")), 4)
    assert one(list[int], "[1, 2]", ("x=[3]",)) == [3]
    assert one(str, "a", ("x=1_16",)) == "1_16"
    assert one(str, "a", ("x=b=c",)) == "b=c"
    assert one(int | None, "3", ("x=",)) is None
    assert one(int | None, "3", ("x=~",)) is None
    assert one(dict[str, int] | None, "~", ("x.a=1", "x.b=2")) == {"a": 1, "b": 2}
    assert one(dict[str, int], "{a: 1, b: 1}", ("x={b: 2}",)) == {"a": 1, "b": 2}
    assert from_text("batch: {labeled: 4}", Run, ["method.name=fix"]).method.name == "fix"


@pytest.mark.parametrize("order", [1, -1])
def test_an_overridden_name_drops_settings_of_files_but_of_no_override(order):
    run = from_text(RUN + "  threshold: 0.1\n", Run, ["method.name=duo", "method.partner=shuffled"][::order])
    assert run.method == Section("duo", DuoConfig(0.9, "shuffled"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch.labeled=four", "batch.labeled: expected an integer, found 'four'"),
        ("batch.labeled=0", "batch: labeled must be at least 1, found 0"),
        ("batch.lebeled=4", "batch.lebeled: unknown key; did you mean 'labeled' or 'unlabeled'?"),
        ("sed=4", "sed: unknown key; did you mean 'seed'?"),
        ("seed.x=4", "seed: expected an integer, found a mapping"),
        ("batch=4", "batch: expected a mapping ('key: value' lines), found '4'"),
        ("batch={labeled: 1, labeled: 2}", "labeled: this key is given twice; first in line 1"),
        ("method.name=fox", "method.name: unknown method 'fox'; did you mean 'fix'?"),
        ("seed", "write it as a.b=value"),
        ("=4", "write it as a.b=value"),
        ("batch..labeled=4", "write it as a.b=value"),
        ("", "write it as a.b=value"),
        ("seed=[1", "not valid YAML: "),
        ("seed=*x", "not valid YAML: "),
        ("seed=!!str 3", "tags such as !!str are not supported"),
        ("include=x.yaml", "include: unknown key; choose from: batch, method, seed"),
    ],
)
def test_mistakes_in_overrides_name_the_override(override, message):
    (found,) = mistakes(RUN, Run, (override,))
    assert found.startswith(f"--set {override}: {message}")


def test_what_a_section_lacks_is_a_mistake_of_its_file_not_of_an_override():
    assert mistakes("method: {name: fix}\nbatch:\n  unlabeled: 3", Run, ("batch.unlabeled=4",)) == [
        "run.yaml:2: batch.labeled: required, but not given"
    ]
    assert mistakes("method: {name: fix}", Run, ("batch.unlabeled=4",)) == [
        "--set batch.unlabeled=4: batch.labeled: required, but not given"
    ]


# Dumps


def test_a_dump_reads_back_equal():
    @dataclass
    class Everything:
        a: int
        b: float
        c: str
        d: bool
        e: Path
        f: Literal["off", "on"]
        g: str | None
        h: tuple[float, ...]
        i: dict[int, str]
        j: list[Batch]
        k: Section = field(metadata={"registry": METHODS})
        m: dict[str, Batch] = field(default_factory=dict)
        n: Literal[8, 16] = 8

    value = Everything(
        3, 5e-6, "1_16", True, Path("a b/c"), "off", None, (1.0, float("inf"), 1e22, 0.1 + 0.2),
        {0: "sky", -1: "null"}, [Batch(1), Batch(2, 3)], Section("duo", DuoConfig(0.25, "shuffled")),
        {"on": Batch(4)}, 16,
    )  # fmt: skip
    text = dump(value)
    assert text.isascii()
    assert from_text(text, Everything) == value
    assert dump(from_text(text, Everything)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "~", "true", "on", "1", "1_16", "5e-6", ".inf", "12:30:45", "---", "...",
        "2024-01-02",
        "a: b", "# no comment", "a #b", "- a", "'", '"', "{a}", "[a]", "*a", "&a", "!a", "<<", "=",
        "%", "@", "`", "two\nlines", "trailing\n", "\n", "\ttab",
        "caf\u00e9", "\U0001f600", "\x07", "\x85", "\u2028",
        "a" * 300, "word " * 60,
    ],
)  # fmt: skip
def test_any_text_survives_a_dump(text):
    @dataclass
    class One:
        x: str
        y: str | None
        z: list[str]
        w: dict[str, str]

    value = One(text, text, [text, text], {text: text})
    assert from_text(dump(value), One) == value


def test_a_dump_is_pleasant_to_read():
    run = Run(Batch(4), Section("fix", FixConfig()), 1)
    assert dump(run) == (
        "batch:\n  labeled: 4\n  unlabeled: 8\nmethod:\n  name: fix\n  threshold: 0.95\n  views: 1\nseed: 1\n"
    )

    @dataclass
    class Scale:
        scale: tuple[float, float] = (0.5, 2.0)

    assert re.fullmatch(r"scale: \[0\.5, 2\.0\]\n", dump(Scale()))
