"""The model of a step against literal exchanges and drawn numbers; its fit; and one real measurement."""

from __future__ import annotations

import heapq
import json
import math
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
import torch

from tests.support import tiny_encoder
from tests.support.processes import warm_python
from tests.support.warm_python import Forked
from unimatch.errors import UserError
from unimatch.scaling import spawn
from unimatch.scaling.calibrate import (
    Exchange,
    Measured,
    Parts,
    calibrate,
    efficiency,
    fit_line,
    fit_link,
    fit_one_way,
    log_spread,
)
from unimatch.scaling.short_runs import ShortRuns
from unimatch.scaling.step_time import (
    Cluster,
    Link,
    Mode,
    OneWay,
    Overhead,
    Work,
    all_reduce_s,
    expected_maximum,
    one_way_s,
    step_time,
)

ROOT = Path(__file__).parents[3]
INSIDE, BETWEEN = Link(gbyte_s=10.0, latency_us=2.0), Link(gbyte_s=1.0, latency_us=50.0)
QUIET = Cluster(
    devices_per_node=4, inside=INSIDE, between=BETWEEN, algorithm="ring", straggler_sigma=0.0, overlap=0.5
)


def tool(*arguments: object) -> int:
    """The exit code of `python tools/scaling.py ARGUMENTS`, run in this process."""
    old = sys.argv
    sys.argv = ["scaling.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "tools" / "scaling.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    raise AssertionError("a tool ends with sys.exit")


def pass_around(size: float, devices: int, per_node: int, hops: int) -> float:
    """Each piece really goes around: a device sends its next piece when it has it and its last one is out."""
    have = [0.0] * devices  # when the piece to be sent next is there
    for _ in range(hops):
        arrived = []
        for device in range(devices):
            crosses = device // per_node != (device + 1) % devices // per_node
            link = BETWEEN if crosses else INSIDE
            arrived.append(have[device] + link.latency_s + size / devices / link.bytes_s)
        # A device's next piece is the one that its neighbour sent; it also waits until its own is out.
        have = [max(arrived[device - 1], arrived[device]) for device in range(devices)]
    return max(have)


NOTHING = Overhead(**dict.fromkeys(vars(Overhead()), 0.0))


@pytest.mark.parametrize("devices", [2, 3, 4])
@pytest.mark.parametrize("size", [4e3, 4e8])
def test_a_ring_inside_a_node_is_what_passing_pieces_around_takes(devices: int, size: float):
    assert all_reduce_s(size, devices, QUIET) == pytest.approx(
        pass_around(size, devices, 4, 2 * (devices - 1))
    )
    assert one_way_s(size, devices, QUIET, OneWay()) == pytest.approx(
        pass_around(size, devices, 4, devices - 1)
    )


def test_a_ring_over_nodes_is_paced_by_its_slowest_link():
    """The model's bound; a piece that meets the slow link only now and then is faster, but not by half."""
    literal = pass_around(4e8, 8, 4, 14)
    assert literal <= all_reduce_s(4e8, 8, QUIET) * (1 + 1e-9)
    assert all_reduce_s(4e8, 8, QUIET) == pytest.approx(14 * (50e-6 + 0.05))
    assert literal > 0.5 * all_reduce_s(4e8, 8, QUIET)


def climb(nodes: int, per_node: int) -> float:
    """Seconds until word of all devices has reached one: chains in nodes, then nodes pair by pair."""
    ready = [(per_node - 1) * INSIDE.latency_s] * nodes
    while len(ready) > 1:
        heapq.heapify(ready)
        pairs = [(heapq.heappop(ready), heapq.heappop(ready)) for _ in range(len(ready) // 2)]
        ready = [max(pair) + BETWEEN.latency_s for pair in pairs] + ready
    return ready[0]


@pytest.mark.parametrize("nodes", [1, 2, 4, 16, 512])
def test_a_tree_goes_up_and_down_as_many_levels_as_there_are(nodes: int):
    tree = replace(QUIET, algorithm="tree")
    assert all_reduce_s(0.0, 4 * nodes, tree) == pytest.approx(2 * climb(nodes, 4))
    slow = BETWEEN if nodes > 1 else INSIDE
    assert all_reduce_s(1e8, 4 * nodes, tree) - all_reduce_s(0.0, 4 * nodes, tree) == pytest.approx(
        2e8 / slow.bytes_s
    )


def test_auto_takes_trees_for_small_and_rings_for_large_messages():
    auto, ring, tree = (replace(QUIET, algorithm=name) for name in ("auto", "ring", "tree"))
    assert all_reduce_s(1e3, 64, auto) == all_reduce_s(1e3, 64, tree) < all_reduce_s(1e3, 64, ring)
    assert all_reduce_s(1e10, 8, auto) == all_reduce_s(1e10, 8, ring) < all_reduce_s(1e10, 8, tree)
    assert all_reduce_s(1e9, 1, auto) == 0


@pytest.mark.parametrize(
    ("sigma", "devices", "slow"),
    [(0.05, 2, 1.0), (0.05, 64, 1.0), (0.3, 8, 1.0), (0.3, 8, 1.2), (0.05, 64, 1.1)],
)
def test_the_slowest_of_n_is_the_mean_of_drawn_maxima(sigma: float, devices: int, slow: float):
    draw = random.Random(0)
    tries = 4000
    found = [
        max(
            (slow if device == 0 else 1.0) * math.exp(draw.gauss(-sigma * sigma / 2, sigma))
            for device in range(devices)
        )
        for _ in range(tries)
    ]
    assert expected_maximum(sigma, devices, slow) == pytest.approx(sum(found) / tries, rel=0.15 * sigma)


def test_one_device_or_no_spread_waits_for_nobody():
    assert expected_maximum(0.5, 1) == expected_maximum(0.0, 4096) == 1.0
    assert expected_maximum(0.0, 4096, 1.5) == 1.5
    assert 1 < expected_maximum(0.02, 64) < expected_maximum(0.02, 4096) < 1.1


# 10 samples: 0.1 s forward and 0.3 s backward. 400 MB: a ring of 4 takes 6 hops of 10 ms, and latencies.
WORK = Work(image_s=0.04, fixed_s=0.0, backward_share=0.75, parameter_mb=400.0, shard_kb_per_sample=0.0)


@pytest.mark.parametrize(
    ("mode", "overlap", "messages"),
    [
        ("ddp", 0.0, 0.060012),  # all of it shows
        ("ddp", 0.1, 0.030012),  # 30 ms hide
        ("ddp", 1.0, 0.060012 * 25 / 400),  # the last bucket does not
        ("zero1", 1.0, 0.060012),  # scatter and gather after backward
        ("zero2", 1.0, 0.030006),  # only the gather
        ("zero2", 0.0, 0.060012),
        # The scatter hides in 0.3 s, of which 0.269994 are left for four gathers of 30.006 ms each.
        ("zero3", 1.0, 0.0),
        ("zero3", 0.1, 4 * 0.030006 + 0.000006),
        # In 16 messages of 3 hops each: 30.096 ms.
        ("fsdp", 0.1, 4 * 0.030096 + 0.000096),
        ("fsdp", 1.0, 2 * 0.030096 / 16),  # the first block's parameters, the last one's gradients
        ("hsdp", 0.1, 4 * 0.030096 + 0.000096),  # in one node the same
    ],
)
def test_what_backward_hides_by_hand(mode: Mode, overlap: float, messages: float):
    cluster = replace(QUIET, overlap=overlap, overhead=NOTHING, data_images_s_per_device=1e9)
    found = step_time(WORK, cluster, 4, 10, mode)
    assert found.compute == pytest.approx(0.4) and found.data == 0
    assert found.messages == pytest.approx(messages, abs=1e-9)


@pytest.mark.parametrize(
    ("mode", "overlap", "messages"),
    [
        (
            "ddp",
            0.1,
            0.060012 - 0.0075,
        ),  # of 30 ms that a step can hide, the last of four passes hides a quarter
        ("zero1", 1.0, 0.060012),  # as without accumulation: once
        ("zero2", 0.0, 5 * 0.030006),  # scattered in each pass, gathered once
        ("zero2", 0.1, 5 * 0.030006 - 0.03),
        (
            "zero3",
            0.0,
            (4 + 4 * 4) * 0.030006,
        ),  # in each pass scattered once, gathered for two passes each way
    ],
)
def test_what_accumulation_costs_by_hand(mode: Mode, overlap: float, messages: float):
    cluster = replace(QUIET, overlap=overlap, overhead=NOTHING, data_images_s_per_device=1e9)
    found = step_time(WORK, cluster, 4, 10, mode, accumulation=4)
    assert found.compute == pytest.approx(0.4)
    assert found.messages == pytest.approx(messages, abs=1e-9)


def test_copies_of_nodes_send_less_between_them_than_parts_over_all_by_hand():
    """Two nodes of four, nothing hides; 1 GB/s between them, 10 GB/s inside."""
    cluster = replace(QUIET, overlap=0.0, overhead=NOTHING, data_images_s_per_device=1e9)
    hsdp, fsdp = (step_time(WORK, cluster, 8, 10, mode).messages for mode in ("hsdp", "fsdp"))
    # Gathered four times and scattered once inside; then summed over two nodes: two hops of 200 MB.
    assert hsdp == pytest.approx(5 * 0.030096 + 2 * (50e-6 + 0.2))
    assert fsdp == pytest.approx(5 * 7 * (16 * 50e-6 + 0.05))
    half = replace(WORK, gathered=0.5)
    saved = hsdp - step_time(half, cluster, 8, 10, "hsdp").messages
    assert saved == pytest.approx(4 * 3 * 0.005), "gathered in bf16, still summed in fp32"


def test_what_fsdp_gathers_by_hand():
    """300 MB in four blocks, 7.5 ms a hop, and 100 MB in none, 2.5 ms; gathers of twice the ring's latency,
    scatters of three times its bytes' time; a teacher's pass beside two of the network and two ways back.
    """
    ways = {"gather": OneWay(latency=2.0), "scatter": OneWay(transfer=3.0)}
    cluster = replace(QUIET, overlap=0.0, overhead=NOTHING, data_images_s_per_device=1e9, **ways)
    work = replace(WORK, blocks=4, rest_mb=100.0, passes_followers=1, parts_s=0.05)
    found = step_time(work, cluster, 4, 10, "fsdp", accumulation=2)
    gather, scatter = 3 * (4 * 2 * 2e-6 + 0.0075), 3 * (4 * 2e-6 + 3 * 0.0075)
    rest = 3 * (2 * 2e-6 + 0.0025) + 3 * (2e-6 + 3 * 0.0025)
    assert found.messages == pytest.approx(2 * (5 * gather + scatter + rest))
    assert found.compute == pytest.approx(0.4 + 2 * 0.05)
    hidden = step_time(work, replace(cluster, overlap=1.0), 4, 1000, "fsdp").messages
    assert hidden == pytest.approx(rest + (gather + scatter) / 4)


def test_compute_grows_with_passes_stages_and_the_slowest_of_the_devices():
    quiet = replace(QUIET, overhead=Overhead(0.0, 0.05, 0.1, 0.2), data_images_s_per_device=1e9)
    work = replace(WORK, fixed_s=0.1)
    for mode, factor in {"ddp": 1.0, "zero1": 1.05, "zero2": 1.1, "zero3": 1.2, "hsdp": 1.05}.items():
        for accumulation in (1, 3):
            found = step_time(work, quiet, 4, 10, mode, accumulation)
            assert found.compute == pytest.approx(factor * (0.4 + 0.1 * accumulation))
    slow = replace(quiet, straggler_sigma=0.2)
    ratio = step_time(work, slow, 4, 10).compute / step_time(work, quiet, 4, 10).compute
    assert ratio == pytest.approx(expected_maximum(0.2, 4)) and ratio > 1.15


def test_synchronised_norms_pay_two_latencies_a_pass():
    cluster = replace(QUIET, overlap=1.0, bucket_mb=1e-6)
    more = step_time(replace(WORK, norms=50, passes_trained=2), cluster, 4, 10)
    assert more.messages - step_time(WORK, cluster, 4, 10).messages == pytest.approx(2 * 50 * 2 * 6 * 2e-6)


def test_slow_storage_shows_as_a_wait_for_data():
    work = replace(WORK, shard_kb_per_sample=1000.0)
    # Four devices of a node read 40 MB a step at 10 MB/s: 4 s, of which the step's own time is hidden.
    cluster = replace(QUIET, data_gbyte_s_per_node=0.01)
    found = step_time(work, cluster, 8, 10)
    assert found.step == pytest.approx(4.0)


def row(mode: str, processes: int, samples: int, seconds: float, alone: float, **more) -> Measured:
    parts = Parts(seconds, 0.0, 0.25 * seconds, 0.75 * seconds, 0.0)
    single = Parts(alone, 0.0, 0.25 * alone, 0.75 * alone, 0.0)
    values = {"precision": "fp32", "spread": 0.0, "memory_gib": 1.0, "kinds": ("strong", "weak")} | more
    return Measured(
        mode, values.pop("precision"), processes, samples // 2, samples // 2, parts, single, **values
    )


def test_the_wait_for_data_is_neither_work_nor_communication():
    together, alone = Parts(1.0, 0.25, 0.2, 0.5, 0.05), Parts(0.6, 0.1, 0.1, 0.4, 0.0)
    one = replace(row("ddp", 2, 8, 1.0, 0.6), parts=together, alone=alone)
    assert (together.busy, alone.busy) == (0.75, 0.5)
    assert one.communication == pytest.approx(0.25) and one.images_s == 8.0


def test_efficiency_by_hand():
    one, two = row("ddp", 1, 8, 1.0, 1.0), row("ddp", 2, 8, 0.625, 0.5)
    rows = [one, two, row("zero2", 2, 16, 2.0, 1.0), row("ddp", 4, 8, 0.3, 0.2, precision="bf16")]
    assert efficiency(two, rows, "strong") == pytest.approx(0.8)
    assert two.communication == pytest.approx(0.125)
    assert efficiency(rows[2], rows, "weak") == pytest.approx(0.5)
    assert efficiency(rows[3], rows, "strong") is None


def test_lines_are_found_and_never_negative():
    assert fit_line([(u, 1.0, 2 * u + 3) for u in (1.0, 5.0, 9.0)]) == pytest.approx((2, 3))
    a, b = fit_line([(1.0, 1.0, 1.0), (2.0, 1.0, 3.0)])  # the exact line has b = -1
    assert a > 0 and b == 0
    assert fit_line([(2.0, 1.0, 4.0)])[0] >= 0


def test_links_are_found_again_from_what_they_would_take():
    cluster = Cluster(inside=Link(gbyte_s=3.0, latency_us=80.0), algorithm="ring")
    timed = [
        Exchange(n, size, all_reduce_s(size, n, cluster)) for n in (2, 4) for size in (1024, 10**6, 10**8)
    ]
    found = fit_link(timed)
    assert found.gbyte_s == pytest.approx(3.0) and found.latency_us == pytest.approx(80.0)


def test_gathers_and_scatters_are_found_again():
    cluster = Cluster(inside=Link(gbyte_s=3.0, latency_us=80.0))
    way = OneWay(latency=1.5, transfer=2.5)
    for kind in ("gather", "scatter"):
        timed = [
            Exchange(n, size, one_way_s(size, n, cluster, way), kind)
            for n in (2, 4)
            for size in (1024, 10**6, 10**8)
        ]
        assert vars(fit_one_way(timed, cluster.inside)) == pytest.approx(vars(way))
    assert fit_one_way([], cluster.inside) == OneWay()


def test_a_machine_that_obeys_the_model_is_predicted_exactly():
    exchanges = [Exchange(2, size, 2 * (1e-4 + size / 2 / 2e9)) for size in (1000, 10**7)]
    for times, kind in ((2, "gather"), (3, "scatter")):  # so many times their bytes
        exchanges += [Exchange(2, size, 1e-4 + times * size / 2 / 2e9, kind) for size in (1000, 10**7)]
    # 10 ms a sample + 20 ms; 100 MB; two slots, so that four processes take twice as long.
    one = [row("ddp", 1, n, 0.02 + 0.01 * n, 0.02 + 0.01 * n) for n in (8, 16)]
    two = row("ddp", 2, 16, 0.10 + 2 * (1e-4 + 0.025), 0.10)
    four = row("ddp", 4, 32, 0.20 + 6 * (1e-4 + 0.0125), 0.20)
    zero = row("zero1", 2, 16, 0.11 + 2 * 1e-4 + 5 * 0.025, 0.10)
    zero4 = row("zero1", 4, 32, 0.22 + 3 * (2 * 1e-4 + 5 * 0.0125), 0.20)
    # Sixteen blocks, scattered once and gathered for two passes each way; 30 ms whatever the samples.
    parts = 5 * 16 * 1e-4 + (4 * 2 + 3) * 0.025 + 0.03
    fsdp, fsdp_weak = row("fsdp", 2, 16, 0.10 + parts, 0.10), row("fsdp", 2, 32, 0.18 + parts, 0.18)
    rows = [*one, two, four, zero, zero4, fsdp, fsdp_weak]
    rows += [row("ddp", 1, 8, 0.3, 0.3, precision="bf16"), row("zero1", 2, 16, 0.3, 0.3, precision="bf16")]
    found = calibrate(rows, exchanges, Work(parameter_mb=100.0), 2, on_gpus=False)
    link = found.cluster.inside
    assert link.gbyte_s == pytest.approx(2.0) and link.latency_us == pytest.approx(100.0)
    assert vars(found.cluster.overhead) == pytest.approx({**vars(NOTHING), "zero1": 0.1})
    for held_out in (two, four, zero4, fsdp_weak):
        assert held_out not in found.fitted
        assert found.predict(held_out) == pytest.approx(held_out.parts.step)
    assert zero in found.fitted and one[0] in found.fitted and fsdp in found.fitted
    few = calibrate([one[1], two], exchanges, Work(parameter_mb=100.0), 2, on_gpus=False)
    assert few.predict(two) == pytest.approx(two.parts.step), "what ran side by side tells the rest"


def test_spread_is_that_of_the_logarithm():
    assert log_spread([math.exp(x) for x in (-0.1, 0.1)]) == pytest.approx(0.2 / math.sqrt(2))
    assert log_spread([1.0]) == 0


def test_a_failing_process_ends_its_job_with_its_message():
    with pytest.raises(UserError, match="rank 1 ended with 3: no more") as error:
        spawn.run_all(
            [
                spawn.Job(
                    2,
                    [
                        "-c",
                        "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(print('no more', "
                        "file=sys.stderr) or 3)\ntime.sleep(60)",
                    ],
                    {},
                )
            ],
            timeout_s=8,
        )
    assert "rank 0" not in str(error.value)
    with pytest.raises(UserError, match="not finished in 0.5 s"):
        spawn.run_all([spawn.Job(1, ["-c", "import time; time.sleep(60)"], {})], timeout_s=0.5)


def test_sigterm_leaves_no_process_behind(tmp_path: Path):
    job = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"from unimatch.scaling import spawn; spawn.run_all([spawn.Job(1, ['-c', {job!r}], {{}})], 50)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    parent.terminate()
    assert parent.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_prediction_needs_no_measurement_and_states_its_assumptions(tmp_path: Path, capsys):
    assert tool("simulate", "--out", tmp_path, "--set", "devices=[1, 8, 1024]", "--set", "work.norms=53") == 0
    text = (tmp_path / "simulation.md").read_text()
    assert "Predicted, not measured" in text and "straggler_sigma: 0.02" in text and "norms: 53" in text
    assert "| weak | zero3 | 1024 | 16 |" in text and "| strong | ddp | 1024 | 1 |" in text
    assert (tmp_path / "simulation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "--set", "cluster.overlap=2"], "overlap must lie in"),
        (["simulate", "--set", "cluster.inside.gbyte_s=0"], "gbyte_s must be above 0"),
        (["simulate", "--set", "work.imagee_s=1"], "image_s"),
        (["simulate", "--set", "devices=[0]"], "devices must be numbers of at least 1"),
        (["simulate", "--measured", "{file}"], "is no result of unimatch scale run"),
        (["run", "--config", "{file}", "--steps", "3", "--warm-up", "3"], "--warm-up must be below"),
        (["walk"], "invalid choice"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, capsys, arguments, message):
    file = tmp_path / "other.json"
    file.write_text('{"rows": [{}]}')
    out = [] if arguments == ["walk"] else ["--out", tmp_path / "out"]
    assert tool(*(str(a).format(file=file) for a in arguments), *out) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def forked(command: list[str], env: dict[str, str], stdout: IO[str], stderr: IO[str], **_: object) -> Forked:
    """What Popen does for a job, by a fork: starts of the trainer would take most of the test's time."""
    return warm_python().start(command[1:], None, env, stdout, stderr)


def test_a_real_measurement_and_the_check_of_the_model_on_it(
    tiny_run: Path, tmp_path: Path, capsys, monkeypatch
):
    """Two real processes: what is written, that the parts are those of the step, that the check reads it."""
    monkeypatch.setattr(spawn, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": forked}))
    out = tmp_path / "scaling"
    short = ["--steps", 4, "--warm-up", 1, "--kinds", "weak", "--processes", 1, 2]
    small = (f"model.encoder.name={tiny_encoder.NAME}", "model.head={name: linear}")
    changes = ("sync_batchnorm=off", "data.workers=0", *small)
    settings = [part for one in changes for part in ("--set", one)]
    assert tool("run", "--config", tiny_run, *settings, *short, "--out", out) == 0, capsys.readouterr().err
    stored = json.loads((out / "scaling.json").read_text())
    one, two = (
        Measured(**{**r, "parts": Parts(**r["parts"]), "alone": Parts(**r["alone"])}) for r in stored["rows"]
    )
    assert (one.processes, one.samples, two.processes, two.samples) == (1, 8, 2, 16)
    for found in (one, two):
        parts = found.parts
        assert parts.forward > 0 and parts.backward > 0 and parts.data > 0
        assert parts.forward + parts.backward + parts.update + parts.data < 1.2 * parts.step
    assert one.communication == 0 and one.parts == one.alone
    assert asdict(two)["kinds"] == ["weak"]
    assert {e["size_bytes"] for e in stored["exchanges"]} == {1024, 65536, 1048576, 16777216}
    assert stored["work"]["passes_forward"] == 3 and stored["work"]["norms"] == 0
    assert "| weak | ddp | fp32 | 2 | 8 + 8 |" in (out / "scaling.md").read_text()
    assert not (out / "runs").exists()

    assert tool("simulate", "--measured", out / "scaling.json", "--out", out) == 0, capsys.readouterr().err
    text = (out / "simulation.md").read_text()
    assert "Error on the 1 runs that were not fitted" in text and "runs of single processes" in text
    for name in ("scaling", "check", "simulation"):
        assert (out / f"{name}.png").stat().st_size > 5000


def test_runs_that_are_alone_at_the_same_time_share_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    jobs: list[spawn.Job] = []
    monkeypatch.setattr(spawn, "run_all", lambda started, timeout_s: jobs.extend(started))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    runs = ShortRuns(tmp_path / "run.yaml", [], False, tmp_path / "runs", tmp_path, 2, 1, 9.0)
    outs = [tmp_path / f"{index}" for index in range(3)]
    runs._train([1] * 3, outs, "fp32", 1, 0, {})
    runs._train([2], outs[:1], "fp32", 2, 0, {})
    assert [job.env.get("CUDA_VISIBLE_DEVICES") for job in jobs] == ["0", "1", "0", None]
