"""The configuration of one training run. Values only: `engine.build` turns them into objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from unimatch.config import Section
from unimatch.engine.optim import OptimizerConfig
from unimatch.engine.schedule import ScheduleConfig
from unimatch.methods import METHODS
from unimatch.models.segmentor import ModelConfig
from unimatch.shardset.cache import GIGABYTE, Cache, default_folder
from unimatch.shardset.remote import holds_credentials
from unimatch.tasks import TASKS


def _at_least(value: float | None, low: float, name: str) -> None:
    if value is not None and value < low:
        raise ValueError(f"{name} must be at least {low:g}, found {value:g}")


@dataclass
class CacheConfig:
    """Where shards behind a URL are kept on each node; its processes and runs share it."""

    folder: Path | None = None  # none: $UNIMATCH_CACHE, or unimatch in the user's cache folder
    size_gb: float = 100.0  # the least recently used shards are removed above it

    def __post_init__(self) -> None:
        if not self.size_gb > 0:
            raise ValueError(f"size_gb must be above 0, found {self.size_gb:g}")

    def opened(self) -> Cache:
        """The cache itself."""
        return Cache(self.folder or default_folder(), int(self.size_gb * GIGABYTE))


@dataclass
class UnlabeledSet:
    """One of several sets of unlabelled samples."""

    samples: str  # subset name, several joined by +, or text file with one key a line
    shards: str | None = None  # of another shard set: its folder or URL; none: data.shards
    # Of each batch's unlabelled samples it has weight / (sum of all weights). None, for all sets alike: each
    # has as many as it has samples, so that every image comes about once an epoch.
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.shards is not None:
            _check_place(self.shards)
        if self.weight is not None and not 0 < self.weight < inf:
            raise ValueError(
                f"weight must be above 0, found {self.weight:g}: leave out a set that is not to be used"
            )


def _check_place(shards: str, name: str = "shards") -> None:
    if not shards or shards.startswith("~"):
        raise ValueError(f"{name} must be a path with the home folder written in full, or a URL")
    if holds_credentials(shards):
        raise ValueError(
            f"{name} must not hold a user or password, since the run folder keeps it: put them into "
            "~/.netrc or the settings of fsspec"
        )


@dataclass
class DataConfig:
    """Where samples come from. A set of samples is named by a subset of the shards, by several (train+extra),
    or by a key-list file."""

    shards: str  # folder that `unimatch pack` wrote, or its URL: https://, s3://, gs://, hf:// ...
    # Instead of `labeled` and `unlabeled`: a published split such as pascal/92 (`unimatch where` lists them),
    # or a file with the keys of the labelled samples. The rest of its subset, else of `train`, is unlabelled.
    split: str | None = None
    labeled: str | None = None  # subset name, or text file with one key a line
    # The same; its masks, if it has any, are never read. Or a list of sets, also of other shards: see
    # UnlabeledSet. Then an epoch is as many unlabelled samples as all sets have together.
    unlabeled: str | list[UnlabeledSet] | None = None
    # Label sets (folders or URLs that `unimatch predict --labels` writes): their samples, which are images of
    # `shards`, are learnt from too, with these labels. The labelled ones are repeated to be no fewer. With
    # any value here, also [], a method has no stages of its own.
    pseudo: str | list[str] | None = None
    val: str | None = None  # what training evaluates on; none: no evaluation
    # Data workers per training process; 0 loads in the training process. None: one for each core that is left
    # to it beside the training itself, 1 to 16.
    workers: int | None = None
    # Threads of the training process take less CPU time in all, but slow the launches of a GPU's kernels.
    worker_kind: Literal["processes", "threads"] = "processes"
    prefetch: int = 2  # steps that each worker prepares ahead
    timeout_s: float = 300.0  # a step's data may take this long before it is an error
    skip_ceiling: int = 0  # unreadable samples a process may replace before it is an error
    cache: CacheConfig = field(default_factory=CacheConfig)
    # Memory of each node for decoded labelled samples, which its processes share; 0: decode them every time.
    decoded_mb: int = 1000

    def __post_init__(self) -> None:
        _check_place(self.shards)
        if (self.split is None) == (self.labeled is None):
            raise ValueError("labeled or split must be given, one of the two: which samples are labelled")
        if self.split is not None and self.unlabeled is not None:
            raise ValueError(
                "unlabeled must be left out beside split, which leaves the rest unlabelled; for another list "
                "give labeled and unlabeled"
            )
        if isinstance(self.unlabeled, list):
            _check_weights(self.unlabeled)
        for place in self.label_sets:
            _check_place(place, "pseudo")
        _at_least(self.workers, 0, "workers")
        _at_least(self.prefetch, 1, "prefetch")
        _at_least(self.timeout_s, 1, "timeout_s")
        _at_least(self.skip_ceiling, 0, "skip_ceiling")
        _at_least(self.decoded_mb, 0, "decoded_mb")

    @property
    def label_sets(self) -> list[str]:
        """The places of `pseudo`."""
        return [self.pseudo] if isinstance(self.pseudo, str) else self.pseudo or []


def _check_weights(sets: list[UnlabeledSet]) -> None:
    if not sets:
        raise ValueError("unlabeled is an empty list: name a set, or leave it out")
    without = [one.samples for one in sets if one.weight is None]
    if 0 < len(without) < len(sets):
        raise ValueError(
            f"unlabeled: {without[0]!r} has no weight, but another set has one; give all sets a weight, or "
            "none, which takes each as often as it has samples"
        )


@dataclass
class BatchConfig:
    """Global batch sizes: samples in one optimiser step over all processes."""

    labeled: int
    unlabeled: int | None = None  # required by methods that use unlabelled samples, unused by the others
    max_per_device: int | None = (
        None  # most samples (labelled + unlabelled) in one pass; more are accumulated
    )

    def __post_init__(self) -> None:
        _at_least(self.labeled, 1, "labeled")
        _at_least(self.unlabeled, 1, "unlabeled")
        _at_least(self.max_per_device, 1, "max_per_device")


@dataclass
class LogConfig:
    """How often a run tells about itself, in steps."""

    every_steps: int = 10
    # Pictures for the trackers, of the first and last step too; 0: none. None: every 500 steps, and in a run
    # of fewer than 2000 at its quarters.
    pictures_every_steps: int | None = None
    timing: bool = False  # also log the seconds of forward, backward and update; waits for the device
    # Beside metrics.jsonl: figures, pictures and settings for people, see docs/trackers.md.
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = field(
        default_factory=lambda: ["tensorboard"]
    )
    project: str = "unimatch"  # of the run in services: W&B's and Trackio's project, MLflow's experiment

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.trackers if self.trackers.count(name) > 1})
        if repeated:
            raise ValueError(f"trackers names {', '.join(repeated)} more than once")
        _at_least(self.every_steps, 1, "every_steps")
        _at_least(self.pictures_every_steps, 0, "pictures_every_steps")


@dataclass
class EvaluationConfig:
    """When training evaluates. The last step is always evaluated."""

    every_steps: int = 1000
    batch: int = 4  # images of equal size evaluated together; does not change a result
    workers: int = 2
    # Unlabelled samples with masks, spread over the list, on which it is measured how good pseudo-labels are.
    # The masks are used for nothing else. 0: none.
    pseudo_labels: int = 0

    def __post_init__(self) -> None:
        _at_least(self.every_steps, 1, "every_steps")
        _at_least(self.batch, 1, "batch")
        _at_least(self.workers, 0, "workers")
        _at_least(self.pseudo_labels, 0, "pseudo_labels")


@dataclass
class CheckpointConfig:
    """When training saves. The last step and a SIGTERM or SIGINT always save."""

    every_steps: int = 1000
    keep: int = 2  # newest checkpoints kept; older ones are removed
    snapshots: int = 0  # also saves at 1/n, 2/n ... of the steps, and keeps these
    background: bool = True  # training goes on while it is written; needs memory for a copy of the state

    def __post_init__(self) -> None:
        _at_least(self.every_steps, 1, "every_steps")
        _at_least(self.keep, 1, "keep")
        _at_least(self.snapshots, 0, "snapshots")


@dataclass
class RunConfig:
    """Everything that decides a run's result, and how it is watched and saved."""

    out: Path  # run folder: config, metrics, TensorBoard, checkpoints
    data: DataConfig
    batch: BatchConfig
    model: ModelConfig
    method: Section = field(metadata={"registry": METHODS})
    task: Section = field(metadata={"registry": TASKS})
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    sync_batchnorm: Literal["off", "global"] = "global"  # global: statistics over all processes' samples
    # rank: each process divides by its own pixels (the reference), of each micro-batch if batches accumulate.
    loss_normalization: Literal["global", "rank"] = "global"
    activation_checkpointing: bool = False  # the encoder's blocks keep inputs only: less memory, slower
    # torch.compile's backend for the encoder, of a vision transformer block by block, and for the head.
    # inductor: minutes at the start, then faster; eager compiles nothing and is for finding faults.
    compile: Literal["off", "inductor", "eager"] = "off"
    log: LogConfig = field(default_factory=LogConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


# Settings that may differ when a run is resumed, because they do not change what it computes.
FREE_ON_RESUME = (
    "out",
    "log",
    "evaluation",
    "checkpoint",
    "data.shards",
    "data.unlabeled[].shards",
    "data.pseudo",  # where they lie; what they hold is compared by its hash
    "data.val",
    "data.workers",
    "data.worker_kind",
    "data.prefetch",
    "data.timeout_s",
    "data.cache",
    "data.decoded_mb",
    "batch.max_per_device",
    "activation_checkpointing",
    "compile",
)
