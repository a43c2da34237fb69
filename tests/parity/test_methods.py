"""Every loss term of the example against the definitions in numpy: pixel by pixel, in float64."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = runpy.run_path(str(Path(__file__).with_name("methods_example.py")))
PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
IGNORE = 255
DROPOUT = 0.5
TAUGHT = ("mean_teacher", "unimatch_v2")


class SlowNet:
    """The network of the example, with batch-norm statistics that move as a training net's do."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.weights = {
            name[4:]: value.astype(float) for name, value in arrays.items() if name.startswith("net.")
        }

    def conv(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        pad = weight.shape[-1] // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        side = weight.shape[-1]
        rows, columns = range(0, x.shape[2] - side + 1, stride), range(0, x.shape[3] - side + 1, stride)
        out = np.empty((len(x), len(weight), len(rows), len(columns)))
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                patch = x[:, None, :, top : top + side, left : left + side]
                out[:, :, i, j] = (patch * weight).sum((2, 3, 4)) + bias
        return out

    def norm(self, x: np.ndarray, name: str, train: bool) -> np.ndarray:
        weights = self.weights
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        if train:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        x = (x - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
        return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]

    @staticmethod
    def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
        """Bilinear with the corners of both grids in the same places."""
        out = np.empty((*x.shape[:2], height, width))
        for i in range(height):
            y = i * (x.shape[2] - 1) / (height - 1)
            top = min(int(y), x.shape[2] - 2)
            for j in range(width):
                z = j * (x.shape[3] - 1) / (width - 1)
                left = min(int(z), x.shape[3] - 2)
                upper = x[:, :, top, left] * (1 - z + left) + x[:, :, top, left + 1] * (z - left)
                lower = x[:, :, top + 1, left] * (1 - z + left) + x[:, :, top + 1, left + 1] * (z - left)
                out[:, :, i, j] = upper * (1 - y + top) + lower * (y - top)
        return out

    def features(self, image: np.ndarray, train: bool) -> tuple[np.ndarray, np.ndarray]:
        low = np.maximum(self.norm(self.conv(image, "low", 1), "low_norm", train), 0)
        return low, np.maximum(self.norm(self.conv(low, "high", 2), "high_norm", train), 0)

    def decode(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return self.conv(np.concatenate([low, self.resize(high, *low.shape[2:])], 1), "classifier", 1)

    def __call__(self, image: np.ndarray, train: bool) -> np.ndarray:
        return self.decode(*self.features(image, train))


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


def pixels(labels: np.ndarray) -> list[tuple[int, ...]]:
    return list(np.ndindex(labels.shape))


def slow_supervised(logits: np.ndarray, labels: np.ndarray, ohem: tuple[float, int] | None) -> float:
    probability = softmax(logits)
    true = [probability[b, labels[b, i, j], i, j] for b, i, j in pixels(labels) if labels[b, i, j] != IGNORE]
    if ohem is not None and len(true) >= ohem[1]:
        limit = max(ohem[0], sorted(true)[ohem[1] - 1])
        true = [p for p in true if p <= limit]
    return sum(-math.log(p) for p in true) / len(true)


def slow_consistency(logits, labels, conf, valid, threshold: float) -> float:
    probability, total, count = softmax(logits), 0.0, 0
    for b, i, j in pixels(labels):
        if valid[b, i, j]:
            count += 1
            if conf[b, i, j] >= threshold:
                total -= math.log(probability[b, labels[b, i, j], i, j])
    return total / count


def slow_mix(image: np.ndarray, partner: np.ndarray, box: np.ndarray) -> np.ndarray:
    mixed = image.copy()
    for b, i, j in pixels(box):
        if box[b, i, j]:
            mixed[b, ..., i, j] = partner[b, ..., i, j]
    return mixed


def slow_given(in_batch: bool) -> dict[str, np.ndarray]:
    """The example's arrays in float64."""
    given = {
        key: value if value.dtype == bool or key == "y" else value.astype(float)
        for key, value in EXAMPLE["arrays"]().items()
    }
    if in_batch:
        for key in ("weak", "strong1", "strong2", "valid"):
            given[f"partner_{key}"] = given[key][::-1]  # of two images, the neighbour is the other one
    return given


def slow_taught(
    name: str, threshold: float, dropout: bool, ohem, in_batch: bool, student=None
) -> dict[str, float]:
    """The terms of a method with a teacher, which before the first step has the student's first weights."""
    given = slow_given(in_batch)
    teacher = SlowNet(given)
    student = student or SlowNet(given)
    weak, partner = (softmax(teacher(given[key], train=False)) for key in ("weak", "partner_weak"))
    conf, labels = weak.max(1), weak.argmax(1)
    views = (1,) if name == "mean_teacher" else (1, 2)
    strong = [slow_mix(given[f"strong{v}"], given[f"partner_strong{v}"], given[f"box{v}"]) for v in views]
    low, high = student.features(np.concatenate(strong), train=True)
    if dropout:
        low, high = (
            level * given[f"factor_{key}"][:, :, None, None] for key, level in (("low", low), ("high", high))
        )
    terms = {"loss_x": slow_supervised(student(given["x"], train=True), given["y"], ohem)}
    for v, logits in zip(views, np.split(student.decode(low, high), len(views)), strict=True):
        box = given[f"box{v}"]
        terms["loss_s" if len(views) == 1 else f"loss_s{v}"] = slow_consistency(
            logits,
            slow_mix(labels, partner.argmax(1), box),
            slow_mix(conf, partner.max(1), box),
            slow_mix(given["valid"], given["partner_valid"], box),
            threshold,
        )
    strong_loss = sum(value for key, value in terms.items() if key != "loss_x") / len(views)
    terms["loss"] = (terms["loss_x"] + strong_loss) / 2
    return terms | slow_kept(labels, conf, given["valid"], threshold, weak.shape[1])


def slow_kept(labels, conf, valid, threshold: float, classes: int) -> dict[str, float]:
    chosen = [int(labels[p]) for p in pixels(labels) if valid[p] and conf[p] >= threshold]
    found = {"kept": len(chosen) / int(valid.sum())}
    return found | {f"pseudo_hist {k}": chosen.count(k) / len(chosen) for k in range(classes)}


def slow_terms(name: str, threshold: float, dropout: float, ohem, in_batch: bool) -> dict[str, float]:
    """The loss terms of one step by the text of the papers, for two labelled and two unlabelled images."""
    given = slow_given(in_batch)
    net = SlowNet(given)
    if name == "supervised":
        loss = slow_supervised(net(given["x"], train=True), given["y"], ohem)
        return {"loss": loss, "loss_x": loss}
    partner = softmax(net(given["partner_weak"], train=False))
    low, high = net.features(np.concatenate([given["x"], given["weak"]]), train=True)
    logits_x, logits_w = np.split(net.decode(low, high), 2)
    weak = softmax(logits_w)
    if in_batch:
        partner = weak[::-1]
    conf, labels = weak.max(1), weak.argmax(1)
    partner_conf, partner_labels = partner.max(1), partner.argmax(1)

    views = (1,) if name == "fixmatch" else (1, 2)
    strong = np.concatenate(
        [slow_mix(given[f"strong{v}"], given[f"partner_strong{v}"], given[f"box{v}"]) for v in views]
    )
    strong_logits = np.split(net(strong, train=True), len(views))
    terms = {"loss_x": slow_supervised(logits_x, given["y"], ohem)}
    for v, logits in zip(views, strong_logits, strict=True):
        box = given[f"box{v}"]
        terms["loss_s" if name == "fixmatch" else f"loss_s{v}"] = slow_consistency(
            logits,
            slow_mix(labels, partner_labels, box),
            slow_mix(conf, partner_conf, box),
            slow_mix(given["valid"], given["partner_valid"], box),
            threshold,
        )
    if name == "fixmatch":
        terms["loss"] = (terms["loss_x"] + terms["loss_s"]) / 2
    else:
        kept = [given["kept_low"], given["kept_high"]]
        if dropout:
            low, high = (
                level * mask[:, :, None, None] / (1 - dropout)
                for level, mask in zip((low, high), kept, strict=True)
            )
        perturbed = np.split(net.decode(low, high), 2)[1]
        terms["loss_fp"] = slow_consistency(perturbed, labels, conf, given["valid"], threshold)
        terms["loss"] = (
            terms["loss_x"] + 0.25 * terms["loss_s1"] + 0.25 * terms["loss_s2"] + 0.5 * terms["loss_fp"]
        ) / 2
    return terms | slow_kept(labels, conf, given["valid"], threshold, weak.shape[1])


def flat_terms(case: str) -> dict[str, float]:
    flat = {}
    for name, value in EXAMPLE["terms"](case).items():
        values = value.flatten().tolist()
        flat |= {name: values[0]} if value.ndim == 0 else {f"{name} {k}": v for k, v in enumerate(values)}
    return flat


@pytest.mark.parametrize("case", list(EXAMPLE["CASES"]))
def test_every_term_follows_the_definitions(case):
    name, settings, loss, partner = EXAMPLE["CASES"][case]
    ohem = (loss.ohem_threshold, 2 * loss.ohem_min_kept_per_image) if loss.name == "ohem" else None
    threshold, in_batch = settings.get("threshold", 0.95), partner == "batch"
    if name in TAUGHT:
        dropped = name == "unimatch_v2" and settings.get("complementary_dropout", True)
        expected = slow_taught(name, threshold, dropped, ohem, in_batch)
    else:
        expected = slow_terms(name, threshold, settings.get("feature_dropout", DROPOUT), ohem, in_batch)
    found = flat_terms(case)
    assert set(found) == set(expected)
    for term, value in expected.items():
        assert found[term] == pytest.approx(value, rel=1e-6, abs=1e-6), term


# Of a weight of each layer: (name, place).
NUDGED = [("classifier.weight", (2, 7, 0, 0)), ("high.weight", (3, 1, 0, 2)), ("low_norm.bias", (2,))]


@pytest.mark.parametrize(("name", "place"), NUDGED)
def test_the_gradient_of_v2_is_that_of_the_definitions(name: str, place: tuple[int, ...]):
    """By differences of the slow loss, in which the student's weights move and the teacher's stay."""
    net, method, (loss, _) = EXAMPLE["first_step"]("unimatch_v2")
    loss.backward()
    losses = []
    for change in (-1e-5, 1e-5):
        student = SlowNet(EXAMPLE["arrays"]())
        student.weights[name] = student.weights[name].copy()
        student.weights[name][place] += change
        losses.append(slow_taught("unimatch_v2", 0.6, True, None, True, student)["loss"])
    expected = (losses[1] - losses[0]) / 2e-5
    assert abs(expected) > 1e-3
    assert float(net.get_parameter(name).grad[place]) == pytest.approx(expected, rel=1e-3)
    assert all(parameter.grad is None for parameter in method.teacher.net.parameters())


def words_and_numbers(line: str) -> tuple[list[str], list[float]]:
    words = line.split()
    return [word for word in words if "." not in word], [float(word) for word in words if "." in word]


def test_the_page_shows_what_the_example_prints(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["methods_example.py"])
    EXAMPLE["main"]()
    printed = capsys.readouterr().out.strip().splitlines()
    shown = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    lines = shown.group(1).strip().splitlines()
    assert len(lines) == len(printed)
    for line, output in zip(lines, printed, strict=True):
        (words, numbers), (words_out, numbers_out) = words_and_numbers(line), words_and_numbers(output)
        assert words == words_out and numbers == pytest.approx(numbers_out, abs=3e-6)


def test_saved_arrays_are_all_that_a_comparison_needs(tmp_path, monkeypatch, capsys):
    file = tmp_path / "example.npz"
    monkeypatch.setattr("sys.argv", ["methods_example.py", "--save", str(file)])
    EXAMPLE["main"]()
    assert str(file) in capsys.readouterr().out
    saved = np.load(file)
    assert set(saved.files) == set(EXAMPLE["arrays"]())
    assert {"x", "y", "weak", "strong1", "strong2", "box1", "partner_weak", "kept_low"} <= set(saved.files)
