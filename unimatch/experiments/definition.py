"""An experiment: a table's runs as one configuration and the axes along which they differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from unimatch import config as config_io
from unimatch import shipped
from unimatch.engine.run_config import RunConfig
from unimatch.errors import ConfigError
from unimatch.registry import nearest

KIND, RECIPES = "configs", "recipes"  # of shipped files
FOLDER = f"{KIND}/experiments"
WORD = re.compile(r"[\w.]+")  # names of values become names of folders
GIVEN = ("out", "seed")  # settings of a run that the experiment gives
SEED = "{seed}"  # in a setting of an axis: the run's seed, say in the path of a split


def is_given(change: str) -> bool:
    """Whether KEY=VALUE is a setting that the experiment gives."""
    return change.partition("=")[0].strip() in GIVEN


@dataclass
class Published:
    """Figures of a paper, by the value of the axis `across`; null where it has none."""

    figures: dict[str, float | None]
    source: str
    at: dict[str, str] = field(default_factory=dict)  # values of the other axes
    name: str | None = None  # of a method that is none of the runs


@dataclass
class ExperimentConfig:
    """What a table of runs is made of."""

    about: str  # one line
    base: str  # the configuration that each run starts from: a file beside this one, or a shipped one's name
    out: Path  # holds the run folders
    axes: dict[str, dict[str, list[str]]]  # of each axis: its values, each some settings KEY=VALUE
    across: str  # the axis over which published figures are listed
    # Of the data, which names the classes where no shards are yet, found like the base. None: there are some.
    recipe: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    # Combinations that are left out: of each axis the values; a run is, if all of its values are among them.
    skip: list[dict[str, list[str]]] = field(default_factory=list)
    # A value of the axis `across`, which all others are compared with: see experiments.board.
    baseline: str | None = None
    budget: str | None = None  # the axis whose values differ in the length of a run alone
    labels: str | None = None  # the axis whose values are how many images, or cases, are labelled
    published: list[Published] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        words = [*self.axes, *(value for values in self.axes.values() for value in values)]
        wrong = [word for word in words if not WORD.fullmatch(word)]
        if wrong or "seed" in self.axes:
            raise ValueError(f"axes: names hold letters, digits, '_' and '.', found {[*wrong, 'seed'][0]!r}")
        given = [
            text
            for values in self.axes.values()
            for changes in values.values()
            for text in changes
            if is_given(text)
        ]
        if given:
            raise ValueError(
                f"axes: {given[0]}: the experiment itself gives {' and '.join(GIVEN)} to its runs"
            )
        if not self.axes:
            raise ValueError("axes: at least one is needed")
        if self.across not in self.axes:
            raise ValueError(f"across must be one of the axes {', '.join(self.axes)}, found {self.across!r}")
        if self.baseline is not None and self.baseline not in self.axes[self.across]:
            raise ValueError(f"baseline: {self.baseline!r} is no value of the axis {self.across}")
        if self.budget is not None and (self.baseline is None or self.budget == self.across):
            raise ValueError("budget: needs a baseline, and is another axis than `across`")
        for name, axis in (("budget", self.budget), ("labels", self.labels)):
            if axis not in (None, *self.axes):
                raise ValueError(f"{name}: {axis!r} is no axis")
        wrong = [value for value in self.axes.get(self.labels or "", {}) if not value.isdigit()]
        if wrong:
            raise ValueError(f"labels: the values of {self.labels} must be numbers, found {wrong[0]!r}")
        for some in self.skip:
            for axis, values in some.items():
                unknown = set(values) - set(self.axes.get(axis, {}))
                if axis not in self.axes or unknown:
                    raise ValueError(f"skip: {axis} {sorted(unknown)}: no axis and values of it")
        empty = [axis for axis, values in self.axes.items() if not values]
        if empty:
            raise ValueError(f"axes: {empty[0]} has no values")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be at least one number, each once, found {self.seeds}")
        for one in self.published:
            self._check(one)

    def skips(self, values: Mapping[str, str]) -> bool:
        """Whether the runs of these values of the axes are left out."""
        return any(all(values[axis] in some for axis, some in one.items()) for one in self.skip)

    def _check(self, one: Published) -> None:
        for axis, value in [*one.at.items(), *((self.across, value) for value in one.figures)]:
            if value not in self.axes.get(axis, {}):
                raise ValueError(f"published: {one.source}: {axis} {value!r} is no value of an axis")
        missing = set(self.axes) - {self.across} - set(one.at)
        if one.name is None and missing:
            raise ValueError(f"published: {one.source}: `at` must also say {', '.join(sorted(missing))}")


@dataclass(frozen=True)
class Run:
    """One run of an experiment."""

    number: int  # from 1
    values: dict[str, str]  # of each axis
    changes: list[str]  # the settings of these values
    config: RunConfig

    @property
    def name(self) -> str:
        return self.config.out.name


@dataclass(frozen=True)
class Experiment:
    """An experiment file and the runs that it stands for: all of one seed before those of the next."""

    name: str
    config: ExperimentConfig
    base: Path
    recipe: Path | None
    runs: list[Run]

    def chosen(self, only: str | None) -> list[Run]:
        """The runs of numbers such as 3 or 1-4,9; all without them. ConfigError: there is no such run."""
        if only is None:
            return self.runs
        numbers: set[int] = set()
        for part in only.split(","):
            found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
            ends = [int(number) for number in found.groups() if number] if found else []
            if not ends or not 1 <= ends[0] <= ends[-1] <= len(self.runs):
                raise ConfigError(
                    f"--only {only}: expected numbers from 1 to {len(self.runs)} such as 3 or 1-4,9; "
                    "`unimatch experiment list` shows them"
                )
            numbers.update(range(ends[0], ends[-1] + 1))
        return [run for run in self.runs if run.number in numbers]

    def where(self, runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
        """Those of some runs that meet all of AXIS=VALUE[,VALUE]. ConfigError: no such axis or value."""
        for text in conditions:
            axis, _, values = text.partition("=")
            known, wanted = self.config.axes.get(axis, {}), values.split(",")
            if not set(wanted) <= set(known):
                axes = "; ".join(f"{name}={','.join(values)}" for name, values in self.config.axes.items())
                raise ConfigError(f"--where {text}: expected AXIS=VALUE[,VALUE] of {axes}")
            runs = [run for run in runs if run.values[axis] in wanted]
        return list(runs)


def load_experiment(file: str, overrides: Sequence[str] = (), out: Path | None = None) -> Experiment:
    """The experiment of a file, or of a shipped one's name. `overrides` go to every run, `out` holds them.

    ConfigError: a mistake in the file, or in the settings of a run, which is named.
    """
    path = shipped.found(file, FOLDER)
    if not path.is_file():
        known = [
            name.removeprefix("experiments/") for name in shipped.of_kind(KIND) if "experiments/" in name
        ]
        raise ConfigError(f"{file}: no such file, nor an experiment of unimatch; {nearest(file, known)}")
    config = config_io.load(path, ExperimentConfig)
    given = [text for text in overrides if is_given(text)]
    if given:
        raise ConfigError(
            f"--set {given[0]}: the experiment gives {' and '.join(GIVEN)}; the folder is --out"
        )
    base = shipped.found(config.base, KIND, path.parent)
    recipe = None if config.recipe is None else shipped.found(config.recipe, RECIPES, path.parent)
    if config.recipe is not None and recipe is not None and not recipe.is_file():
        told = nearest(config.recipe, shipped.of_kind(RECIPES))
        raise ConfigError(f"{path}: recipe {config.recipe}: no such file, nor a recipe of unimatch; {told}")
    place = out or config.out
    settings_of = config_io.opened(base, RunConfig)
    runs: list[Run] = []
    for seed in config.seeds:
        for values in product(*config.axes.values()):
            mine = dict(zip(config.axes, values, strict=True))
            if config.skips(mine):
                continue
            written = [text for axis, value in mine.items() for text in config.axes[axis][value]]
            changes = [text.replace(SEED, str(seed)) for text in written]
            folder = place / "-".join([*values, f"seed{seed}"])
            own = [f"out={folder}", f"seed={seed}"]
            try:
                settings = settings_of([*changes, *overrides, *own])
            except ConfigError as error:
                raise ConfigError(f"{path}: run {len(runs) + 1} ({folder.name}): {error}") from None
            runs.append(Run(len(runs) + 1, mine, changes, settings))
    return Experiment(path.stem, config, base, recipe, runs)
