"""Procedural street scenes with exact labels, made in seconds from a seed: for the demo and the tests.

What makes it hard with few labels: class colours overlap (a house, a car, a sign and a coat may all be red;
the sky may have the colour of the road), every scene has a light of its own, from a purple dusk to washed-out
noon, objects hide each other and differ in size. Shape, texture and place give the class, and a dozen scenes
show only a fraction of the looks.

Numbers come from `keyed` by (seed, subset, index), so a scene does not depend on how many others are made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unimatch import keyed
from unimatch.codecs.encode import jpeg
from unimatch.errors import ConfigError
from unimatch.packing.pack import Outcome, Packed, labeled_sample, write_set
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy

TAXONOMY = Taxonomy(
    names=("sky", "building", "road", "ground", "tree", "vehicle", "person", "sign"),
    colors=(
        (120, 170, 230),
        (150, 90, 70),
        (110, 110, 120),
        (200, 180, 110),
        (60, 150, 60),
        (230, 60, 60),
        (250, 200, 40),
        (190, 70, 200),
    ),
)
SKY, BUILDING, ROAD, GROUND, TREE, VEHICLE, PERSON, SIGN = range(TAXONOMY.num_classes)
SUBSETS = ("train", "val")
SUPERSAMPLE = 2  # drawn at twice the size: the image is averaged down, the label takes one of the four pixels
MIN_SIZE = 32
LOWEST_QUALITY = 80  # of the JPEGs, whose qualities differ
SHARD_BYTES = 1 << 20  # small: a set of a few megabytes should still show how several shards behave

# Paints (RGB, 0..255) that several classes share: this is what takes colour away as a cue.
PAINTS = np.array(
    [
        (60, 110, 50), (110, 130, 60), (150, 80, 40), (190, 120, 50), (110, 90, 70), (180, 170, 150),
        (120, 120, 125), (70, 75, 85), (200, 200, 205), (120, 150, 190), (80, 110, 160), (170, 60, 50),
        (220, 190, 90), (235, 235, 240), (45, 45, 50), (160, 110, 120),
    ],
    np.float32,
)  # fmt: skip
COMMON = tuple(range(len(PAINTS)))
USUAL = {
    SKY: (8, 8, 9, 9, 10, 13),
    BUILDING: (2, 4, 5, 8, 11, 15),
    ROAD: (6, 6, 7, 7, 14),
    GROUND: (1, 1, 3, 5, 12),
    TREE: (0, 0, 0, 1),
    VEHICLE: (10, 10, 11, 11, 13, 14),
    PERSON: (10, 11, 12, 14, 15),
    SIGN: (11, 12, 12, 13),
}


class Canvas:
    """An image and its label, painted back to front; coordinates are in supersampled pixels (x, y)."""

    def __init__(self, height: int, width: int, key: int) -> None:
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.label = np.full((height, width), SKY, np.uint8)
        cells = (2, 5, 12, 40)  # pixels a cell of value noise
        fields = [value_noise(keyed.key(key, cell), height, width, cell) for cell in cells]
        self.noise = np.stack(fields)  # [4, H, W], fine to coarse

    def paint(
        self,
        points: np.ndarray,
        class_id: int,
        color: np.ndarray,
        texture: tuple[float, ...] = (),
        haze: tuple[float, np.ndarray] | None = None,
    ) -> None:
        """Fills a polygon [N, 2]; brightness varies by `texture` times noise, finest grain first."""
        corners = np.round(points).astype(np.int32)
        x0, y0 = np.maximum(corners.min(axis=0), 0)
        x1, y1 = np.minimum(corners.max(axis=0) + 1, (self.width, self.height))
        if x0 >= x1 or y0 >= y1:
            return
        inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(inside, [corners - (x0, y0)], 1)
        mask = inside.astype(bool)
        area = np.s_[y0:y1, x0:x1]
        values: np.ndarray = np.broadcast_to(np.asarray(color, np.float32), (int(mask.sum()), 3))
        if any(texture):
            # A plain sum rather than a matrix product: BLAS adds in an order of its own.
            grain = sum(
                amount * field[area][mask] for amount, field in zip(texture, self.noise, strict=False)
            )
            values = values * (1 + np.asarray(grain)[:, None])
        if haze is not None and haze[0] > 0:
            values = values * (1 - haze[0]) + haze[1] * haze[0]
        self.image[area][mask] = values
        self.label[area][mask] = class_id


def value_noise(key: int, height: int, width: int, cell: int) -> np.ndarray:
    """float32 [height, width] in about [-1, 1]: smooth noise with grains of `cell` pixels."""
    rows, columns = height // cell + 2, width // cell + 2
    lattice = (keyed.uniform(key, rows * columns) * 2 - 1).astype(np.float32).reshape(rows, columns)
    return cv2.resize(lattice, (columns * cell, rows * cell), interpolation=cv2.INTER_CUBIC)[:height, :width]


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def gray(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, wobble: np.ndarray | None = None) -> np.ndarray:
    """A closed curve of 24 points; `wobble` [24] scales each radius."""
    angle = np.arange(24) * (2 * np.pi / 24)
    radius = 1.0 if wobble is None else wobble
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], axis=1)


Part = Callable[..., None]  # (points, color, texture=()): paints a part of one object


class Scene:
    """One scene: the draws, the camera and the light that its objects share."""

    def __init__(self, key: int, height: int, width: int) -> None:
        self.draws = keyed.Draws(key)
        self.key = key
        self.canvas = Canvas(height, width, keyed.key(key, 1))
        self.height, self.width = height, width
        draws = self.draws
        self.horizon = height * draws.uniform(0.3, 0.6)
        self.sky_color = self.color(SKY)
        self.haze = draws.uniform(0.2, 0.6) if draws.bool(0.25) else 0.0
        self.shapes = 0

    def color(self, class_id: int) -> np.ndarray:
        """float32 [3]: one of the class's usual paints, now and then any other, shifted a little."""
        paints = USUAL[class_id] if self.draws.bool(0.95) else COMMON
        base = PAINTS[paints[self.draws.integer(0, len(paints))]]
        shift = [self.draws.uniform(-16, 16) for _ in range(3)]
        return np.clip(base * self.draws.uniform(0.75, 1.2) + shift, 8, 250).astype(np.float32)

    def hazed(self, depth: float) -> tuple[float, np.ndarray]:
        """Haze at a depth in [0, 1], where 1 is the horizon."""
        return self.haze * depth, self.sky_color

    def wobble(self, amount: float) -> np.ndarray:
        """float64 [24]: radii around 1, smoothed so that a crown looks grown rather than broken."""
        self.shapes += 1
        raw = 1 + amount * (keyed.uniform(keyed.key(self.key, 2, self.shapes), 24) * 2 - 1)
        return (np.roll(raw, 1) + raw + np.roll(raw, -1)) / 3

    def texture(self, *limits: float) -> tuple[float, ...]:
        return tuple(self.draws.uniform(0, limit) for limit in limits)

    # Background

    def sky(self) -> None:
        draws, canvas = self.draws, self.canvas
        other = self.color(SKY)
        ramp = np.linspace(0, 1, self.height, dtype=np.float32)[:, None, None]
        canvas.image[:] = self.sky_color * ramp + (0.6 * self.sky_color + 0.4 * other) * (1 - ramp)
        clouds = canvas.noise[3] * 0.6 + canvas.noise[2] * 0.3
        canvas.image += (clouds * draws.uniform(0, 45))[..., None]

    def ground(self) -> None:
        whole = box(0, self.horizon, self.width, self.height)
        self.canvas.paint(whole, GROUND, self.color(GROUND), self.texture(0.35, 0.3, 0.25, 0.3))
        for _ in range(self.draws.integer(0, 4)):  # patches of another soil
            x, y = self.draws.uniform(0, self.width), self.draws.uniform(self.horizon, self.height)
            reach = (y - self.horizon + 4) * self.draws.uniform(0.4, 1.5)
            patch = ellipse(x, y, reach, reach * 0.2, self.wobble(0.5))
            patch[:, 1] = np.maximum(patch[:, 1], self.horizon)
            self.canvas.paint(patch, GROUND, self.color(GROUND), self.texture(0.3, 0.3, 0.2, 0.2))

    def road(self) -> None:
        """A road to a vanishing point, sometimes with lane marks and shadows; some scenes have none."""
        draws = self.draws
        if draws.bool(0.12):
            return
        top_x, top_w = draws.uniform(0.15, 0.85) * self.width, draws.uniform(0.01, 0.05) * self.width
        low_x, low_w = draws.uniform(0.1, 0.9) * self.width, draws.uniform(0.2, 0.6) * self.width

        def across(side: float, t: float) -> tuple[float, float]:
            """The point at `side` in [-1, 1] of the road, t = 0 at the horizon and 1 at the lower edge."""
            middle, half = top_x + (low_x - top_x) * t, top_w + (low_w - top_w) * t
            return middle + side * half, self.horizon + (self.height - self.horizon) * t

        color = self.color(ROAD)
        edge = np.array([across(-1, 0), across(1, 0), across(1, 1), across(-1, 1)])
        self.canvas.paint(edge, ROAD, color, self.texture(0.15, 0.08, 0.06, 0.25))
        if draws.bool(0.7):
            paint, dash = color + draws.uniform(-60, 90), draws.uniform(0.04, 0.12)
            for side in ((0.0,), (-0.33, 0.33), (-0.9, 0.0, 0.9))[draws.integer(0, 3)]:
                for start in np.arange(0.05, 1, 2 * dash).tolist():
                    end = min(start + dash, 1)
                    mark = [across(side - 0.03, start), across(side + 0.03, start)]
                    mark += [across(side + 0.03, end), across(side - 0.03, end)]
                    self.canvas.paint(np.array(mark), ROAD, np.clip(paint, 0, 255))

    def buildings(self) -> None:
        """A skyline of houses that stand near the horizon, some with windows, some with gables."""
        draws = self.draws
        x = draws.uniform(-0.2, 0.5) * self.width
        stop = draws.uniform(0.5, 1.2) * self.width
        while x < stop:
            wide, tall = draws.uniform(0.1, 0.35) * self.width, draws.uniform(0.12, 0.75) * self.height
            foot = self.horizon + draws.uniform(0, 0.12) * self.height
            if draws.bool(0.75):
                self.house(x, foot - tall, x + wide, foot)
            x += wide * draws.uniform(0.7, 1.3)

    def house(self, x0: float, y0: float, x1: float, y1: float) -> None:
        draws = self.draws
        wall, haze = self.color(BUILDING), self.hazed(draws.uniform(0.3, 1))
        self.canvas.paint(box(x0, y0, x1, y1), BUILDING, wall, self.texture(0.15, 0.15, 0.1, 0.15), haze)
        if draws.bool(0.45):
            ridge = ((x0 + x1) / 2, y0 - draws.uniform(0.1, 0.4) * (x1 - x0))
            roof = np.array([(x0 - 2, y0), (x1 + 2, y0), ridge])
            self.canvas.paint(roof, BUILDING, self.color(BUILDING), self.texture(0.2, 0.1), haze)
        if draws.bool(0.85):
            glass = self.sky_color if draws.bool(0.3) else self.color(BUILDING)
            step_x, step_y = draws.uniform(7, 16), draws.uniform(8, 18)
            share_x, share_y = draws.uniform(0.35, 0.75), draws.uniform(0.35, 0.75)
            for y in np.arange(y0 + 4, y1 - step_y * share_y, step_y).tolist():
                for x in np.arange(x0 + 3, x1 - step_x * share_x, step_x).tolist():
                    pane = box(x, y, x + step_x * share_x, y + step_y * share_y)
                    self.canvas.paint(pane, BUILDING, glass * draws.uniform(0.7, 1.1), haze=haze)

    # Objects that stand on the ground. Their parts are given from their foot: x to the right, y upwards.

    def tree(self, x: float, foot: float, near: float) -> None:
        draws, part = self.draws, self.part(TREE, x, foot, near)
        tall = self.height * near * draws.uniform(0.4, 0.85)
        crown, grain = self.color(TREE), self.texture(0.9, 0.7, 0.4, 0.2)
        if draws.bool(0.8):  # with a trunk; otherwise a bush
            half = max(1.0, tall * draws.uniform(0.02, 0.06))
            part(box(-half, 0, half, tall * 0.6), self.color(TREE) * 0.6)
            middle, reach = tall * 0.68, tall * 0.32
        else:
            middle, reach = tall * 0.2, tall * 0.2
        if draws.bool(0.3):  # a conifer
            half = tall * draws.uniform(0.14, 0.3)
            part(np.array([(-half, middle - reach), (0, tall), (half, middle - reach)]), crown, grain)
            return
        for _ in range(draws.integer(1, 5)):
            dx, dy = draws.uniform(-0.5, 0.5) * reach, draws.uniform(-0.4, 0.4) * reach
            rx, ry = reach * draws.uniform(0.55, 1), reach * draws.uniform(0.5, 0.9)
            leaves = ellipse(dx, middle + dy, rx, ry, self.wobble(0.45))
            part(leaves, crown * draws.uniform(0.75, 1.2), grain)

    def vehicle(self, x: float, foot: float, near: float) -> None:
        make = (self.car_from_side, self.car_from_behind, self.bus)[self.draws.integer(0, 3)]
        make(self.part(VEHICLE, x, foot, near), self.height * near * self.draws.uniform(0.32, 0.5))

    def car_from_side(self, part: Part, tall: float) -> None:
        draws = self.draws
        paint, grain = self.color(VEHICLE), self.texture(0.08, 0.05, 0.05, 0.3)
        half = tall * draws.uniform(1.0, 1.4)
        scale = np.array((half if draws.bool(0.5) else -half, tall))
        part(box(-half, tall * 0.15, half, tall * 0.58), paint, grain)
        part(np.array([(-0.75, 0.56), (-0.45, 1), (0.3, 1), (0.6, 0.56)]) * scale, paint, grain)
        part(np.array([(-0.6, 0.6), (-0.4, 0.92), (0.24, 0.92), (0.45, 0.6)]) * scale, self.glass())
        self.wheels(part, half, tall * 0.19)

    def bus(self, part: Part, tall: float) -> None:
        draws = self.draws
        half, tall = tall * draws.uniform(0.9, 1.7), tall * 1.5
        glass = self.glass()
        part(box(-half, tall * 0.12, half, tall), self.color(VEHICLE), self.texture(0.08, 0.05, 0.05, 0.3))
        for left in np.linspace(-0.85, 0.6, draws.integer(2, 6)):
            part(box(left * half, tall * 0.52, (left + 0.22) * half, tall * 0.85), glass)
        self.wheels(part, half, tall * 0.14)

    def car_from_behind(self, part: Part, tall: float) -> None:
        draws = self.draws
        paint, grain = self.color(VEHICLE), self.texture(0.08, 0.05, 0.05, 0.3)
        half, rubber = tall * draws.uniform(0.5, 0.7), gray(draws.uniform(15, 60))
        lamp = np.array((200, 60, 50) if draws.bool(0.5) else (240, 235, 200), np.float32)
        scale = np.array((half, tall))
        for side in (-0.85, 0.85):
            part(box(side * half - tall * 0.09, 0, side * half + tall * 0.09, tall * 0.25), rubber)
        part(box(-half, tall * 0.12, half, tall * 0.62), paint, grain)
        part(np.array([(-0.9, 0.62), (-0.65, 1), (0.65, 1), (0.9, 0.62)]) * scale, paint * 0.9, grain)
        part(np.array([(-0.7, 0.66), (-0.55, 0.93), (0.55, 0.93), (0.7, 0.66)]) * scale, self.glass())
        for side in (-0.75, 0.75):
            part(ellipse(side * half, tall * 0.45, tall * 0.09, tall * 0.07), lamp)

    def wheels(self, part: Part, half: float, radius: float) -> None:
        rubber = gray(self.draws.uniform(15, 60))
        for hub in (-0.58 * half, 0.58 * half):
            part(ellipse(hub, radius, radius, radius), rubber)
            part(ellipse(hub, radius, radius * 0.45, radius * 0.45), rubber + 90)

    def glass(self) -> np.ndarray:
        return self.sky_color * self.draws.uniform(0.3, 0.9)

    def person(self, x: float, foot: float, near: float) -> None:
        draws, part = self.draws, self.part(PERSON, x, foot, near)
        tall = self.height * near * draws.uniform(0.55, 0.8)
        coat, trousers = self.color(PERSON), self.color(PERSON)
        skin = np.array((225, 180, 150), np.float32) * draws.uniform(0.35, 1)
        wide = tall * draws.uniform(0.15, 0.21)
        stride = wide * draws.uniform(0.1, 1.1)
        for side in (-1, 1):
            hip, toe = side * wide * 0.1, side * stride
            leg = [(hip - wide * 0.35, tall * 0.5), (hip + wide * 0.35, tall * 0.5)]
            leg += [(toe + wide * 0.3, 0), (toe - wide * 0.3, 0)]
            part(np.array(leg), trousers, self.texture(0.15, 0.1))
        body = np.array([(-1, 0.84), (1, 0.84), (0.8, 0.42), (-0.8, 0.42)]) * (wide, tall)
        part(body, coat, self.texture(0.2, 0.15))
        part(ellipse(0, tall * 0.91, tall * 0.075, tall * 0.09), skin)

    def sign(self, x: float, foot: float, near: float) -> None:
        draws, part = self.draws, self.part(SIGN, x, foot, near)
        tall = self.height * near * draws.uniform(0.55, 0.8)
        half, reach = max(1.5, tall * 0.025), tall * draws.uniform(0.24, 0.36)
        part(box(-half, 0, half, tall), gray(draws.uniform(50, 190)))
        kind = draws.integer(0, 3)
        for r in (reach, reach * 0.65):
            board = (
                ellipse(0, tall, r, r),
                np.array([(0, tall + r), (r, tall - r * 0.8), (-r, tall - r * 0.8)]),
                box(-r * 1.2, tall - r * 0.8, r * 1.2, tall + r * 0.8),
            )
            part(board[kind], self.color(SIGN))

    def part(self, class_id: int, x: float, foot: float, near: float) -> Part:
        """A painter of the parts of one object."""
        haze = self.hazed(1 - near)

        def paint(points: np.ndarray, color: np.ndarray, texture: tuple[float, ...] = ()) -> None:
            self.canvas.paint(points * (1, -1) + (x, foot), class_id, color, texture, haze)

        return paint

    def objects(self) -> None:
        """Trees, vehicles, people and signs from far to near, so that near ones hide far ones."""
        draws = self.draws
        most = ((self.tree, 3), (self.vehicle, 2), (self.person, 3), (self.sign, 2))
        standing = []
        for make, limit in most:
            for _ in range(draws.integer(0, limit + 1)):
                near = draws.uniform(0.45, 1)
                standing.append((near, draws.uniform(0, self.width), make))
        for near, x, make in sorted(standing, key=lambda item: item[0]):
            foot = self.horizon + (self.height * 1.08 - self.horizon) * near
            make(x, foot, near)

    def bonnet(self) -> None:
        """In some scenes the camera's own car shows at the lower edge: it belongs to no class."""
        if self.draws.bool(0.2):
            x, y = self.width * self.draws.uniform(0.3, 0.7), self.height * 1.03
            low = ellipse(x, y, self.width * 0.6, self.height * 0.1)
            self.canvas.paint(low, IGNORE_INDEX, self.color(VEHICLE), self.texture(0, 0, 0, 0.4))

    # Camera

    def exposed(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture as a camera in this light records it, and its label, at final size."""
        draws = self.draws
        size = (self.width // SUPERSAMPLE, self.height // SUPERSAMPLE)
        image = cv2.resize(self.canvas.image, size, interpolation=cv2.INTER_AREA)
        label = np.ascontiguousarray(self.canvas.label[::SUPERSAMPLE, ::SUPERSAMPLE])
        # The widest source of looks: few labels cover it, and strong views teach a network to ignore it.
        cast = np.array([draws.uniform(0.65, 1.35) for _ in range(3)], np.float32)
        image = image * cast * draws.uniform(0.45, 1.2)
        slope = draws.uniform(-0.3, 0.3)  # light from one side
        image *= np.linspace(1 - slope, 1 + slope, size[0], dtype=np.float32)[None, :, None]
        if draws.bool(0.15):
            grey = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
            image = grey[..., None] + (image - grey[..., None]) * draws.uniform(0, 0.4)
        middle = image.mean()
        image = (image - middle) * draws.uniform(0.55, 1.3) + middle + draws.uniform(-10, 15)
        if draws.bool(0.15):
            image = cv2.GaussianBlur(image, (0, 0), draws.uniform(0.5, 1.1))
        speckle = keyed.uniform(keyed.key(self.key, 3), image.size).reshape(image.shape) - 0.5
        image += (speckle * draws.uniform(2, 12)).astype(np.float32)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def render(key: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [height, width, 3] RGB and uint8 [height, width] labels: the scene of this key."""
    scene = Scene(key, height * SUPERSAMPLE, width * SUPERSAMPLE)
    scene.sky()
    scene.ground()
    scene.buildings()
    scene.road()
    scene.objects()
    scene.bonnet()
    return scene.exposed()


@dataclass(frozen=True)
class SceneJob:
    """One scene to draw."""

    subset: str
    index: int

    @property
    def key(self) -> str:
        return f"{self.subset}/{self.index:06d}"

    def files(self) -> list[Path]:
        return []


def draw(job: SceneJob, seed: int, height: int, width: int) -> Outcome:
    """The scene, encoded."""
    key = keyed.key(seed, SUBSETS.index(job.subset), job.index)
    image, label = render(key, height, width)
    data = jpeg(image, LOWEST_QUALITY + key % 16)
    return Outcome(labeled_sample(job.key, data, "jpg", label, TAXONOMY.num_classes))


def write_synthetic(
    out: Path,
    *,
    train: int = 400,
    val: int = 100,
    height: int = 96,
    width: int = 128,
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
) -> Packed:
    """Write a shard set with subsets of `train` and `val` scenes of `height` x `width` pixels.

    Another seed gives other scenes of the same world. The same arguments give the same bytes.
    """
    counts = {"train": train, "val": val}
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} must be at least 1 image, found {count}")
    if min(height, width) < MIN_SIZE:
        raise ConfigError(f"size must be at least {MIN_SIZE}x{MIN_SIZE} pixels, found {height}x{width}")
    return write_set(
        out,
        TAXONOMY,
        {name: [SceneJob(name, index) for index in range(count)] for name, count in counts.items()},
        functools.partial(draw, seed=seed, height=height, width=width),
        {"recipe": "synthetic", "height": height, "width": width, "seed": seed},
        shard_bytes=SHARD_BYTES,
        workers=workers,
        overwrite=overwrite,
        source_name="the scenes",
    )
