"""Predictions for the networks of an experiment: the table against the model, and the command."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import tiny_run_text
from unimatch import scale
from unimatch.scaling.networks import compared, fastest
from unimatch.scaling.predicted import Simulation, rates
from unimatch.scaling.step_time import MODES, Cluster, Work, step_time

WORK = Work(image_s=0.02, fixed_s=0.0, parameter_mb=400.0)
SETTINGS = Simulation(cluster=Cluster(), devices=(8, 64, 4096), samples_per_device=4.0, global_batch=256.0)
EXPERIMENT = """
about: A small network
base: run.yaml
out: {out}
axes:
  network:
    semi: []
    supervised: [method.name=supervised, batch.unlabeled=null]
  lists: {{one: [], two: ["data.val=val"]}}
across: network
"""


def test_rates_are_those_of_the_model() -> None:
    for kind, samples in (("weak", {8: 4.0, 64: 4.0, 4096: 4.0}), ("strong", {8: 32.0, 64: 4.0})):
        found = list(rates(WORK, SETTINGS, kind))
        whole = 4.0 if kind == "weak" else 256.0
        alone = whole / step_time(WORK, SETTINGS.cluster, 1, whole).step
        assert [(one.devices, one.mode) for one in found] == [(n, mode) for n in samples for mode in MODES]
        for one in found:
            step = step_time(WORK, SETTINGS.cluster, one.devices, samples[one.devices], one.mode).step
            assert (one.time.step, one.samples) == (step, samples[one.devices])
            assert one.images_s == pytest.approx(one.devices * one.samples / step)
            assert one.efficiency == pytest.approx(one.images_s / (one.devices * alone))
        best = fastest(found)
        assert [one.devices for one in best] == list(samples)
        assert all(
            one.time.step == min(o.time.step for o in found if o.devices == one.devices) for one in best
        )


def test_the_table_has_a_row_for_each_number_of_devices(tmp_path: Path) -> None:
    works = {"light": WORK, "heavy": replace(WORK, image_s=0.2)}
    told = compared(works, SETTINGS, tmp_path / "networks.png").splitlines()
    rows = [line.split(" | ") for line in told if line.startswith(("| light", "| heavy"))]
    assert [row[:3] for row in rows[:5]] == [
        ["| light", kind, str(count)]
        for kind, count in [("weak", 8), ("weak", 64), ("weak", 4096), ("strong", 8), ("strong", 64)]
    ]
    first = [one for one in rates(WORK, SETTINGS, "weak") if one.devices == 8]
    assert rows[0][4:10] == [f"{one.efficiency:.0%}" for one in first]
    assert rows[0][10] == f"{fastest(first)[0].images_s:.0f} |"
    with Image.open(tmp_path / "networks.png") as image:
        assert min(image.size) > 300 and image.convert("L").getextrema() == (0, 255)


def test_an_experiments_networks_by_the_command(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(tiny_run_text(tmp_path / "unused", tiny_shards))
    (tmp_path / "sizes.yaml").write_text(EXPERIMENT.format(out=tmp_path / "runs"))
    settings = ["--set", "devices=[8]", "--set", "cluster.overhead.ddp=0.5", "--tflops", "2"]
    scale.main(
        ["simulate", "--experiment", str(tmp_path / "sizes.yaml"), *settings, "--out", str(tmp_path / "out")]
    )
    told = capsys.readouterr().out
    assert (
        told.index("ddp: 0.5") < told.index("at 2 TFLOP/s a device (assumed)") < told.index("| semi | weak |")
    )
    found = re.findall(r"^\| (semi|supervised) \| (\S+) \| (\S+) \| (\d+) \| \d+ \| \d, \d \|$", told, re.M)
    assert [name for name, *_ in found] == ["semi", "supervised"], "in the file's order, each once"
    (_, semi, semi_ms, semi_mb), (_, supervised, _, supervised_mb) = found
    assert float(semi_ms) == pytest.approx(1e3 * float(semi) / 2, rel=0.01), "at two TFLOP/s"
    assert float(supervised) < float(semi) and supervised_mb == semi_mb, "fewer passes, the same weights"
    assert "image_s" not in told, "what a step is, the runs say"
    assert (tmp_path / "out" / "networks.png").is_file()
    assert (tmp_path / "out" / "simulation.md").read_text() == told
