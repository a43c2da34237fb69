"""The light that a scene is seen in, and the camera that records it."""

from __future__ import annotations

import cv2
import numpy as np

from unimatch import keyed
from unimatch.packing.scenes.background import buildings, ground, road, sky
from unimatch.packing.scenes.canvas import ellipse
from unimatch.packing.scenes.classes import VEHICLE
from unimatch.packing.scenes.objects import objects
from unimatch.packing.scenes.scene import Scene
from unimatch.taxonomy import IGNORE_INDEX

SUPERSAMPLE = 2  # drawn at twice the size: the image is averaged down, the label takes one of the four pixels


def render(key: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [height, width, 3] RGB and uint8 [height, width] labels: the scene of this key."""
    scene = Scene(key, height * SUPERSAMPLE, width * SUPERSAMPLE)
    sky(scene)
    ground(scene)
    buildings(scene)
    road(scene)
    objects(scene)
    bonnet(scene)
    return exposed(scene)


def bonnet(scene: Scene) -> None:
    """In some scenes the camera's own car shows at the lower edge: it belongs to no class."""
    if scene.draws.bool(0.2):
        x, y = scene.width * scene.draws.uniform(0.3, 0.7), scene.height * 1.03
        low = ellipse(x, y, scene.width * 0.6, scene.height * 0.1)
        scene.canvas.paint(low, IGNORE_INDEX, scene.color(VEHICLE), scene.texture(0, 0, 0, 0.4))


def exposed(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The picture as a camera in this light records it, and its label, at final size."""
    draws = scene.draws
    size = (scene.width // SUPERSAMPLE, scene.height // SUPERSAMPLE)
    image = cv2.resize(scene.canvas.image, size, interpolation=cv2.INTER_AREA)
    label = np.ascontiguousarray(scene.canvas.label[::SUPERSAMPLE, ::SUPERSAMPLE])
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
    speckle = keyed.uniform(keyed.key(scene.key, 3), image.size).reshape(image.shape) - 0.5
    image += (speckle * draws.uniform(2, 12)).astype(np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label
