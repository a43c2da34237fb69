"""What holds for every method that the field compares with, from one table of their settings and passes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tests.support.siblings import LABELED_ALONE, SIBLINGS, method_name
from tests.unit.methods.test_every_method import part
from unimatch.engine import checkpoint
from unimatch.errors import ConfigError
from unimatch.losses import cross_entropy, masked_consistency
from unimatch.methods import METHODS, Method, Progress
from unimatch.taxonomy import IGNORE_INDEX

CLASSES = 3
EPOCH = 5  # steps of one
every_sibling = pytest.mark.parametrize("case", SIBLINGS)


def at(step: int) -> Progress:
    return Progress(step, total_steps=40, epoch=step // EPOCH)


LATE = at(20)


def build(case: str, net: nn.Module, **settings) -> Method:
    entry = METHODS[method_name(case)]
    config = entry.config(**{**SIBLINGS[case].settings, **settings})
    method = entry.cls(config, cross_entropy, masked_consistency, CLASSES)
    torch.manual_seed(1)
    method.begin(net)
    return method


def sharp(net: nn.Module) -> nn.Module:
    """The network with logits far enough apart that some of its pixels are certain."""
    with torch.no_grad():
        net.head.classifier.weight.mul_(4.0)
    return net


def trained(method: Method, net: nn.Module) -> list[nn.Parameter]:
    return [*net.parameters(), *method.parts.parameters()]


def run(method: Method, net: nn.Module, batch, steps: range, lr: float = 0.3) -> list[dict[str, Tensor]]:
    """Logs of some steps of training."""
    optimizer = torch.optim.SGD(trained(method, net), lr=lr, momentum=0.9)
    history = []
    for step in steps:
        torch.manual_seed(step)
        loss, logs = method.step(net, batch, at(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_update(net, at(step))
        history.append(logs)
    return history


def others(method: Method, net: nn.Module) -> dict[str, nn.Module]:
    """The networks beside `net`, by name of their file and of the part."""
    found: dict[str, nn.Module] = {}
    for name, module in checkpoint.modules(net, method).items():
        if isinstance(module, nn.ModuleDict):
            found |= {f"{name}.{own}": each for own, each in module.items()}
        elif module is not net:
            found[name] = module
    return {name: module for name, module in found.items() if hasattr(module, "passes")}


def test_every_method_is_here():
    first = {"supervised", "fixmatch", "mean_teacher", "unimatch", "unimatch_v2"}
    assert {method_name(case) for case in SIBLINGS} == set(METHODS.names()) - first


@every_sibling
def test_passes_and_modes_are_as_stated_and_gradients_reach_what_is_trained(case, make_net, make_batch):
    net = sharp(make_net(norm=True))
    method = build(case, net)
    batch = make_batch(needs=method.views)
    for module in others(method, net).values():
        module.passes.clear()
    loss, logs = method.step(net, batch, LATE)
    loss.backward()
    assert net.passes == SIBLINGS[case].net and net.training
    found = {name: module.passes for name, module in others(method, net).items() if module.passes}
    assert found == SIBLINGS[case].others
    own = set(map(id, trained(method, net)))
    for p in trained(method, net):
        assert p.grad is not None and p.grad.isfinite().all()
    assert all(p.grad.any() for p in net.parameters())
    for module in others(method, net).values():
        assert all(p.grad is None for p in module.parameters() if id(p) not in own)
    assert not any(value.requires_grad for value in logs.values())
    assert float(logs["loss"]) == loss.item()
    if case not in LABELED_ALONE:
        assert 0 < float(logs["kept"]) <= 1 and logs["pseudo_hist"].shape == (CLASSES,)


@every_sibling
def test_twenty_steps_reduce_the_loss(case, make_net, make_batch):
    net = make_net(norm=True)
    method = build(case, net)
    history = run(method, net, make_batch(needs=method.views), range(20))
    assert float(history[-1]["loss_x"]) < 0.85 * float(history[0]["loss_x"])


@every_sibling
def test_what_a_checkpoint_holds_continues_to_the_last_bit(case, make_net, make_batch, tmp_path):
    net = make_net(norm=True)
    method = build(case, net)
    batch = make_batch(needs=method.views)
    run(method, net, batch, range(7))
    saved = {name: module.state_dict() for name, module in checkpoint.modules(net, method).items()}
    torch.save({"modules": saved, "method": method.state_dict()}, tmp_path / "state.pt")
    expected = run(method, net, batch, range(7, 11))

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = make_net(norm=True, seed=3)
    again = build(case, other)
    for name, module in checkpoint.modules(other, again).items():
        module.load_state_dict(state["modules"][name])
    again.load_state_dict(state["method"])
    found = run(again, other, batch, range(7, 11))
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("case", [case for case in SIBLINGS if case not in LABELED_ALONE])
def test_the_burn_in_is_the_baseline_and_reaches_every_part(case, make_net, make_batch):
    net = make_net(norm=True)
    method = build(case, net, burn_in=3)
    batch = make_batch(needs=method.views)
    loss, logs = method.step(net, batch, at(2))
    loss.backward()
    assert set(logs) == {"loss", "loss_x"} and net.passes == [(True, True, 4)]
    for p in method.parts.parameters():
        assert p.grad is not None and not p.grad.any()
    _, logs = method.step(net, batch, LATE)
    assert len(logs) > 2
    with pytest.raises(ConfigError, match="burn_in must be at least 0"):
        METHODS[method_name(case)].config(burn_in=-1)


@every_sibling
def test_shares_make_the_mean_over_parts_the_value_of_the_whole(case, make_net, make_batch):
    """Where the loss depends on how a batch is cut, the class says why."""
    net = make_net()
    method = build(case, net)
    batch = make_batch(needs=method.views)
    batch.labeled.label[0, :5] = IGNORE_INDEX  # parts of very different counts
    u = batch.unlabeled
    counts = [int((batch.labeled.label != IGNORE_INDEX).sum())]
    counts += [int(mask.sum()) for mask in (u.valid, *u.mixed_valid)]
    # Statistics of a batch are synchronised elsewhere.
    for module in list(method.parts.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    parts = [part(batch, keep, counts, 2) for keep in (slice(0, 2), slice(2, 4))]
    # Both halves at once, as two processes are; what one of them gathers is both's.
    method.group = Together(method, net, parts)
    halves = method.group.losses()
    method.group = type(build(case, make_net()).group)()
    torch.manual_seed(0)
    whole = method.step(net, batch, LATE)[0].detach()
    same = torch.allclose(sum(halves) / 2, whole, rtol=1e-5, atol=1e-6)
    assert same == (method.divided == ""), (halves, whole)


class Together:
    """A group of two processes: each asks in the order of the other, so the answers of a first round, which
    are wrong only where an earlier answer was, are right after as many rounds as there are questions.
    """

    def __init__(self, method: Method, net: nn.Module, parts: list) -> None:
        self.method, self.net, self.parts = method, net, parts
        self.asked: list[list[Tensor]] = [[], []]
        self.known: list[list[Tensor]] = [[], []]
        self.rank = 0

    def losses(self) -> list[Tensor]:
        state = copy.deepcopy(self.method.state_dict())
        for _ in range(4):
            self.known, self.asked = self.asked, [[], []]
            found = []
            for rank, batch in enumerate(self.parts):
                self.rank = rank
                self.method.load_state_dict(state)
                torch.manual_seed(0)
                found.append(self.method.step(self.net, batch, LATE)[0].detach())
        self.method.load_state_dict(state)
        return found

    def _both(self, values: Tensor) -> list[Tensor]:
        values = values.detach()
        self.asked[self.rank].append(values)
        number = len(self.asked[self.rank]) - 1
        other = self.known[1 - self.rank]
        both = [values, other[number] if number < len(other) else values]
        return both[:: 1 if self.rank == 0 else -1]

    def mean(self, values: Tensor) -> Tensor:
        return sum(self._both(values)) / 2

    def gather(self, values: Tensor) -> Tensor:
        return torch.cat(self._both(values))


@every_sibling
def test_nothing_to_learn_from_is_finite_and_moves_nothing(case, make_net, make_batch):
    net = make_net(norm=True)
    method = build(case, net)
    batch = make_batch(needs=method.views)
    u = batch.unlabeled
    batch.labeled.label.fill_(IGNORE_INDEX)
    for mask in (u.valid, u.partner.valid, *u.mixed_valid):
        mask.fill_(False)
    loss, logs = method.step(net, batch, LATE)
    loss.backward()
    assert all(value.isfinite().all() for value in logs.values())
    if case != "cps, no CutMix":  # which learns from every pixel of labelled images
        assert loss.item() == 0.0
        assert not any(p.grad.any() for p in trained(method, net) if p.grad is not None)


@every_sibling
def test_autocast_does_not_lose_a_gradient(case, make_net, make_batch):
    net = make_net()
    method = build(case, net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = method.step(net, make_batch(needs=method.views), LATE)
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_a_divided_method_says_so_in_a_sentence():
    for name in METHODS.names():
        assert METHODS[name].cls.divided == "" or len(METHODS[name].cls.divided.split()) > 4


@every_sibling
def test_evaluation_reads_networks_of_the_kind_that_is_trained(case, make_net):
    net = make_net()
    method = build(case, net)
    for each in method.eval_nets(net).values():
        assert each.state_dict().keys() == net.state_dict().keys()
    assert not set(method.companions()) & {"model", *method.eval_nets(net)}
    assert dataclasses.is_dataclass(method.config)
