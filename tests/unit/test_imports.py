"""Imports point one way; these tests read the source, so a wrong import fails without being run."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "unimatch"
# Leaves know each other and no room; one that is a package is a leaf as a whole.
LEAVES = {"cores", "errors", "durable", "shipped", "taxonomy", "keyed", "config", "registry"}
LEAVES |= {"losses", "metrics", "mixing"}
# What a room may import beside itself and the leaves, from below upwards. Entry points, the other top-level
# files, may all.
MAY_IMPORT = {
    "codecs": set(),
    "shardset": {"codecs"},
    "views": {"codecs"},
    "annotations": {"codecs"},
    "packing": {"codecs", "shardset", "annotations"},
    "inspection": {"codecs", "shardset", "annotations", "packing"},
    "data": {"codecs", "shardset", "views"},
    "models": set(),
    "methods": {"data.sample"},
    "tasks": {"codecs", "shardset.archive", "views", "data"},
    "engine": {"codecs", "shardset", "views", "packing", "data", "models", "methods", "tasks"},
    "predicting": {"codecs", "annotations", "packing", "tasks", "shardset", "data", "engine"},
    "curation": {"codecs", "shardset", "inspection", "models", "predicting"},
    "exporting": {"codecs", "packing", "models", "tasks", "shardset", "data", "engine", "predicting"},
    "sharing": {"models.weights", "shardset.remote", "engine"},
    "pages": set(),
    "reports": {"codecs", "data", "packing", "engine", "tasks", "pages"},
    "scaling": {"codecs.bands", "shardset.archive", "data", "models", "methods", "tasks", "engine"},
    "experiments": {
        *("codecs", "shardset.key_list", "shardset.index", "packing", "data.load", "methods", "engine"),
        *("scaling", "pages"),
    },
    "benchmarks": {
        *("codecs", "shardset", "views", "packing", "data", "models", "methods", "tasks", "engine"),
        "scaling",
    },
}
PARTS = set(MAY_IMPORT)
INTERFACE = "interface"  # what `import unimatch` offers; above all rooms, as entry points are
# Only these files may import these packages.
OWNERS = {
    "timm": {
        "models.encoders",
        "models.same_padding",
        "models.vit",
        "models.vit_weights",
        "models.weights",
        "engine.batchnorm",
    },
    "accelerate": {"engine.runtime", "engine.replicas", "engine.zero", "engine.launcher", "engine.trackers"},
    "deepspeed": {"engine.zero", "engine.zero_private"},
}
# No other part knows of processes and devices.
NO_RANKS = {"torch.distributed"}


@cache
def modules(root: Path) -> dict[str, Path]:
    """Path of each module of the package by its dotted name below the package."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(root: Path, module: str, path: Path) -> set[str]:
    """Dotted names that a module imports; `from a import b` gives `a.b` if that is our module, else `a`."""
    own = modules(root)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = [PACKAGE, *module.split(".")] if module else [PACKAGE]
                up = node.level - (path.name == "__init__.py")
                base = ".".join([*package[: len(package) - up], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                inner = full.removeprefix(f"{PACKAGE}.") in own
                found.add(full if inner or full in NO_RANKS else base)
    return found


def within(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def wrong_imports(root: Path) -> list[str]:
    """Each import that the rules forbid, as `module imports name`."""
    found = []
    for module, path in modules(root).items():
        part = module.split(".")[0]
        for name in sorted(imports(root, module, path)):
            top, _, inner = name.partition(".")
            if top == PACKAGE and inner:
                target = inner.split(".")[0]
                if part in PARTS:
                    good = target in LEAVES or target == part or within(inner, MAY_IMPORT[part])
                else:
                    good = target in LEAVES or (part not in LEAVES and (bool(module) or target == INTERFACE))
            elif top in {"tests", "tools", "conftest", "shards", "launch"}:
                good = False
            elif within(name, NO_RANKS):
                good = part not in {"methods", "models"}
            else:
                good = module in OWNERS.get(top, {module})
            if not good:
                found.append(f"{module or PACKAGE} imports {name}")
    return found


def test_imports_point_one_way():
    assert wrong_imports(ROOT) == []


def test_every_top_level_module_is_a_leaf_a_part_or_an_entry_point():
    for module, path in modules(ROOT).items():
        top = module.split(".")[0]
        if module and top not in LEAVES | PARTS | {INTERFACE}:
            assert "." not in module and '__name__ == "__main__"' in path.read_text(), module


def test_the_rules_name_modules_that_exist():
    names = set(modules(ROOT))
    assert names >= LEAVES | PARTS
    assert names >= {owner for owners in OWNERS.values() for owner in owners}


@pytest.mark.parametrize(
    ("module", "line", "caught"),
    [
        ("data.plan", "from unimatch.engine import runtime", "unimatch.engine.runtime"),
        ("data.plan", "import unimatch.methods.ops", "unimatch.methods.ops"),
        ("data.plan", "from ..methods import ops", "unimatch.methods.ops"),
        ("data.plan", "from . import loader", None),
        ("data.plan", "from unimatch.packing import recipe", "unimatch.packing.recipe"),
        ("codecs.decode", "from unimatch.shardset import index", "unimatch.shardset.index"),
        ("codecs.decode", "from unimatch.packing.recipe import Recipe", "unimatch.packing.recipe"),
        ("shardset.index", "from unimatch.codecs import decode", None),
        ("shardset.index", "from unimatch.data import training", "unimatch.data.training"),
        ("views.natural", "from unimatch.shardset import index", "unimatch.shardset.index"),
        ("views.natural", "from unimatch.tasks.base import Task", "unimatch.tasks.base"),
        ("packing.recipe", "from unimatch.shardset import index", None),
        ("packing.recipe", "from unimatch.views import natural", "unimatch.views.natural"),
        ("methods.fixmatch", "from unimatch.data import training", "unimatch.data.training"),
        ("methods.fixmatch", "from unimatch.data import sample", None),
        ("methods.fixmatch", "from unimatch.data.sample import Batch", None),
        ("methods.fixmatch", "import torch.distributed as dist", "torch.distributed"),
        ("methods.fixmatch", "from torch import distributed", "torch.distributed"),
        ("methods.fixmatch", "from unimatch.tasks import TASKS", "unimatch.tasks"),
        ("tasks.natural", "from unimatch.methods import METHODS", "unimatch.methods"),
        ("tasks.natural", "from unimatch.data import training", None),
        ("models.heads", "import timm", "timm"),
        ("models.encoders", "import timm.data", None),
        ("engine.trainer", "def f():\n    from accelerate import Accelerator", "accelerate"),
        ("engine.trainer", "import deepspeed", "deepspeed"),
        ("engine.zero", "import deepspeed", None),
        ("engine.trainer", "from tests.conftest import real_data", "tests.conftest"),
        ("keyed", "from unimatch import taxonomy", None),
        ("keyed", "from unimatch.data import sample", "unimatch.data.sample"),
        ("config.tree", "from unimatch.config import nodes", None),
        ("config.tree", "from . import nodes", None),
        ("config.tree", "from unimatch.data import sample", "unimatch.data.sample"),
        ("train", "from unimatch.engine import trainer", None),
        ("engine.trainer", "from unimatch.interface import load", "unimatch.interface"),
        ("keyed", "from unimatch.interface import load", "unimatch.interface"),
        ("interface", "from unimatch.train import main", None),
    ],
)
def test_a_wrong_import_would_be_caught(tmp_path, module, line, caught):
    data, methods = ("data.plan", "data.training", "data.sample"), ("methods.ops", "methods.fixmatch")
    below = ("codecs.decode", "shardset.index", "views.natural", "packing.recipe")
    others = (
        "train",
        "interface",
        "config.tree",
        "models.encoders",
        "tasks.base",
        "tasks.natural",
        "engine.trainer",
        "engine.runtime",
    )
    for name in (*LEAVES, *below, *data, *methods, *others):
        path = tmp_path / PACKAGE / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for folder in ("", *PARTS, "models/heads"):
        (tmp_path / PACKAGE / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / PACKAGE / folder / "__init__.py").write_text("")
    target = tmp_path / PACKAGE / module.replace(".", "/")
    (target / "__init__.py" if target.is_dir() else target.with_suffix(".py")).write_text(line)
    assert wrong_imports(tmp_path) == ([f"{module} imports {caught}"] if caught else [])


def test_rooms_have_no_circle():
    done: set[str] = set()
    for part, below in MAY_IMPORT.items():
        assert {name.split(".")[0] for name in below} <= done, part
        done.add(part)


def test_who_calls_opencv_has_set_its_threads():
    """The room of codecs does it, once; a module that calls OpenCV must import it, directly or not."""
    own = modules(ROOT)
    inner = {
        module: {name.removeprefix(f"{PACKAGE}.") for name in imports(ROOT, module, path)}
        for module, path in own.items()
    }
    for module, names in inner.items():
        if "cv2" in names and "cv2.setNumThreads(1)" not in own[module].read_text():
            reached, todo = set(), [module]
            while todo:
                one = todo.pop()
                if one in own and one not in reached:
                    reached.add(one)
                    todo += inner[one]
            assert any(name.split(".")[0] == "codecs" for name in reached), module


def source_files() -> list[Path]:
    folders = ("unimatch", "tests", "tools", "configs", "launch", "shards", "docs", ".ci")
    suffixes = {".py", ".sh", ".yaml", ".json", ".md", ".cfg", ".toml", ".sbatch"}
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return [*found, *(path for path in ROOT.iterdir() if path.suffix in suffixes)]


def test_no_file_is_named_utils():
    assert [path for path in source_files() if re.search(r"utils?\b", path.stem)] == []


def test_sources_are_ascii():
    assert [str(path) for path in source_files() if not path.read_bytes().isascii()] == []
