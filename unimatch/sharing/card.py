"""The model card of a run: what it is for, what it learnt from, how good it is by which protocol, whose
weights it began with, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import unimatch
from unimatch import config as config_io
from unimatch.engine.evaluate import over, shown
from unimatch.engine.log import evaluations
from unimatch.engine.restore import Restored
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards, training_samples
from unimatch.errors import DataError, UserError
from unimatch.models.weights import licence_of
from unimatch.shardset.remote import is_url

TAGS = ["unimatch", "semantic-segmentation", "semi-supervised"]


def model_card(name: str, run: Path, config: RunConfig, found: Restored, licence: str | None) -> str:
    """Markdown with the hub's own front matter.

    config: of the run as it was trained, whose encoder says where its first weights were from.
    licence: of the whole, the hub's name for one; None: it is left to say.
    """
    import yaml

    about: dict[str, Any] = {"library_name": "unimatch", "pipeline_tag": "image-segmentation", "tags": TAGS}
    if licence is not None:
        about["license"] = licence
    title, encoder = name.rpartition("/")[2], config.model.encoder
    sections = {
        "What it is for": _purpose(config, found),
        "What it learnt from": _learnt(config, found),
        "Figures": _figures(run, config, found),
        "Licence": [
            f"Of the encoder's first weights: {licence_of(encoder.name, encoder.weights)}.",
            "Of this model: " + (licence or "not stated; ask its owner") + ".",
        ],
        "How to load it": _load(name, found),
    }
    text = f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n\n# {title}\n"
    for heading, lines in sections.items():
        text += f"\n## {heading}\n\n" + "\n".join(lines) + "\n"
    return text


def _purpose(config: RunConfig, found: Restored) -> Iterator[str]:
    task, encoder = found.task, config.model.encoder
    reads = "pairs of images" if task.dates > 1 else "images"
    kind = f"{task.channels} channels" if task.bands is None else task.bands.describe()
    yield (
        f"Task `{config.task.name}`: a class for each pixel of {reads} of {kind}. Trained with the method "
        f"`{config.method.name}` for {found.state.step} steps: encoder `{encoder.name}`, head "
        f"`{config.model.head.name}`, network `{found.network}`."
    )
    yield ""
    yield f"{task.taxonomy.num_classes} classes, in the order of their ids: {', '.join(task.taxonomy.names)}."
    if found.prepared is not None and found.prepared.downscale > 1:
        yield ""
        yield f"Images are predicted at 1/{found.prepared.downscale} of their width and height."


def _learnt(config: RunConfig, found: Restored) -> Iterator[str]:
    hashes = found.state.splits
    try:
        lists = training_samples(config, open_shards(config.data.shards, config.data.cache))
        counts = {
            "labeled": len(lists.labeled.rows),
            "unlabeled": None if lists.unlabeled is None else len(lists.unlabeled),
        }
    except (DataError, UserError, OSError):
        counts = {}
    place = config.data.shards
    yield f"- data: {place if is_url(place) else '/'.join(Path(place).parts[-2:])}"
    for kind, said in (("labeled", "labelled"), ("unlabeled", "unlabelled")):
        if kind in hashes:
            count = counts.get(kind)
            number = "number not known: the data are not at hand" if count is None else f"{count} images"
            yield f"- {said}: {number} (list {hashes[kind]})"
    if "pseudo" in hashes:
        yield f"- labels that another run or people added: list {hashes['pseudo']}"


def _figures(run: Path, config: RunConfig, found: Restored) -> Iterator[str]:
    step = found.state.step
    line = next((one for one in reversed(evaluations(run)) if one["step"] == step), None)
    if line is None or line["network"] != found.network:
        yield f"This network was not evaluated at step {step}."
        return
    task, headline = found.task, found.task.headline
    yield (
        f"{headline} {shown(headline, line[headline], task)}{over(line)}, on `{config.data.val}`: "
        f"{line['images']} images that it did not learn from."
    )
    yield ""
    yield "Protocol, as the settings `task.evaluate` have it:"
    yield ""
    yield f"`{json.dumps(config_io.plain(config)['task'].get('evaluate', {}))}`"
    yield ""
    tables = {name: value for name, value in line.items() if isinstance(value, Mapping)}
    yield "| class | " + " | ".join(tables) + " |"
    yield "| --- |" + " --- |" * len(tables)
    for label in next(iter(tables.values()), {}):
        cells = " | ".join(shown(name, values.get(label), task) for name, values in tables.items())
        yield f"| {label} | {cells} |"


def _load(name: str, found: Restored) -> Iterator[str]:
    second = ', "date2.png"' if found.task.dates > 1 else ""
    yield f"""```python
import unimatch  # {unimatch.__version__}

run = unimatch.load("hf://{name}")
ids = run.predict_file("image.png"{second})  # uint8 [H, W]; run.classes, run.colors
```

```bash
unimatch predict hf://{name} --images photos{" --second later" if second else ""} --out predicted
```"""
