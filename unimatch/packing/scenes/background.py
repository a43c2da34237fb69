"""What lies behind the objects: sky, ground, a row of houses, a road."""

from __future__ import annotations

import numpy as np

from unimatch.packing.scenes.canvas import box, ellipse
from unimatch.packing.scenes.classes import BUILDING, GROUND, ROAD, SKY
from unimatch.packing.scenes.scene import Scene


def sky(scene: Scene) -> None:
    draws, canvas = scene.draws, scene.canvas
    other = scene.color(SKY)
    ramp = np.linspace(0, 1, scene.height, dtype=np.float32)[:, None, None]
    canvas.image[:] = scene.sky_color * ramp + (0.6 * scene.sky_color + 0.4 * other) * (1 - ramp)
    clouds = canvas.noise[3] * 0.6 + canvas.noise[2] * 0.3
    canvas.image += (clouds * draws.uniform(0, 45))[..., None]


def ground(scene: Scene) -> None:
    whole = box(0, scene.horizon, scene.width, scene.height)
    scene.canvas.paint(whole, GROUND, scene.color(GROUND), scene.texture(0.35, 0.3, 0.25, 0.3))
    for _ in range(scene.draws.integer(0, 4)):  # patches of another soil
        x, y = scene.draws.uniform(0, scene.width), scene.draws.uniform(scene.horizon, scene.height)
        reach = (y - scene.horizon + 4) * scene.draws.uniform(0.4, 1.5)
        patch = ellipse(x, y, reach, reach * 0.2, scene.wobble(0.5))
        patch[:, 1] = np.maximum(patch[:, 1], scene.horizon)
        scene.canvas.paint(patch, GROUND, scene.color(GROUND), scene.texture(0.3, 0.3, 0.2, 0.2))


def road(scene: Scene) -> None:
    """A road to a vanishing point, sometimes with lane marks and shadows; some scenes have none."""
    draws = scene.draws
    if draws.bool(0.12):
        return
    top_x, top_w = draws.uniform(0.15, 0.85) * scene.width, draws.uniform(0.01, 0.05) * scene.width
    low_x, low_w = draws.uniform(0.1, 0.9) * scene.width, draws.uniform(0.2, 0.6) * scene.width

    def across(side: float, t: float) -> tuple[float, float]:
        """The point at `side` in [-1, 1] of the road, t = 0 at the horizon and 1 at the lower edge."""
        middle, half = top_x + (low_x - top_x) * t, top_w + (low_w - top_w) * t
        return middle + side * half, scene.horizon + (scene.height - scene.horizon) * t

    color = scene.color(ROAD)
    edge = np.array([across(-1, 0), across(1, 0), across(1, 1), across(-1, 1)])
    scene.canvas.paint(edge, ROAD, color, scene.texture(0.15, 0.08, 0.06, 0.25))
    if draws.bool(0.7):
        paint, dash = color + draws.uniform(-60, 90), draws.uniform(0.04, 0.12)
        for side in ((0.0,), (-0.33, 0.33), (-0.9, 0.0, 0.9))[draws.integer(0, 3)]:
            for start in np.arange(0.05, 1, 2 * dash).tolist():
                end = min(start + dash, 1)
                mark = [across(side - 0.03, start), across(side + 0.03, start)]
                mark += [across(side + 0.03, end), across(side - 0.03, end)]
                scene.canvas.paint(np.array(mark), ROAD, np.clip(paint, 0, 255))


def buildings(scene: Scene) -> None:
    """A skyline of houses that stand near the horizon, some with windows, some with gables."""
    draws = scene.draws
    x = draws.uniform(-0.2, 0.5) * scene.width
    stop = draws.uniform(0.5, 1.2) * scene.width
    while x < stop:
        wide, tall = draws.uniform(0.1, 0.35) * scene.width, draws.uniform(0.12, 0.75) * scene.height
        foot = scene.horizon + draws.uniform(0, 0.12) * scene.height
        if draws.bool(0.75):
            house(scene, x, foot - tall, x + wide, foot)
        x += wide * draws.uniform(0.7, 1.3)


def house(scene: Scene, x0: float, y0: float, x1: float, y1: float) -> None:
    draws = scene.draws
    wall, haze = scene.color(BUILDING), scene.hazed(draws.uniform(0.3, 1))
    scene.canvas.paint(box(x0, y0, x1, y1), BUILDING, wall, scene.texture(0.15, 0.15, 0.1, 0.15), haze)
    if draws.bool(0.45):
        ridge = ((x0 + x1) / 2, y0 - draws.uniform(0.1, 0.4) * (x1 - x0))
        roof = np.array([(x0 - 2, y0), (x1 + 2, y0), ridge])
        scene.canvas.paint(roof, BUILDING, scene.color(BUILDING), scene.texture(0.2, 0.1), haze)
    if draws.bool(0.85):
        glass = scene.sky_color if draws.bool(0.3) else scene.color(BUILDING)
        step_x, step_y = draws.uniform(7, 16), draws.uniform(8, 18)
        share_x, share_y = draws.uniform(0.35, 0.75), draws.uniform(0.35, 0.75)
        for y in np.arange(y0 + 4, y1 - step_y * share_y, step_y).tolist():
            for x in np.arange(x0 + 3, x1 - step_x * share_x, step_x).tolist():
                pane = box(x, y, x + step_x * share_x, y + step_y * share_y)
                scene.canvas.paint(pane, BUILDING, glass * draws.uniform(0.7, 1.1), haze=haze)
