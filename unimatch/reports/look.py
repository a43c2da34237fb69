"""What a report finds out by itself: from the networks of the runs and the samples that they were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unimatch.engine.checkpoint import check_shards
from unimatch.engine.restore import Restored, restore
from unimatch.engine.run_data import RunData, open_data, open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection, select
from unimatch.errors import UserError
from unimatch.reports import fed
from unimatch.reports.measured import Measured, extremes, measure
from unimatch.reports.runs import RunFiles
from unimatch.reports.samples import pictured
from unimatch.taxonomy import Taxonomy

NO_CHECKPOINT = "There is no checkpoint yet: confusion, calibration and pictures come with the first one."


@dataclass(frozen=True)
class Wanted:
    """What a report is asked for."""

    images: int = 12  # shown: half of them the worst, half the best
    samples: int = 500  # measured at most; 0: no network is asked
    data: str | None = None  # subset or key list; None: the run's data.val
    shards: str | None = None  # None: where the run had them
    batch: int = 4
    workers: int = 0


@dataclass
class Look:
    """What was found, or why it was not, by the names of the runs."""

    taxonomy: Taxonomy | None = None
    background: int | None = None
    on: str | None = None  # the samples that were measured
    measured: dict[str, Measured] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # why a run was not measured
    samples: list[dict[str, Any]] = field(default_factory=list)
    fed: dict[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """For JSON."""
        names = [] if self.taxonomy is None else self.taxonomy.names
        colors = [] if self.taxonomy is None else self.taxonomy.colors
        return {
            "names": list(names),
            "colors": [f"#{bytes(color).hex()}" for color in colors],
            "background": self.background,
            "on": self.on,
            "measured": {name: one.described() for name, one in self.measured.items()},
            "missing": self.missing,
            "samples": self.samples,
            "fed": self.fed,
        }


def look(runs: Sequence[RunFiles], wanted: Wanted, runtime: Runtime) -> Look:
    """Asks the newest network of each run. What cannot be had is a reason in `missing`, and no error: the
    rest of the page does not need it. UserError: samples or shards that were asked for by name.
    """
    found, nets = Look(), {}
    if wanted.shards is not None:
        open_shards(wanted.shards, runs[0].config.data.cache)
    if runs[0].state is not None:
        found.taxonomy = Taxonomy.from_json(runs[0].state.taxonomy)
    for run in runs:
        try:
            nets[run.name] = _network(run, runtime)
        except UserError as error:
            found.missing[run.name] = str(error)
    if nets:
        found.background = next(iter(nets.values())).task.background
    _measure(found, runs[0], nets, wanted, runtime)
    _fed(found, runs[0], nets.get(runs[0].name), wanted, runtime)
    return found


def _network(run: RunFiles, runtime: Runtime) -> Restored:
    if run.state is None:
        raise UserError(NO_CHECKPOINT)
    return restore(run.folder, "last", None, runtime)


def _measure(
    found: Look, first: RunFiles, nets: dict[str, Restored], wanted: Wanted, runtime: Runtime
) -> None:
    """All networks on the samples of the first run, and those where the first network is worst and best."""
    try:
        selection = _selection(first, wanted)
        for name, net in nets.items():
            check_shards(net.state, selection.shards, net.folder)
            found.measured[name] = measure(
                net, selection, runtime, wanted.samples, wanted.batch, wanted.workers
            )
    except UserError as error:
        if wanted.samples and (wanted.data or wanted.shards):
            raise
        found.missing |= {name: str(error) for name in nets if name not in found.measured}
        return
    found.on = selection.name
    if first.name in found.measured:
        worst, best = extremes(found.measured[first.name].scores, wanted.images)
        found.samples = pictured(worst, best, selection, nets, runtime)


def _selection(first: RunFiles, wanted: Wanted) -> Selection:
    data = first.config.data
    if not wanted.samples:
        raise UserError("Nothing was measured, as --samples 0 asked for.")
    name = wanted.data or data.val
    if name is None:
        raise UserError("The run was trained without data.val: give --data to name samples to look at.")
    return select(open_shards(wanted.shards or data.shards, data.cache), name)


def _fed(found: Look, first: RunFiles, net: Restored | None, wanted: Wanted, runtime: Runtime) -> None:
    place = wanted.shards or first.config.data.shards
    config = replace(first.config, data=replace(first.config.data, shards=place))
    try:
        data: RunData = open_data(config)
        found.fed = fed.lists(data)
        if found.taxonomy is None:
            found.taxonomy = data.shards.taxonomy
    except UserError as error:
        found.fed = {"missing": str(error)}
        return
    found.fed["views"] = {"missing": NO_CHECKPOINT} if net is None else fed.views(net, data, runtime)
