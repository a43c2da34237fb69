"""Released UniMatch V2 checkpoints: names and shapes of every size, student and moving average, both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from unimatch import export_weights, import_weights
from unimatch.config import from_text
from unimatch.engine import checkpoint
from unimatch.errors import UserError
from unimatch.models import released
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.segmentor import ModelConfig, build_segmentor

State = dict[str, Tensor]
# Of each encoder: width, blocks, width inside a block's MLP; the head's width, and that of its levels.
SIZES = {
    "small": (384, 12, 1536, 64, (48, 96, 192, 384)),
    "base": (768, 12, 3072, 128, (96, 192, 384, 768)),
    "large": (1024, 24, 4096, 256, (256, 512, 1024, 1024)),
    "giant": (1536, 40, 4096, 384, (1536, 1536, 1536, 1536)),
}


def published(size: str, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released network's tensors, written out."""
    width, blocks, inner, head, levels = SIZES[size]
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 37 * 37 + 1, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    gated = {"mlp.w12": (2 * inner, width), "mlp.w3": (width, inner)}
    plain = {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for number in range(blocks):
        block = f"blocks.{number}"
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"{block}.{name}"] = (width,)
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        for name, shape in (linear | (gated if size == "giant" else plain)).items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    shapes = {f"backbone.{name}": shape for name, shape in shapes.items()}

    def conv(name: str, kernel: tuple[int, ...], outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = kernel
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    for number, level in enumerate(levels):
        conv(f"head.projects.{number}", (level, width, 1, 1), level)
        conv(f"head.scratch.layer{number + 1}_rn", (head, level, 3, 3), head, bias=False)
        place = f"head.scratch.refinenet{number + 1}"
        for unit in ("resConfUnit1", "resConfUnit2"):
            for name in ("conv1", "conv2"):
                conv(f"{place}.{unit}.{name}", (head, head, 3, 3), head)
        conv(f"{place}.out_conv", (head, head, 1, 1), head)
    conv("head.resize_layers.0", (levels[0], levels[0], 4, 4), levels[0])
    conv("head.resize_layers.1", (levels[1], levels[1], 2, 2), levels[1])
    conv("head.resize_layers.3", (levels[3], levels[3], 3, 3), levels[3])
    conv("head.scratch.output_conv.0", (head, head, 3, 3), head)
    conv("head.scratch.output_conv.2", (classes, head, 1, 1), classes)
    return shapes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dates", [1, 2])
def test_names_and_shapes_are_the_published_ones(size: str, dates: int):
    """Without memory: the giant has 1.1 thousand million parameters."""
    name = f"vit_{size}_patch14_dinov2"
    with torch.device("meta"):
        config = from_text(f"encoder: {{name: {name}, weights: none}}\nhead: {{name: dpt}}", ModelConfig)
        net = build_segmentor(config, 5, dates)
        theirs = {key: torch.empty(shape) for key, shape in published(size, 5).items()}
    found = released.to_released(net.state_dict(), name, "dpt")
    assert {key: tuple(value.shape) for key, value in found.items()} == published(size, 5)
    assert released.is_released(theirs) and released.contents(theirs) == released.Contents(name, "dpt", 5, 3)
    ours = released.from_released(theirs, name, "dpt")
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in net.state_dict().items()
    }
    net.load_state_dict(ours, assign=True)


# Files, of a narrow encoder, which is taken for the small one

SETTINGS = {
    "natural": ("base/pascal_v2", "pascal"),
    "change": ("base/levir_v2", "levir"),
}
HEAD = "model.head={name: dpt, channels: 8, levels_channels: [4, 8, 8, 8]}"
NARROW = ("model.encoder.name=vit_small_patch14_dinov2", "model.encoder.weights=none", HEAD)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timm.create_model
    small = {"embed_dim": 48, "num_heads": 4, "img_size": 70}
    monkeypatch.setattr(timm, "create_model", lambda name, **options: real(name, **{**small, **options}))
    monkeypatch.setitem(released.DINOV2, 48, "vit_small_patch14_dinov2")


def states(task: str = "natural") -> tuple[State, State]:
    """A student and a teacher under our names, in which no two tensors are alike."""
    text = f"encoder: {{name: vit_small_patch14_dinov2, weights: none}}\n{HEAD.removeprefix('model.')}"
    config = from_text(text.replace("head=", "head: "), ModelConfig)
    classes, dates = (21, 1) if task == "natural" else (2, 2)
    net = build_segmentor(config, classes, dates)
    draws = torch.Generator().manual_seed(3)
    student, teacher = (
        {key: torch.randn(value.shape, generator=draws) for key, value in net.state_dict().items()}
        for _ in range(2)
    )
    return student, teacher


def theirs(state: State) -> State:
    """With something in what nothing reads."""
    found = released.to_released(state, "vit_small_patch14_dinov2", "dpt")
    idle = [key for key in found if key.startswith(released.IDLE) or key.endswith("mask_token")]
    assert len(idle) == 5 and not any(found[key].any() for key in idle)
    return {f"module.{key}": value + 1 if key in idle else value for key, value in found.items()}


