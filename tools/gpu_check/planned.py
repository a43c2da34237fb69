"""What `unimatch plan` counts for the cases of the speed table, by the functions that it counts with."""

from __future__ import annotations

from dataclasses import replace

import torch

from unimatch.engine.build import build_method, build_task
from unimatch.scaling import cost
from unimatch.scaling.cost import Activations
from unimatch.scaling.footprint import blank_micro, network_of, shape_only, step_bytes

from .cases import GOALS, Case, cases
from .results import Teller
from .workload import Mode, read_config, taxonomy

BF16 = Mode("bf16", precision="bf16")


def run(teller: Teller) -> None:
    found = cases(teller.rehearsal)
    others = [] if teller.rehearsal else [key for key in found if key not in GOALS]
    for key in [*GOALS, *others]:
        _tell(teller, found[key])


def _tell(teller: Teller, case: Case) -> None:
    """Memory of a bf16 step with CPU views, and the most samples on the line through two batches."""
    torch.set_num_threads(1)  # beside what is timed
    config = read_config(case, BF16)
    net = shape_only(config.model, case.classes, dates=2 if case.task == "change" else 1)
    task = build_task(config, taxonomy(case), net)
    method = build_method(config, task, net)
    doubled = replace(case, labeled=2 * case.labeled, unlabeled=2 * case.unlabeled)
    batches = [
        blank_micro(task, method, case.crop, case.crop, one.labeled, one.unlabeled, has_accelerator=True)
        for one in (case, doubled)
    ]
    (few, many), _ = step_bytes(net, method, task, batches, torch.bfloat16)
    copies = sum(other is not net for other in method.eval_nets(net).values())
    moments = 2 if config.optimizer.name == "adamw" else 1
    state = cost.memory(network_of(net, moments, copies), 0, 1).state
    line = Activations.through(((case.images, float(few)), (2 * case.images, float(many))))
    room = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 16 * 2**30
    teller.tell(
        case.name,
        peak_gib=round((state + few) / 2**30, 3),
        state_gib=round(state / 2**30, 3),
        gib_a_sample=round(line.per_sample / 2**30, 4),
        most_samples=line.most(room - state) // 2 * 2,
    )
