"""The classes of the scenes, and the paints that they share."""

import numpy as np

from unimatch.taxonomy import Taxonomy

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
