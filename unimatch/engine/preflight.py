"""Before data and model are built: are all processes here, alike, and able to see the data?

Clusters fail in ways that training shows late or never: one host with an older checkout, another split file,
a run folder that is not shared. Each process reports what it is; what must be equal and is not becomes one
error.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

import unimatch
from unimatch import config as config_io
from unimatch.engine import checkpoint
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import RunData, open_data
from unimatch.engine.run_folder import code_commit, flat, sources, version, within
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError, of_system

PACKAGES = ("torch", "accelerate", "deepspeed")
UNKNOWN = "unknown"  # agrees with everything
# May differ between hosts: where the same shards lie, and how they are read.
PER_HOST = (
    "data.shards",
    "data.unlabeled[].shards",
    "data.pseudo",
    "data.cache",
    "data.workers",
    "data.worker_kind",
    "data.prefetch",
    "data.timeout_s",
    "data.decoded_mb",
)
REDUCED_BYTES = 2**20


@dataclass(frozen=True)
class Report:
    """One process, as all others see it."""

    host: str
    device: str
    same: dict[str, str]  # what must be equal on all processes
    data: dict[str, str]  # the same, of the data; empty where there is a problem
    problem: str | None  # why this process cannot use the data
    overruled: Sequence[str]  # what of its environment is not used


def preflight(config: RunConfig, runtime: Runtime, resume: bool) -> tuple[RunData, str]:
    """The run's data, opened, and what it starts on, a line a host. Call on all processes.

    Raises:
        UserError: on all processes, with ranks and values: they differ in software, settings, data or
            checkpoint, or cannot see the data. On rank 0: which ranks did not come in time.
    """
    data, own = _report(config, runtime, resume)
    runtime.await_all()
    reports = runtime.gather(own)
    problems = mismatches([report.same for report in reports])
    blind = _grouped(report.problem for report in reports)
    if not blind:
        problems += mismatches([report.data for report in reports])
    if any(report.same["settings"] != reports[0].same["settings"] for report in reports):
        problems = [line for line in problems if not line.startswith("settings:")]
        problems += mismatches(runtime.gather(_settings(config)))
    if problems:
        hosts = "; ".join(f"{host}: {ranks(numbers)}" for host, numbers in _hosts(reports).items())
        raise UserError(
            "the processes of this run differ, but all must be alike:\n  "
            + "\n  ".join([*problems, f"({hosts})"])
        )
    if blind:
        raise UserError(
            "\n".join(
                text if len(who) == runtime.world else f"{ranks(who)}: {text}" for text, who in blind.items()
            )
        )
    assert data is not None, "a process without data has a problem"
    lines = [f"{host}: {ranks(who)} on {reports[who[0]].device}" for host, who in _hosts(reports).items()]
    software = ", ".join(f"{name} {own.same[name]}" for name in ("python", *PACKAGES, "unimatch", "commit"))
    lines.append(f"{software}; settings {own.same['settings']}")
    if runtime.world > 1:
        lines.append(
            f"all-reduce of {REDUCED_BYTES / 2**20:g} MiB over {runtime.world} processes: "
            f"{1000 * runtime.all_reduce_s(REDUCED_BYTES):.2g} ms"
        )
    lines += _overruled(reports)
    return data, "preflight\n" + "\n".join(f"  {line}" for line in lines)


def mismatches(values: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each name whose values differ between the ranks: which rank has which value."""
    lines = []
    for name in dict.fromkeys(name for one in values for name in one):
        found = _grouped(one.get(name, "not set") for one in values)
        found.pop(UNKNOWN, None)
        if len(found) > 1:
            told = "; ".join(f"{value} on {ranks(who)}" for value, who in found.items())
            lines.append(f"{name}: {told}")
    return lines


def ranks(numbers: Sequence[int]) -> str:
    """Increasing numbers as text: `rank 3`, `ranks 0-7, 12`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
    return f"rank{'s' if len(numbers) > 1 else ''} {text}"


def _grouped(values: Iterable[str | None]) -> dict[str, list[int]]:
    """Ranks by value, without those that have none."""
    found: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        if value is not None:
            found.setdefault(value, []).append(rank)
    return found


def _overruled(reports: Sequence[Report]) -> list[str]:
    lines = dict.fromkeys(line for report in reports for line in report.overruled)
    who = {line: [rank for rank, one in enumerate(reports) if line in one.overruled] for line in lines}
    return [line + ("" if len(on) == len(reports) else f" ({ranks(on)})") for line, on in who.items()]


def _hosts(reports: Sequence[Report]) -> dict[str, list[int]]:
    return _grouped(report.host for report in reports)


def _report(config: RunConfig, runtime: Runtime, resume: bool) -> tuple[RunData | None, Report]:
    problem = None
    data: RunData | None = None
    try:
        data = open_data(config)
    except UserError as error:
        problem = str(error)
    except OSError as error:
        problem = of_system(error)
    last = checkpoint.last_checkpoint(config.out) if resume else None
    same = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in PACKAGES},
        "unimatch": unimatch.__version__,
        "commit": code_commit() or UNKNOWN,
        "sources": sources(),
        "settings": _hash("\n".join(f"{k}={v}" for k, v in sorted(_settings(config).items()))),
        "--timeout": f"{runtime.timeout_s:g}",
        "--resume from": last.name if last else "the start",
    }
    # Launchers number the hosts, which may share a name.
    host = f"host {platform.node()} (node {os.environ.get('GROUP_RANK', '0')})"
    hashes = {} if data is None else _hashes(data)
    return data, Report(host, device_name(runtime.device), same, hashes, problem, runtime.overruled)


def _settings(config: RunConfig) -> dict[str, str]:
    """What must be equal of the configuration."""
    settings = flat(config_io.plain(config))
    return {name: str(value) for name, value in settings.items() if not within(name, PER_HOST)}


def _hashes(data: RunData) -> dict[str, str]:
    """Of the shards (places, bytes and classes of all samples) and of the samples that each list names."""
    opened = {"shards": data.shards} | {
        f"shards of data.{name}": one.shards
        for name, one in data.selections.items()
        if one.shards is not data.shards
    }
    sets = {}
    for name, one in opened.items():
        parts = [one.info["index"]["sha256"], one.taxonomy.hash]
        sets[name] = _hash("\n".join([*parts, *(shard["sha256"] for shard in one.info["shards"])]))
    lists = {f"data.{name} (hash of its keys)": one.hash for name, one in data.selections.items()}
    return {**sets, **lists}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({os.cpu_count()} cores)"
