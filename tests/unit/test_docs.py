"""What README and docs name is there: files, modules, settings, options and the places that links lead to."""

from __future__ import annotations

import configparser
import dataclasses
import importlib
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unimatch import shipped
from unimatch.engine.run_config import RunConfig
from unimatch.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "shards" / "FORMAT.md"]
FOLDERS = "configs|docs|launch|shards|tests|tools|unimatch"  # of the repository
# A file of ours: of a kind that only we have, or below one of our folders. A * stands for any of them.
SOURCE = re.compile(r"(?<![\w/.$<{*~-])((?:[\w*-]+/)*[\w*-]+\.(?:py|sh|sbatch))\b")
BELOW = re.compile(rf"(?<![\w/.:$<{{~-])((?:{FOLDERS})/[\w./*-]*[\w*/])(?![\w<{{$])")
MODULE = re.compile(r"(?<![\w./-])unimatch(?:\.[A-Za-z_]\w*)+")
SETTING = re.compile(r"(?<![\w./'\"-])([a-z]\w*(?:\.[a-z]\w*)+)\b(?![/.\w(*])")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Options of the launchers and other programs that pages call.
FOREIGN = {
    *("--config_file", "--num_processes", "--num_machines", "--main_process_ip", "--machine_rank"),
    *("--rdzv_backend", "--rdzv_id", "--max_restarts", "--nodes", "--logdir", "--help"),
}
OUTPUTS = {".json", ".jsonl", ".md", ".png", ".pt", ".safetensors", ".tar", ".txt", ".yaml"}


def code(page: Path) -> str:
    """The page's code: blocks, and what stands between backticks."""
    text = page.read_text()
    blocks = re.findall(r"```.*?\n(.*?)```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])


def there(name: str) -> bool:
    """Whether a file has this name, which may leave out the folders above it, or is that of a shipped one."""
    name = name.rstrip("/")
    if shipped.find(name):
        return True
    if name.split("/")[0] in FOLDERS.split("|"):
        return any(ROOT.glob(name))
    folders = [ROOT / folder for folder in FOLDERS.split("|")]
    return any(path for folder in folders for path in folder.rglob(name))


def settings(schema: type[Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a configuration, of every choice where there is one."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield prefix + field.name
        inner = f"{prefix}{field.name}."
        registry = field.metadata.get("registry")
        if isinstance(registry, Registry):
            yield inner + "name"
            for name in registry.names():
                yield from settings(registry[name].config, inner)
        for hint in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(hint) and isinstance(hint, type) and not registry:
                yield from settings(hint, inner)


KNOWN = set(settings(RunConfig))
OPTIONS = set(
    re.findall(
        r'"(--[\w-]+)"',
        "".join(
            path.read_text()
            for pattern in ("unimatch/**/*.py", "tools/**/*.py", "tests/parity/**/*.py", "tests/conftest.py")
            for path in ROOT.glob(pattern)
        ),
    )
)


def wrong(page: Path) -> Iterator[str]:
    """What the page names and nothing has."""
    text = code(page).replace("NAME.py", "").replace("unimatch.NAME", "")  # stands for the name of a command
    for pattern in (SOURCE, BELOW):
        for name in sorted(set(pattern.findall(text))):
            if not there(name):
                yield f"no file {name}"
    for name in sorted(set(MODULE.findall(text))):
        if not imported(name):
            yield f"no module or name {name}"
    tops = {field.name for field in dataclasses.fields(RunConfig)}
    for name in sorted(set(SETTING.findall(text))):
        if name.split(".")[0] in tops and name not in KNOWN and Path(name).suffix not in OUTPUTS:
            yield f"no setting {name}"
    for option in sorted(set(OPTION.findall(text)) - OPTIONS - FOREIGN):
        yield f"no option {option}"
    for target in sorted(set(LINK.findall(page.read_text()))):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+://", target):
            continue
        linked = page.parent / path if path else page
        if not linked.exists():
            yield f"no page {path}"
        elif anchor and anchor not in anchors(linked):
            yield f"no heading {target}"


def imported(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, rest = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return bool(module) and imported(module) and hasattr(importlib.import_module(module), rest)
    return True


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    explicit = re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text())
    return {*plain, *explicit}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path):
    assert list(wrong(page)) == []


def test_the_check_finds_each_kind_of_mistake(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "`views/nothing.py`, `configs/none/*.yaml`, `unimatch.nothing.at_all`, `unimatch.errors.nothing`,\n"
        "`data.nothing`, `method.thresholds: 0.5`, [a page](none.md), [a place](#nothing)\n"
        "```bash\npython -m unimatch.train --nothing\n```\n"
        "fine: `engine/trainer.py`, `data.workers`, `method.threshold`, `--resume`, `model.safetensors`,\n"
        "`unimatch.errors.UserError`, [here](page.md#a-heading-of-two)\n\n# A heading, of two\n"
    )
    assert list(wrong(page)) == [
        "no file views/nothing.py",
        "no file configs/none/*.yaml",
        "no module or name unimatch.errors.nothing",
        "no module or name unimatch.nothing.at_all",
        "no setting data.nothing",
        "no setting method.thresholds",
        "no option --nothing",
        "no heading #nothing",
        "no page none.md",
    ]


def test_every_extra_has_a_line_that_says_what_it_adds() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = set(settings["options.extras_require"]) - {"dev"}
    page = (ROOT / "docs" / "install.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|.*\| \d+ \| \d+ \|$", page, re.MULTILINE)
    assert sorted(listed) == sorted(extras)


def test_what_pip_is_asked_for_is_the_oldest_that_was_tried() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    asked = dict(re.findall(r"^(\w+)>=([\d.]+)", settings["options"]["install_requires"], re.MULTILINE))
    asked["python"] = settings["options"]["python_requires"].removeprefix(">=")
    page = (ROOT / "docs" / "install.md").read_text()
    oldest = dict(re.findall(r"^\| (\w+) \| (\d[\d.]+) \|", page.partition("## Versions")[2], re.MULTILINE))
    oldest = {name.lower(): version for name, version in oldest.items()}
    assert asked.keys() == oldest.keys() - {"numpy"}
    for name, version in asked.items():
        assert f"{oldest[name]}.".startswith(f"{version}."), name
