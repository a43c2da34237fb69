"""What every kind of sample shares: which views are made of it, by which keys, and what is pasted into which.

Every random number of a view comes from its own key, derived from the sample's key, so a view depends on
nothing but that key: not on the worker, on the number of views, or on what was drawn before it. Drawing and
applying are separate functions, so that the law of each parameter and the pixels can be tested apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from unimatch import keyed
from unimatch.codecs.part import Part, Rect, around, as_part
from unimatch.keyed import Draws
from unimatch.views.box import draw_box
from unimatch.views.box_laws import draw_boxes
from unimatch.views.colors import COLOR_ROW
from unimatch.views.masks import spans

# What a sample's key is extended with, one stream of numbers each.
GEOMETRY, COLOR, BOX, PARTNER, AREA = range(5)
Arrays = dict[str, np.ndarray]
Role = Literal["labeled", "unlabeled", "partner"]


@dataclass(frozen=True)
class Extra:
    """What views have beyond the task's settings.

    ops: the list of operations that strong views are made by, see op_lists; None: by the task's colours.
    boxes: the law of the CutMix boxes, see box_laws; None: the task's box.
    areas, labeled_areas: a name and a law each of further rectangles of an unlabelled, a labelled sample.
    strong_labeled: whether a labelled sample has a strong view too.
    """

    ops: str | None = None
    boxes: str | None = None
    areas: tuple[tuple[str, str], ...] = ()
    labeled_areas: tuple[tuple[str, str], ...] = ()
    strong_labeled: bool = False


class Placement(Protocol):
    """Where the pixels of a crop come from."""

    @property
    def content(self) -> Rect: ...

    def source(self, width: int, height: int) -> Rect: ...

    def label(self, label: np.ndarray) -> np.ndarray: ...


class Views:
    """Makes a sample's views from its decoded image and its key. Picklable; holds no state.

    What is drawn and done is a subclass's affair; `config` has at least `crop` and `box`. `partner` says what
    is pasted into the boxes: "same" another crop of the same image, "shuffled" a crop of another image,
    "batch" or None nothing that this class has to make. `on_device`: the strong views are left to the device,
    which gets their colours as numbers; for subclasses with `color_row`.
    """

    def __init__(
        self,
        config: Any,
        num_strong: int,
        partner: str | None,
        on_device: bool = False,
        extra: Extra | None = None,
    ) -> None:
        assert num_strong >= 0 and partner in ("same", "shuffled", "batch", None), (num_strong, partner)
        self.config = config
        self.num_strong = num_strong
        self.partner = partner
        self.on_device = on_device
        self.extra = extra or Extra()

    def region(self, width: int, height: int, key: int, role: Role) -> Rect:
        """The pixels that are read of an image of this size: as a labelled sample, as an unlabelled one, or
        as the partner of the unlabelled one with this key.
        """
        if role == "partner":
            return self._placed(width, height, keyed.key(key, PARTNER)).source(width, height)
        own = self._placed(width, height, key).source(width, height)
        if role == "unlabeled" and self.partner == "same":
            return around(own, self.region(width, height, key, "partner"))
        return own

    def labeled(
        self, image: Part | np.ndarray, label: np.ndarray, key: int, out: Arrays | None = None
    ) -> Arrays:
        """image [..., S, S, C] as decoded, written to the array of `out` with this name, and label uint8
        [S, S]; with `extra.strong_labeled` also one strong view, and `extra.labeled_areas`, as `unlabeled`
        gives them.
        """
        part, out = as_part(image), out or {}
        placement = self._placed(part.width, part.height, key)
        weak = self.warped(part, placement, out.get("image"))
        views = {"image": weak, "label": placement.label(label)}
        views |= self._areas(key, self.extra.labeled_areas)
        return views | self._strong(weak, key, [True], out, "") if self.extra.strong_labeled else views

    def unlabeled(
        self,
        image: Part | np.ndarray,
        key: int,
        partner_image: Part | np.ndarray | None = None,
        out: Arrays | None = None,
    ) -> Arrays:
        """weak [..., S, S, C] as decoded, strong [V, ..., S, S, C], rectangles content int32 [4], boxes int32
        [V, 4]; with `extra.boxes` [V, n, 4], n to a view; area_NAME int32 [n, 4] for each of `extra.areas`.

        With a partner of its own also partner_weak, partner_strong and partner_content. Where a box is empty
        nobody sees the partner's strong view, and its weak one stands there. With `on_device`, in place of
        each "strong" stands "colors" float64 [V, ..., COLOR_ROW], with `extra.ops` "ops" float64 [V, ...,
        OP_ROW]. Images are written to the arrays of `out`
        that have these names. "spans" bool [R, 2, S] says again which columns and rows the rectangles cover.
        """
        draws = [Draws(keyed.key(key, BOX, v)) for v in range(self.num_strong)]
        law, crop = self.extra.boxes, self.config.crop
        drawn = [draw_boxes(d, law, crop) if law else draw_box(d, self.config.box, crop) for d in draws]
        out = out or {}
        views = self._views(as_part(image), key, [True] * self.num_strong, out, "")
        boxes = np.array(drawn, np.int32).reshape(self.num_strong, *((-1, 4) if law and drawn else (4,)))
        views["boxes"] = boxes
        views |= self._areas(key, self.extra.areas)
        if self.partner in ("same", "shuffled"):
            source = image if self.partner == "same" else partner_image
            assert source is not None, "the loader gives a partner image where the plan has shuffled partners"
            seen = [bool(box.any()) for box in boxes]
            views |= self._views(as_part(source), keyed.key(key, PARTNER), seen, out, "partner_")
        return {**views, "spans": spans(views, crop)}

    def placement(self, width: int, height: int, draws: Draws) -> Placement:
        """Draws the geometry that all views of an image of this size share."""
        raise NotImplementedError

    def warped(self, image: Part, placement: Any, out: np.ndarray | None) -> np.ndarray:
        """The crop of an image as decoded, written to `out` if it is given."""
        raise NotImplementedError

    def colored(self, weak: np.ndarray, key: int, out: np.ndarray) -> None:
        """Writes a strong view of a weak one to `out`; `key` says what is done to the colours."""
        raise NotImplementedError

    def color_row(self, key: int, wanted: bool) -> np.ndarray:
        """float64 [..., COLOR_ROW], with `extra.ops` [..., OP_ROW]: what `colored` does, as numbers; of no
        change unless it is `wanted`.
        """
        raise NotImplementedError

    def _areas(self, key: int, areas: tuple[tuple[str, str], ...]) -> Arrays:
        """int32 [n, 4] of each name."""
        draws = [Draws(keyed.key(key, AREA, number)) for number in range(len(areas))]
        return {
            f"area_{name}": np.array(draw_boxes(one, law, self.config.crop), np.int32)
            for one, (name, law) in zip(draws, areas, strict=True)
        }

    def _placed(self, width: int, height: int, key: int) -> Placement:
        return self.placement(width, height, Draws(keyed.key(key, GEOMETRY)))

    def _views(self, image: Part, key: int, wanted: list[bool], out: Arrays, prefix: str) -> Arrays:
        """One weak view and, for each of `wanted`, a strong one or its colours, all of one geometry."""
        placement = self._placed(image.width, image.height, key)
        weak = self.warped(image, placement, out.get(f"{prefix}weak"))
        views = {f"{prefix}weak": weak, f"{prefix}content": np.array(placement.content, np.int32)}
        return views | self._strong(weak, key, wanted, out, prefix)

    def _strong(self, weak: np.ndarray, key: int, wanted: list[bool], out: Arrays, prefix: str) -> Arrays:
        colors = [keyed.key(key, COLOR, v) for v in range(len(wanted))]
        if self.on_device:
            rows = [self.color_row(*pair) for pair in zip(colors, wanted, strict=True)]
            name = f"{prefix}ops" if self.extra.ops else f"{prefix}colors"
            return {name: np.stack(rows) if rows else np.empty((0, COLOR_ROW))}
        strong = out.get(f"{prefix}strong")
        if strong is None:
            strong = np.empty((len(wanted), *weak.shape), weak.dtype)
        for v, want in enumerate(wanted):
            if want:
                self.colored(weak, colors[v], strong[v])
            else:
                strong[v] = weak
        return {f"{prefix}strong": strong}
