"""What many devices make of several networks: each in every mode, as the model of step_time says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unimatch.scaling.predicted import Rate, Simulation, rates
from unimatch.scaling.step_time import MODES, Work


def fastest(found: list[Rate]) -> list[Rate]:
    """The best mode of each number of devices."""
    counts = dict.fromkeys(one.devices for one in found)
    return [
        max((one for one in found if one.devices == count), key=lambda one: one.images_s) for count in counts
    ]


def asked(works: Mapping[str, Work], operations_s: float) -> str:
    """What a step of each network asks of a device that sustains so many operations a second."""
    lines = [
        "Compute of a sample, all its views forward and backward, at "
        f"{1e-12 * operations_s:g} TFLOP/s a device (assumed):",
        "",
        "| network | TFLOP a sample | ms | parameters, MB | synchronised norms | passes, trained |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, work in works.items():
        lines.append(
            f"| {name} | {1e-12 * operations_s * work.image_s:.3g} | {1e3 * work.image_s:.3g} "
            f"| {work.parameter_mb:.0f} | {work.norms} | {work.passes_forward}, {work.passes_trained} |"
        )
    return "\n".join(lines)


def compared(works: Mapping[str, Work], settings: Simulation, path: Path) -> str:
    """A table of all modes, and a picture for those who pay: images a second, in each number's best mode."""
    lines = [
        "Predicted, not measured: the part of the devices' time that is not lost, by mode, and images a",
        "second in the best one.",
        "",
        "| network | scaling | devices | samples a device |"
        + "".join(f" {mode} |" for mode in MODES)
        + " images/s |",
    ]
    lines.append("| --- | --- |" + " ---: |" * (len(MODES) + 3))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, work in works.items():
        for kind in ("weak", "strong"):
            found = list(rates(work, settings, kind))
            for best in fastest(found):
                row = [one for one in found if one.devices == best.devices]
                parts = " | ".join(f"{one.efficiency:.0%}" for one in row)
                lines.append(
                    f"| {name} | {kind} | {best.devices} | {best.samples:g} | {parts} | {best.images_s:.0f} |"
                )
            if kind == "weak":
                _draw(axes, name, fastest(found))
    axes.set(
        xlabel="devices",
        ylabel="images a second",
        title=f"{settings.samples_per_device:g} images a device in a step; dotted: nothing is lost",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    figure.suptitle("predicted by a model, not measured", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return "\n".join(lines)


def _draw(axes: plt.Axes, name: str, found: list[Rate]) -> None:
    counts, last = [one.devices for one in found], found[-1]
    told = f"{name}: {last.efficiency:.0%} of {last.devices} devices' time is not lost ({last.mode})"
    (line,) = axes.plot(counts, [one.images_s for one in found], marker=".", label=told)
    alone = found[0].images_s / found[0].efficiency / counts[0]
    axes.plot(counts, [alone * count for count in counts], linestyle=":", color=line.get_color())
