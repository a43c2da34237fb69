"""Which class a label of an annotation file means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from unimatch.errors import ConfigError, summary
from unimatch.registry import nearest
from unimatch.taxonomy import IGNORE_INDEX

IGNORE = "ignore"  # in `names`: such shapes are "not labelled"
OTHERS = "*"  # in `names`: every label that is neither a class nor named


@dataclass
class Segments:
    """How shapes, and COCO's segments, become classes. A label belongs to the class of the same name."""

    # The class of pixels and categories that are none of the others, such as background. COCO's categories
    # that are no class belong to it, or, without it, are ignored; unknown labels of other tools are refused.
    other: str | None = None
    # Pixels of no segment. "other" for instances, whose files say nothing about what is not a thing.
    unannotated: Literal["ignore", "other"] = "ignore"
    crowd: Literal["class", "ignore", "other"] = "class"  # regions of many things, drawn as one
    # Label in the files -> class, or "ignore" = not labelled; "*" stands for all labels that are not known.
    names: dict[str, str] = field(default_factory=dict)
    # Label Studio's images with several annotations, none of them marked as ground truth.
    several: Literal["refuse", "latest"] = "refuse"
    # Pixels that the masks of several classes have, of label_kind class_masks; "later": the class that comes
    # later in `classes` lies on top.
    overlap: Literal["refuse", "later"] = "refuse"

    def __post_init__(self) -> None:
        for name in ("unannotated", "crowd"):
            if getattr(self, name) == "other" and self.other is None:
                raise ConfigError(f"{name} is 'other', but `other` names no class")

    def check(self, classes: Sequence[str]) -> None:
        """ConfigError: a name that is no class."""
        if self.other not in (None, *classes):
            raise ConfigError(f"segments: other names {self.other!r}, which is no class")
        for label, name in self.names.items():
            if name not in (*classes, IGNORE):
                told = nearest(name, [*classes, IGNORE])
                raise ConfigError(f"segments: names: {label!r} becomes {name!r}, which is no class; {told}")

    def targets(self, classes: Sequence[str]) -> dict[str, int]:
        """The class id, or IGNORE_INDEX, of each known label; that of OTHERS is the one of all others."""
        ids = {name: place for place, name in enumerate(classes)}
        return {**ids, **{label: ids.get(name, IGNORE_INDEX) for label, name in self.names.items()}}


@dataclass(frozen=True)
class LabelClasses:
    """The class id of each label, for workers."""

    pairs: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, segments: Segments, classes: Sequence[str]) -> LabelClasses:
        return cls(tuple(segments.targets(classes).items()))

    def ids(self, labels: Iterable[str]) -> tuple[list[int | None], list[str]]:
        """The class id of each label, None for one that is not known, and a sentence for each such one."""
        targets = dict(self.pairs)
        others = targets.pop(OTHERS, None)
        listed = list(labels)
        found = [targets.get(label, others) for label in listed]
        unknown = Counter(label for label, target in zip(listed, found, strict=True) if target is None)
        known = list(targets)
        told = []
        for label, count in unknown.items():
            like = nearest(label, known)
            hint = like if like.startswith("did you mean") else f"the classes are {summary(known, 8)}"
            shapes = f"{count} shape{'s' if count > 1 else ''}"
            told.append(
                f"unknown label {label!r} ({shapes}); {hint}; or say in `segments` what it is: "
                f"names: {{{label!r}: CLASS}}, or {IGNORE} for 'not labelled'"
            )
        return found, told
