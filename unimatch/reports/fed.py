"""What a run learnt from: its lists, their classes, what was skipped, and the views made of them."""

from __future__ import annotations

from typing import Any

from unimatch.codecs.encode import jpeg
from unimatch.engine.build import build_method
from unimatch.engine.class_coverage import class_pixels
from unimatch.engine.one_batch import first_batch
from unimatch.engine.restore import Restored
from unimatch.engine.run_data import RunData
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.pages.document import embedded

QUALITY = 80
RARE = 0.01  # share of the labelled pixels below which a class is called rare


def lists(data: RunData) -> dict[str, Any]:
    """For JSON: how many samples each list names, and the labelled pixels of each class in the labelled one;
    None: too many masks to read for it.
    """
    pixels = class_pixels(data.labeled)
    shares = None if pixels is None else (pixels / max(1, int(pixels.sum()))).tolist()
    return {
        "samples": {name: len(one.rows) for name, one in data.selections.items()},
        "shares": shares,
        "rare": None if shares is None else [share < RARE for share in shares],
    }


def views(restored: Restored, data: RunData, runtime: Runtime) -> dict[str, Any]:
    """For JSON: sheets of the first step's images as the network saw them, with what it says of them now; or
    why there are none.
    """
    config = restored.config
    try:
        method = build_method(config, restored.task, restored.net)
        batch = first_batch(config, data, restored.task, method, runtime)
        sheets = restored.task.pictures(restored.net, batch)
    except UserError as error:
        return {"missing": str(error)}
    return {"sheets": {name: embedded(jpeg(picture, QUALITY)) for name, picture in sheets.items()}}
