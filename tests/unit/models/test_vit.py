"""Vision transformers and the DPT head against a slow literal version, and what files of weights become."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from unimatch.errors import ConfigError, UserError
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.heads.dpt import DPT, WIDTHS, DPTConfig
from unimatch.models.recompute import recompute_activations
from unimatch.models.segmentor import ModelConfig, Segmentor, build_segmentor
from unimatch.models.vit import ViTEncoder, released_positions, taken_blocks
from unimatch.models.vit_names import timm_names

State = dict[str, Tensor]
SMALL = "vit_small_patch14_dinov2"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model of timm that is created is narrow and of a small training size; nothing else changes."""
    real = timm.create_model

    def create(name: str, **options: object) -> torch.nn.Module:
        size = 16 * 5 if "patch16" in name else 14 * 5
        return real(name, **{"embed_dim": 48, "num_heads": 4, "depth": 12, "img_size": size, **options})

    monkeypatch.setattr(timm, "create_model", create)


def vit(name: str = SMALL, **options: object) -> ViTEncoder:
    """An encoder with random weights everywhere, also where timm begins with zeros and ones."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name, "none", **options)).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert isinstance(encoder, ViTEncoder)
    return encoder.eval()


# A literal vision transformer, in the structure of DINOv2, one image at a time


def literal_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]


def literal_linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def literal_block(x: Tensor, state: State, name: str, heads: int) -> Tensor:
    inner = {
        key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")
    }
    y = literal_norm(x, inner, "norm1")
    queries, keys, values = literal_linear(y, inner, "attn.qkv").chunk(3, dim=-1)
    width = x.shape[-1] // heads
    out = []
    for head in range(heads):
        q, k, v = (part[:, head * width : (head + 1) * width] for part in (queries, keys, values))
        out.append((q @ k.T / math.sqrt(width)).softmax(-1) @ v)
    x = x + literal_linear(torch.cat(out, -1), inner, "attn.proj") * inner["ls1.gamma"]
    y = literal_linear(literal_norm(x, inner, "norm2"), inner, "mlp.fc1")
    y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    return x + literal_linear(y, inner, "mlp.fc2") * inner["ls2.gamma"]


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def literal_resized(field: Tensor, size: tuple[int, int]) -> Tensor:
    """[H, W, C] -> [h, w, C]: bicubic, sampled by (size + 0.1) / grid, borders repeated."""
    old = field.shape[:2]
    out = torch.zeros(*size, field.shape[2], dtype=field.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            places = []
            for place, new, side in ((row, size[0], old[0]), (column, size[1], old[1])):
                at = (place + 0.5) * side / (new + 0.1) - 0.5
                low = math.floor(at)
                places.append([(min(max(low + d, 0), side - 1), cubic(at - low - d)) for d in (-1, 0, 1, 2)])
            for y, weight_y in places[0]:
                for x, weight_x in places[1]:
                    out[row, column] += weight_y * weight_x * field[y, x]
    return out


def literal_features(state: State, image: Tensor, patch: int, heads: int) -> list[Tensor]:
    """image [C, H, W] -> four [C, h, w]."""
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    tokens = []
    for row in range(rows):
        for column in range(columns):
            square = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append((kernel * square).sum((1, 2, 3)) + bias)
    position = state["pos_embed"][0]
    prefix, side = position[:1], math.isqrt(len(position) - 1)
    field = position[1:].reshape(side, side, -1)
    if (rows, columns) != (side, side):
        field = literal_resized(field, (rows, columns))
    x = torch.cat([state["cls_token"][0] + prefix, torch.stack(tokens) + field.reshape(rows * columns, -1)])
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    features = []
    for number in range(depth):
        x = literal_block(x, state, f"blocks.{number}", heads)
        if number in (2, 5, 8, 11):
            features.append(literal_norm(x, state, "norm")[1:].T.reshape(-1, rows, columns))
    return features


def literal_dpt(state: State, features: list[Tensor]) -> Tensor:
    """Four [1, C, h, w] -> logits at 8 times their sides, in the order of the published head."""

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def unit(x: Tensor, name: str) -> Tensor:
        inner = conv(F.relu(x), f"{name}.conv1", padding=1)
        return x + conv(F.relu(inner), f"{name}.conv2", padding=1)

    levels = [conv(feature, f"projects.{number}") for number, feature in enumerate(features)]
    levels[0] = F.conv_transpose2d(levels[0], state["resizes.0.weight"], state["resizes.0.bias"], stride=4)
    levels[1] = F.conv_transpose2d(levels[1], state["resizes.1.weight"], state["resizes.1.bias"], stride=2)
    levels[3] = conv(levels[3], "resizes.3", stride=2, padding=1)
    levels = [conv(level, f"thin.{number}", padding=1) for number, level in enumerate(levels)]

    def enlarged(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
        return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)

    path = conv(enlarged(unit(levels[3], "fuse.3.residual"), levels[2].shape[2:]), "fuse.3.out")
    path = path + unit(levels[2], "fuse.2.skip")
    path = conv(enlarged(unit(path, "fuse.2.residual"), levels[1].shape[2:]), "fuse.2.out")
    path = path + unit(levels[1], "fuse.1.skip")
    path = conv(enlarged(unit(path, "fuse.1.residual"), levels[0].shape[2:]), "fuse.1.out")
    path = path + unit(levels[0], "fuse.0.skip")
    height, width = levels[0].shape[2:]
    path = conv(enlarged(unit(path, "fuse.0.residual"), (2 * height, 2 * width)), "fuse.0.out")
    return conv(F.relu(conv(path, "classifier.0", padding=1)), "classifier.2")


# At the training size, at another one, and at another shape; a registered size of 5 x 5 patches
@pytest.mark.parametrize("size", [(70, 70), (42, 98), (56, 28)])
def test_the_whole_network_is_the_literal_one(narrow: None, size: tuple[int, int]):
    encoder = vit()
    torch.manual_seed(1)
    head = DPT(DPTConfig(12, (6, 8, 10, 12)), encoder.channels, encoder.strides, 3).double()
    net = Segmentor(encoder, head).eval()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    features = encoder(image)
    logits = net(image)["logits"]
    state = {key.removeprefix("net."): value for key, value in encoder.state_dict().items()}
    for index, one in enumerate(image):
        expected = literal_features(state, one, 14, heads=4)
        for found, wanted in zip(features, expected, strict=True):
            torch.testing.assert_close(found[index], wanted, rtol=0, atol=1e-10)
        wanted = literal_dpt(head.state_dict(), [feature[None] for feature in expected])
        assert wanted.shape[2:] == (8 * size[0] // 14, 8 * size[1] // 14)
        wanted = F.interpolate(wanted, size, mode="bilinear", align_corners=True)
        torch.testing.assert_close(logits[index : index + 1], wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [SMALL, "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"])
def test_at_the_training_size_timms_own_pass_gives_the_same(narrow: None, name: str):
    encoder = vit(name)
    image = torch.randn(1, 3, 5 * encoder.patch, 5 * encoder.patch, dtype=torch.float64)
    ours, encoder.positions = encoder(image), "timm"
    for found, wanted in zip(ours, encoder(image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    image = torch.randn(1, 3, 3 * encoder.patch, 7 * encoder.patch, dtype=torch.float64)
    theirs, encoder.positions = encoder(image), "released"
    assert (encoder(image)[3] - theirs[3]).abs().max() > 1e-3, "other sizes differ, as documented"


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_rotary_positions_take_any_size(narrow: None, name: str):
    encoder = vit(name)
    image = torch.randn(1, 3, 3 * encoder.patch, 6 * encoder.patch, dtype=torch.float64)
    features = encoder(image)
    assert [tuple(feature.shape) for feature in features] == [(1, 48, 3, 6)] * 4
    assert all(feature.requires_grad for feature in features)


def test_which_blocks_are_taken():
    assert taken_blocks(12) == [2, 5, 8, 11]
    assert taken_blocks(24) == [4, 11, 17, 23]
    assert taken_blocks(40) == [9, 19, 29, 39]


def test_positions_of_the_grid_itself_are_untouched():
    position = torch.randn(1, 12, 5)
    assert released_positions(position, (3, 4), (3, 4)) is position


@pytest.mark.parametrize(("size", "parameters"), [("small", 24.8), ("base", 97.5)])
def test_parameters_are_those_of_the_released_logs(size: str, parameters: float):
    with torch.device("meta"):
        encoder = EncoderConfig(f"vit_{size}_patch14_dinov2", "none")
        net = build_segmentor(ModelConfig(encoder, section()), 21)
    count = sum(parameter.numel() for parameter in net.parameters())
    # The unused unit of the coarsest level, which is left out, and the mask token are in theirs.
    unused = 2 * (9 * WIDTHS[net.encoder.channels[0]][0] ** 2 + WIDTHS[net.encoder.channels[0]][0])
    assert round((count + unused + net.encoder.channels[0]) / 1e6, 1) == parameters


def section(name: str = "dpt"):
    from unimatch.config import Section
    from unimatch.models.heads import HEADS

    return Section(name, HEADS[name].config())


def test_every_parameter_gets_a_gradient(narrow: None):
    """None must be waited for by DDP in vain."""
    encoder = vit()
    head = DPT(DPTConfig(8, (8, 8, 8, 8)), encoder.channels, encoder.strides, 2).double()
    net = Segmentor(encoder, head)
    net(torch.randn(1, 3, 28, 28, dtype=torch.float64))["logits"].square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_a_pyramid_of_a_cnn_is_read_as_it_is():
    config = ModelConfig(EncoderConfig("resnet18", "none", output_stride=32), section())
    net = build_segmentor(config, 3).eval()
    assert net.encoder.strides == [4, 8, 16, 32]
    assert net(torch.zeros(1, 3, 65, 97))["logits"].shape == (1, 3, 65, 97)
    with pytest.raises(UserError, match="dpt needs four features of .* 4, 8, 16, 32, found 4, 8, 16, 16"):
        build_segmentor(ModelConfig(EncoderConfig("resnet18", "none", output_stride=16), section()), 3)


@pytest.mark.parametrize("name", ["linear", "pspnet"])
def test_other_heads_on_one_grid(narrow: None, name: str):
    net = build_segmentor(ModelConfig(EncoderConfig(SMALL, "none"), section(name)), 3).eval()
    assert net(torch.zeros(1, 3, 28, 42))["logits"].shape == (1, 3, 28, 42)


# What is refused


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"output_stride": 16}, "the stride of vit_small_patch14_dinov2 is its patch; leave it out"),
        ({"drop_path": 1.0}, r"drop_path must lie in \[0, 1\)"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, object], told: str):
    with pytest.raises(ConfigError, match=told):
        EncoderConfig(SMALL, "none", **options)  # type: ignore[arg-type]


def test_a_cnn_has_no_positions_to_resample():
    with pytest.raises(ConfigError, match="positions is 'timm', but resnet18 has no positions"):
        EncoderConfig("resnet18", "none", positions="timm")


def test_a_head_for_cnns_says_what_a_transformer_takes(narrow: None):
    with pytest.raises(ConfigError, match="found stride 14: a vision transformer takes head dpt or linear"):
        build_segmentor(ModelConfig(EncoderConfig(SMALL, "none"), section("deeplabv3plus")), 3)


def test_an_image_that_does_not_divide_is_an_error(narrow: None):
    with pytest.raises(UserError, match="an image of 30x28 pixels does not divide into patches of 14"):
        vit()(torch.zeros(1, 3, 28, 30, dtype=torch.float64))


@pytest.mark.parametrize("weights", ["package", "hub"])
def test_sources_that_there_are_not(narrow: None, weights: str):
    with pytest.raises(UserError, match=f"encoder weights '{weights}'"):
        build_encoder(EncoderConfig(SMALL, weights))


@pytest.mark.parametrize("name", ["beitv2_base_patch16_224", "vit_relpos_base_patch16_224"])
def test_transformers_of_other_kinds_are_refused(name: str):
    with pytest.raises(UserError):
        build_encoder(EncoderConfig(name, "none"))


# How it is computed


@pytest.mark.parametrize("name", [SMALL, "vit_small_patch16_dinov3"])
def test_attention_is_torchs_own(narrow: None, name: str, monkeypatch: pytest.MonkeyPatch):
    calls, real = [], F.scaled_dot_product_attention

    def counted(*args: object, **options: object) -> Tensor:
        calls.append(1)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    encoder = vit(name)
    encoder(torch.randn(1, 3, 2 * encoder.patch, 2 * encoder.patch, dtype=torch.float64))
    assert len(calls) == 12


def test_one_block_is_compiled_for_all(narrow: None):
    plain, compiled = vit(), vit()
    for part in compiled.compiled_parts():
        part.compile(backend="eager")
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    image = torch.randn(1, 3, 28, 28, dtype=torch.float64)
    for found, wanted in zip(compiled(image), plain(image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1
    assert len(compiled.compiled_parts()) == 12


@pytest.mark.parametrize("name", [SMALL, "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"])
def test_blocks_that_are_computed_again_give_the_same_gradients(narrow: None, name: str):
    plain, lean = vit(name, drop_path=0.3), vit(name, drop_path=0.3)
    assert len(lean.recomputed_parts()) == 12
    recompute_activations(lean.recomputed_parts())
    image = torch.randn(2, 3, 2 * plain.patch, 3 * plain.patch, dtype=torch.float64)
    gradients, kept = [], []
    for encoder in (plain, lean):
        torch.manual_seed(5)  # paths are dropped alike
        encoder.train()
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = sum(feature.square().sum() for feature in encoder(image))
        kept.append(sum(sizes.values()))
        loss.backward()
        gradients.append([p.grad for p in encoder.parameters()])
    assert kept[1] < 0.5 * kept[0]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


# Freezing, paths, depths


def test_a_frozen_encoder_has_no_graph_and_stays_in_eval_mode(narrow: None):
    encoder = vit(freeze=True, drop_path=0.5)
    net = Segmentor(encoder, DPT(DPTConfig(8), encoder.channels, encoder.strides, 2).double())
    net.train()
    assert not encoder.training and not encoder.net.blocks[0].training and net.head.training
    image = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    first, second = encoder(image)[3], encoder(image)[3]
    assert torch.equal(first, second) and not first.requires_grad
    net(image)["logits"].sum().backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert all(p.grad is not None for p in net.head.parameters())


def test_paths_are_dropped_in_training_only(narrow: None):
    encoder = vit(drop_path=0.9)
    image = torch.randn(1, 3, 28, 28, dtype=torch.float64)
    assert torch.equal(encoder(image)[3], encoder(image)[3])
    encoder.train()
    assert not torch.equal(encoder(image)[3], encoder(image)[3])


def test_layers_are_all_parameters_once_from_the_image_on(narrow: None):
    encoder = vit()
    layers = encoder.layers()
    assert len(layers) == 13
    assert sorted(id(p) for layer in layers for p in layer) == sorted(id(p) for p in encoder.parameters())
    names = {id(p): name for name, p in encoder.named_parameters()}
    assert {names[id(p)].split(".")[1] for p in layers[0]} == {"cls_token", "pos_embed", "patch_embed"}
    assert any(names[id(p)] == "net.norm.weight" for p in layers[12])


def test_a_cnn_has_no_layers_of_one_kind():
    with pytest.raises(UserError, match="layer_decay is for vision transformers"):
        build_encoder(EncoderConfig("resnet18", "none")).layers()


# Files of weights


def saved(path: Path, state: State) -> str:
    torch.save(state, path)
    return f"file:{path}"


def loaded(name: str, weights: str, **options: object) -> State:
    encoder = build_encoder(EncoderConfig(name, weights, **options))  # type: ignore[arg-type]
    return {key.removeprefix("net."): value for key, value in encoder.state_dict().items()}


def random_state(name: str) -> State:
    torch.manual_seed(3)
    state = vit(name).float().net.state_dict()
    return {key: torch.randn_like(value) for key, value in state.items()}


def same(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {**state, "mask_token": torch.zeros(1, 48)},  # DINOv2's own files
        lambda state: {**state, "head.weight": torch.zeros(5, 48), "head.bias": torch.zeros(5)},
        lambda state: {"model": {f"module.backbone.{key}": value for key, value in state.items()}
                       | {"module.head.scratch.output_conv.weight": torch.zeros(1)}},  # released V2
        lambda state: {f"encoder.net.{key}": state[key] for key in state} | {"head.x": torch.zeros(1)},
    ],
    ids=["timm", "dinov2", "classifier", "released", "ours"],
)  # fmt: skip
def test_a_file_is_read_whoever_wrote_it(narrow: None, tmp_path: Path, wrap):
    state = random_state(SMALL)
    same(loaded(SMALL, saved(tmp_path / "w.pth", wrap(state))), state)


def test_registers_in_dinov2s_own_names(narrow: None, tmp_path: Path):
    name = "vit_small_patch14_reg4_dinov2"
    state = random_state(name)
    first = torch.randn(1, 1, 48)
    theirs = {
        key: value for key, value in state.items() if key not in ("reg_token", "cls_token", "pos_embed")
    }
    theirs |= {"register_tokens": state["reg_token"], "cls_token": state["cls_token"] - first,
               "pos_embed": torch.cat([first, state["pos_embed"]], 1),
               "mask_token": torch.zeros(1, 48)}  # fmt: skip
    found = loaded(name, saved(tmp_path / "w.pth", theirs))
    torch.testing.assert_close(found.pop("cls_token"), state.pop("cls_token"))
    same(found, state)


def test_the_gated_mlp_of_dinov2s_giant():
    names = {"blocks.0.mlp.w12.weight": 1, "blocks.0.mlp.w12.bias": 2, "blocks.0.mlp.w3.weight": 3}
    found, whose = timm_names({name: torch.tensor(value) for name, value in names.items()})
    assert whose == "DINOv2"
    assert {name: int(value) for name, value in found.items()} == {
        "blocks.0.mlp.fc1.weight": 1, "blocks.0.mlp.fc1.bias": 2, "blocks.0.mlp.fc2.weight": 3,
    }  # fmt: skip


def dinov3(state: State, bias: Tensor) -> State:
    """A state of timm under the names of DINOv3's own code."""
    theirs = {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(3)}
    for key, value in state.items():
        new = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma")
        theirs[new.replace("gamma_2", "ls2.gamma")] = value
    for block in range(12):
        theirs[f"blocks.{block}.attn.qkv.bias"] = bias
        theirs[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(144)
    return {key: value for key, value in theirs.items() if not key.endswith(("q_bias", "v_bias", "k_bias"))}


def test_dinov3s_own_names_with_and_without_biases(narrow: None, tmp_path: Path):
    plain, biased = "vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"
    state = random_state(plain)
    nothing, some = torch.zeros(144), torch.arange(144.0)
    some[48:96] = torch.nan  # of keys, which are never added
    same(loaded(plain, saved(tmp_path / "a.pth", dinov3(state, nothing))), state)
    with pytest.raises(UserError, match="unexpected: blocks.0.attn.q_bias"):
        loaded(plain, saved(tmp_path / "b.pth", dinov3(state, some)))
    found = loaded(biased, saved(tmp_path / "b.pth", dinov3(state, some)))
    assert torch.equal(found["blocks.3.attn.q_bias"], some[:48])
    assert torch.equal(found["blocks.3.attn.v_bias"], some[96:])


def test_another_number_of_channels_is_adapted_as_timm_does(narrow: None, tmp_path: Path):
    state = random_state(SMALL)
    found = loaded(SMALL, saved(tmp_path / "w.pth", state), in_channels=1)
    kernel = state["patch_embed.proj.weight"]
    torch.testing.assert_close(found["patch_embed.proj.weight"], kernel.sum(1, keepdim=True))
    assert (
        loaded(SMALL, saved(tmp_path / "w.pth", state), in_channels=5)["patch_embed.proj.weight"].shape[1]
        == 5
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(48, 3, 16, 16)},
         "reads patches of 16 pixels, this one reads patches of 14"),
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(96, 3, 14, 14)},
         "of a network with 96 channels, this one has 48; name the encoder"),
        (lambda s: {**s, "pos_embed": torch.zeros(1, 50, 48)}, "has 50 positions, the network 26"),
        (lambda s: {**s, "norm.bias": torch.full((48,), math.nan)}, "1 tensors hold NaN .*: norm.bias"),
        (lambda s: {k: v for k, v in s.items() if k != "norm.bias"}, "1 missing: norm.bias"),
        (lambda s: {**s, "blocks.12.norm1.weight": torch.zeros(48)}, "unexpected: blocks.12.norm1.weight"),
        (lambda s: {**s, "blocks.0.attn.proj.bias": torch.zeros(5)}, "shape: blocks.0.attn.proj.bias"),
        (lambda s: {"reg": torch.zeros(1)}, "missing: cls_token"),
    ],
)  # fmt: skip
def test_a_file_of_another_network_is_refused(narrow: None, tmp_path: Path, change, told: str):
    with pytest.raises(UserError, match=told):
        loaded(SMALL, saved(tmp_path / "w.pth", change(random_state(SMALL))))


def test_the_licence_of_the_weights_is_known_where_there_are_weights(narrow: None, tmp_path: Path):
    name = "vit_small_patch16_dinov3"
    weights = saved(tmp_path / "w.pth", random_state(name))
    assert build_encoder(EncoderConfig(name, weights)).licence == "dinov3-license"
    assert build_encoder(EncoderConfig(name, "none")).licence is None
