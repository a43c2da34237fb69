"""One picture a method: what its networks are shown in one step of a trained run, and what they say to it.

    python tools/method_pictures.py runs/camvid/unimatch --out pictures [--methods augseg u2pl ...]
    python tools/method_pictures.py runs/camvid/unimatch --sheet methods.jpg    # all methods in one

The run gives data, network and views; each method steps once from its weights, on the first batch as it asks
for it. A column a pass, in the order of the passes: the images, and below each the classes over it. A teacher
begins as the network; no loss is followed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.codecs.encode import jpeg, png
from unimatch.codecs.picture import scaled
from unimatch.codecs.sheet import Sample, sheet
from unimatch.config import Section
from unimatch.engine import checkpoint
from unimatch.engine.build import build_method, build_task
from unimatch.engine.one_batch import first_batch
from unimatch.engine.restore import restore
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.methods import METHODS, Method, Progress
from unimatch.tasks.base import Task

SHOWN = 2  # images of a pass
SIDE = 192  # pixels of one
COLUMNS, SMALL, QUALITY = 6, 96, 65  # of the sheet of all
LATE = Progress(step=1000, total_steps=2000, epoch=1000)  # behind any burn-in


class Passes:
    """The images and logits of every pass through some networks, in their order."""

    def __init__(self, nets: dict[str, nn.Module]) -> None:
        self.found: list[tuple[str, Tensor, Tensor]] = []
        for name, net in nets.items():
            net.register_forward_hook(self._hook(name))

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def keep(net: nn.Module, inputs: tuple[Tensor, ...], output: dict[str, Tensor]) -> None:
            mode = f"{'train' if net.training else 'eval'}{'' if torch.is_grad_enabled() else ', blind'}"
            labels = output["logits"].detach().argmax(1)
            self.found.append((f"{name}: {mode}", inputs[0].detach(), labels))

        return keep


def networks(method: Method, net: nn.Module) -> dict[str, nn.Module]:
    """All that take images, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in checkpoint.modules(net, method).items():
        whole = module.items() if isinstance(module, nn.ModuleDict) else [(name, module)]
        found |= {part: each for part, each in whole if hasattr(each, "encoder")}
    return found


def passes_of(run: Path, name: str) -> tuple[list[tuple[str, Tensor, Tensor]], Task]:
    """Title, images and class ids of every pass of a step of one method."""
    runtime = Runtime()
    restored = restore(run, "last", "model", runtime)
    config, net = restored.config, restored.net
    config.method = Section(name, METHODS[name].config())
    data = open_data(config)
    task = build_task(config, data.shards.taxonomy, net, data.bands)
    method = build_method(config, task, net)
    batch = first_batch(config, data, task, method, runtime)
    if method.stages:  # the last run of them, whose second half comes with pseudo-labels
        half = torch.arange(len(batch.labeled.label), device=runtime.device)
        batch.labeled.pseudo = half >= len(half) // 2
    passes = Passes(networks(method, net))
    with torch.no_grad() if name == "supervised" else torch.enable_grad():
        method.step(net, batch, LATE)
    return passes.found, task


def picture(run: Path, name: str) -> np.ndarray:
    """The sheet of one method."""
    found, task = passes_of(run, name)
    titles, columns = [], []
    for title, images, labels in found:
        # Of images that are joined in one pass: the first ones and the last ones.
        chosen = sorted({*range(SHOWN), *range(len(images) - SHOWN, len(images))} & set(range(len(images))))
        shown = [scaled(_shown(images[number], task), SIDE) for number in chosen]
        painted = [
            task.paint(each, labels[number].cpu().numpy()) for each, number in zip(shown, chosen, strict=True)
        ]
        titles.append(f"{title}, {len(images)} images")
        columns.append([tile for pair in zip(shown, painted, strict=True) for tile in pair])
    height = max(map(len, columns))
    blank = np.full_like(columns[0][0], 255)
    columns = [column + [blank] * (height - len(column)) for column in columns]
    return sheet([Sample(list(row)) for row in zip(*columns, strict=True)], titles, legend=task.legend())


def overview(run: Path, names: Sequence[str]) -> np.ndarray:
    """One sheet of some methods: of the first passes of each the last image, above the classes over it."""
    samples = []
    for name in names:
        found, task = passes_of(run, name)
        tiles = []
        for _, images, labels in found[:COLUMNS]:
            shown = scaled(_shown(images[-1], task), SMALL)
            tiles.append(np.vstack([shown, task.paint(shown, labels[-1].cpu().numpy())]))
        titles = ", ".join(title.partition(",")[0] for title, _, _ in found[:COLUMNS])
        blank = np.full_like(tiles[0], 255)
        samples.append(Sample(tiles + [blank] * (COLUMNS - len(tiles)), f"{name}: {titles}"))
    return sheet(samples, across=2, legend=task.legend())


def _shown(image: Tensor, task) -> np.ndarray:  # type: ignore[no-untyped-def]
    """uint8 [H, W, 3] of a normalised image; of two dates the first one, grey of one channel."""
    values = (image[0] if image.ndim == 4 else image).float().cpu() * task.std + task.mean
    pixels = values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    return np.ascontiguousarray(pixels.expand(*pixels.shape[:2], 3).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--out", type=Path, help="folder of the pictures")
    parser.add_argument("--sheet", type=Path, metavar="FILE.jpg", help="one picture of all")
    parser.add_argument("--methods", nargs="+", choices=METHODS.names(), default=METHODS.names())
    options = parser.parse_args()
    if options.sheet:
        options.sheet.write_bytes(jpeg(overview(options.run, options.methods), QUALITY))
    if not options.out:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.methods:
        path = options.out / f"{name}.png"
        path.write_bytes(png(picture(options.run, name)))
        print(path)


if __name__ == "__main__":
    main()
