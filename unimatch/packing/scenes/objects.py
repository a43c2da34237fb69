"""What stands on the ground. Parts are given from the foot of their object: x to the right, y upwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unimatch.packing.scenes.canvas import box, ellipse, gray
from unimatch.packing.scenes.classes import PERSON, SIGN, TREE, VEHICLE
from unimatch.packing.scenes.scene import Scene

Part = Callable[..., None]  # (points, color, texture=()): paints a part of one object


def tree(scene: Scene, x: float, foot: float, near: float) -> None:
    draws, part = scene.draws, painter(scene, TREE, x, foot, near)
    tall = scene.height * near * draws.uniform(0.4, 0.85)
    crown, grain = scene.color(TREE), scene.texture(0.9, 0.7, 0.4, 0.2)
    if draws.bool(0.8):  # with a trunk; otherwise a bush
        half = max(1.0, tall * draws.uniform(0.02, 0.06))
        part(box(-half, 0, half, tall * 0.6), scene.color(TREE) * 0.6)
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
        leaves = ellipse(dx, middle + dy, rx, ry, scene.wobble(0.45))
        part(leaves, crown * draws.uniform(0.75, 1.2), grain)


def vehicle(scene: Scene, x: float, foot: float, near: float) -> None:
    make = (car_from_side, car_from_behind, bus)[scene.draws.integer(0, 3)]
    make(scene, painter(scene, VEHICLE, x, foot, near), scene.height * near * scene.draws.uniform(0.32, 0.5))


def car_from_side(scene: Scene, part: Part, tall: float) -> None:
    draws = scene.draws
    paint, grain = scene.color(VEHICLE), scene.texture(0.08, 0.05, 0.05, 0.3)
    half = tall * draws.uniform(1.0, 1.4)
    scale = np.array((half if draws.bool(0.5) else -half, tall))
    part(box(-half, tall * 0.15, half, tall * 0.58), paint, grain)
    part(np.array([(-0.75, 0.56), (-0.45, 1), (0.3, 1), (0.6, 0.56)]) * scale, paint, grain)
    part(np.array([(-0.6, 0.6), (-0.4, 0.92), (0.24, 0.92), (0.45, 0.6)]) * scale, glass_color(scene))
    wheels(scene, part, half, tall * 0.19)


def bus(scene: Scene, part: Part, tall: float) -> None:
    draws = scene.draws
    half, tall = tall * draws.uniform(0.9, 1.7), tall * 1.5
    glass = glass_color(scene)
    part(box(-half, tall * 0.12, half, tall), scene.color(VEHICLE), scene.texture(0.08, 0.05, 0.05, 0.3))
    for left in np.linspace(-0.85, 0.6, draws.integer(2, 6)):
        part(box(left * half, tall * 0.52, (left + 0.22) * half, tall * 0.85), glass)
    wheels(scene, part, half, tall * 0.14)


def car_from_behind(scene: Scene, part: Part, tall: float) -> None:
    draws = scene.draws
    paint, grain = scene.color(VEHICLE), scene.texture(0.08, 0.05, 0.05, 0.3)
    half, rubber = tall * draws.uniform(0.5, 0.7), gray(draws.uniform(15, 60))
    lamp = np.array((200, 60, 50) if draws.bool(0.5) else (240, 235, 200), np.float32)
    scale = np.array((half, tall))
    for side in (-0.85, 0.85):
        part(box(side * half - tall * 0.09, 0, side * half + tall * 0.09, tall * 0.25), rubber)
    part(box(-half, tall * 0.12, half, tall * 0.62), paint, grain)
    part(np.array([(-0.9, 0.62), (-0.65, 1), (0.65, 1), (0.9, 0.62)]) * scale, paint * 0.9, grain)
    part(np.array([(-0.7, 0.66), (-0.55, 0.93), (0.55, 0.93), (0.7, 0.66)]) * scale, glass_color(scene))
    for side in (-0.75, 0.75):
        part(ellipse(side * half, tall * 0.45, tall * 0.09, tall * 0.07), lamp)


def wheels(scene: Scene, part: Part, half: float, radius: float) -> None:
    rubber = gray(scene.draws.uniform(15, 60))
    for hub in (-0.58 * half, 0.58 * half):
        part(ellipse(hub, radius, radius, radius), rubber)
        part(ellipse(hub, radius, radius * 0.45, radius * 0.45), rubber + 90)


def glass_color(scene: Scene) -> np.ndarray:
    return scene.sky_color * scene.draws.uniform(0.3, 0.9)


def person(scene: Scene, x: float, foot: float, near: float) -> None:
    draws, part = scene.draws, painter(scene, PERSON, x, foot, near)
    tall = scene.height * near * draws.uniform(0.55, 0.8)
    coat, trousers = scene.color(PERSON), scene.color(PERSON)
    skin = np.array((225, 180, 150), np.float32) * draws.uniform(0.35, 1)
    wide = tall * draws.uniform(0.15, 0.21)
    stride = wide * draws.uniform(0.1, 1.1)
    for side in (-1, 1):
        hip, toe = side * wide * 0.1, side * stride
        leg = [(hip - wide * 0.35, tall * 0.5), (hip + wide * 0.35, tall * 0.5)]
        leg += [(toe + wide * 0.3, 0), (toe - wide * 0.3, 0)]
        part(np.array(leg), trousers, scene.texture(0.15, 0.1))
    body = np.array([(-1, 0.84), (1, 0.84), (0.8, 0.42), (-0.8, 0.42)]) * (wide, tall)
    part(body, coat, scene.texture(0.2, 0.15))
    part(ellipse(0, tall * 0.91, tall * 0.075, tall * 0.09), skin)


def sign(scene: Scene, x: float, foot: float, near: float) -> None:
    draws, part = scene.draws, painter(scene, SIGN, x, foot, near)
    tall = scene.height * near * draws.uniform(0.55, 0.8)
    half, reach = max(1.5, tall * 0.025), tall * draws.uniform(0.24, 0.36)
    part(box(-half, 0, half, tall), gray(draws.uniform(50, 190)))
    kind = draws.integer(0, 3)
    for r in (reach, reach * 0.65):
        board = (
            ellipse(0, tall, r, r),
            np.array([(0, tall + r), (r, tall - r * 0.8), (-r, tall - r * 0.8)]),
            box(-r * 1.2, tall - r * 0.8, r * 1.2, tall + r * 0.8),
        )
        part(board[kind], scene.color(SIGN))


def painter(scene: Scene, class_id: int, x: float, foot: float, near: float) -> Part:
    """A painter of the parts of one object."""
    haze = scene.hazed(1 - near)

    def paint(points: np.ndarray, color: np.ndarray, texture: tuple[float, ...] = ()) -> None:
        scene.canvas.paint(points * (1, -1) + (x, foot), class_id, color, texture, haze)

    return paint


def objects(scene: Scene) -> None:
    """Trees, vehicles, people and signs from far to near, so that near ones hide far ones."""
    draws = scene.draws
    most = ((tree, 3), (vehicle, 2), (person, 3), (sign, 2))
    standing = []
    for make, limit in most:
        for _ in range(draws.integer(0, limit + 1)):
            near = draws.uniform(0.45, 1)
            standing.append((near, draws.uniform(0, scene.width), make))
    for near, x, make in sorted(standing, key=lambda item: item[0]):
        foot = scene.horizon + (scene.height * 1.08 - scene.horizon) * near
        make(scene, x, foot, near)