def save(path: Path, **networks: State) -> Path:
    """As the released training scripts write it."""
    wrapped = {name: theirs(state) for name, state in networks.items()}
    torch.save({**wrapped, "optimizer": {"state": {}}, "epoch": 59, "previous_best": np.float64(86.3)}, path)
    return path


def imported(file: Path | str, out: Path, task: str = "natural", *settings: str) -> Path:
    config, recipe = SETTINGS[task]
    changes = [part for one in (*NARROW, *settings) for part in ("--set", one)]
    import_weights.main([str(file), "--config", config, *changes, "--out", str(out), "--classes", recipe])
    return out / "last"


def same(found: State, wanted: State) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("task", SETTINGS)
def test_student_and_teacher_are_imported_and_exported(narrow: None, task: str, tmp_path: Path, capsys):
    student, teacher = states(task)
    file = save(tmp_path / "best.pth", model=student, model_ema=teacher)
    last = imported(file, tmp_path / "run", task)
    told = capsys.readouterr().out
    assert f"model is {file}#model (sha256" in told and f"ema is {file}#model_ema (sha256" in told
    assert same(checkpoint.load_network(last, "model"), student)
    assert same(checkpoint.load_network(last, "ema"), teacher)

    export_weights.main([str(tmp_path / "run"), "--out", str(tmp_path / "back.pth")])
    before, after = (torch.load(path, weights_only=False) for path in (file, tmp_path / "back.pth"))
    assert after.keys() == {"model", "model_ema"}
    for name, content in after.items():
        assert content.keys() == before[name].keys()
        idle = {key for key in content if not torch.equal(content[key], before[name][key])}
        assert len(idle) == 5 and not any(content[key].any() for key in idle)
    export_weights.main([str(tmp_path / "run"), "--network", "model", "--out", str(tmp_path / "one.pth")])
    one = torch.load(tmp_path / "one.pth")
    assert one.keys() == {"model"} and same(one["model"], after["model"])


def test_a_student_alone_is_no_teacher_unless_that_is_said(narrow: None, tmp_path: Path):
    student, _ = states()
    file = save(tmp_path / "latest.pth", model=student)
    with pytest.raises(UserError, match="holds a student alone .*unimatch_v2 is evaluated by its teacher"):
        imported(file, tmp_path / "run")
    last = imported(f"{file}#model", tmp_path / "both")
    assert all(same(checkpoint.load_network(last, name), student) for name in ("model", "ema"))
    last = imported(file, tmp_path / "plain", "natural", "method={name: supervised}")
    assert same(checkpoint.load_network(last, "model"), student)
    with pytest.raises(UserError, match="it holds no model_ema, only model: leave out #model_ema"):
        imported(f"{file}#model_ema", tmp_path / "run")


def test_of_two_networks_one_is_named(narrow: None, tmp_path: Path):
    student, teacher = states()
    file = save(tmp_path / "best.pth", model=student, model_ema=teacher)
    text = f"encoder: {{name: vit_small_patch14_dinov2, weights: none}}\nweights: file:{file}%s\nhead: "
    text += HEAD.removeprefix("model.head=")
    told = rf"holds two networks, a student \(model\) .*such as file:{file}#model_ema; the published figures"
    with pytest.raises(UserError, match=told):
        build_segmentor(from_text(text % "", ModelConfig), 21)
    with pytest.raises(UserError, match=told):
        build_encoder(EncoderConfig("vit_small_patch14_dinov2", f"file:{file}"))
    with pytest.raises(UserError, match=told):
        imported(file, tmp_path / "run", "natural", "method={name: supervised}")
    for name, wanted in (("model", student), ("model_ema", teacher)):
        net = build_segmentor(from_text(text % f"'#{name}'".strip("'"), ModelConfig), 21)
        assert same(net.state_dict(), wanted) and f"#{name} (sha256" in net.encoder.loaded
        encoder = build_encoder(EncoderConfig("vit_small_patch14_dinov2", f"file:{file}#{name}"))
        inside = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
        assert same(inside, {key: value for key, value in wanted.items() if key.startswith("encoder.")})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("model.encoder.name=vit_base_patch14_dinov2",), "encoder vit_small_.* describes encoder vit_base_"),
        (("model.head.channels=16",), "wrong tensors .*of another shape: head.thin.0.weight"),
    ],
)
def test_another_network_is_refused(narrow: None, settings: tuple[str, ...], told: str, tmp_path: Path):
    student, teacher = states()
    with pytest.raises(UserError, match=told):
        imported(
            save(tmp_path / "best.pth", model=student, model_ema=teacher),
            tmp_path / "run",
            "natural",
            *settings,
        )


def test_a_network_that_was_not_released_has_no_such_names(narrow: None, tmp_path: Path):
    student, teacher = states()
    imported(save(tmp_path / "best.pth", model=student, model_ema=teacher), tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("vit_small_patch14_dinov2", "vit_base_patch14_dinov2"))
    with pytest.raises(
        UserError, match="no released network with encoder vit_base_.*patch14_dinov2 with dpt"
    ):
        export_weights.main([str(tmp_path / "run"), "--out", str(tmp_path / "back.pth")])
