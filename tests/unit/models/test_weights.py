from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models import weight_file, weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"model": TENSORS},
        {"state_dict": TENSORS, "epoch": 3},
        {"model": {f"module.{key}": value for key, value in TENSORS.items()}, "previous_best": 81.2},
    ],
    ids=["bare", "model", "state_dict", "module"],
)
def test_wrappers_are_taken_off(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    state, digest = weight_file.read_file(tmp_path / "w.pth")
    assert same(state)
    assert len(digest) == 64


def test_safetensors_file_and_digest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    state, digest = weight_file.read_file(path)
    assert same(state)
    save_file({**TENSORS, "a.bias": torch.tensor([1.0, 3.0])}, path)
    assert weight_file.read_file(path)[1] != digest


def test_numpy_score_beside_the_tensors_of_old_and_new_numpy(tmp_path: Path) -> None:
    new, old = tmp_path / "new.pth", tmp_path / "old.pth"
    content = {"model": TENSORS, "previous_best": np.float64(81.2)}
    torch.save(content, new, _use_new_zipfile_serialization=False)
    old.write_bytes(new.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert new.read_bytes() != old.read_bytes()
    assert same(weight_file.read_file(new)[0])
    assert same(weight_file.read_file(old)[0])


class Payload:
    """An object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"model": TENSORS, "extra": Payload(tmp_path / "executed")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth .*not opened for safety"):
        weight_file.read_file(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("cut", [0, 40, 5000])
def test_damaged_file(tmp_path: Path, name: str, cut: int) -> None:
    path = tmp_path / name
    tensors = {str(number): torch.zeros(2000) for number in range(3)}
    if name.endswith(".pth"):
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="damaged"):
        weight_file.read_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "found list"), ({}, "0 tensors"), ({"a": torch.ones(1), "lr": 0.1}, "1 tensors and 1 other")],
)
def test_files_without_named_tensors(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        weight_file.read_file(tmp_path / "w.pth")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: No such file"):
        weight_file.read_file(tmp_path / "none.pth")


def test_differences_are_listed_together_with_counts() -> None:
    wanted = {f"layer{index}.weight": torch.zeros(1) for index in range(8)}
    found = {"layer0.weight": torch.zeros(2), "other": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        weights.check_tensors(found, wanted, "w.pth")
    message = str(caught.value)
    assert "7 missing: layer1.weight" in message
    assert "layer5.weight, ..." in message
    assert "layer6" not in message
    assert "1 unexpected: other" in message
    assert "layer0.weight (2,) instead of (1,)" in message


def test_as_many_values_in_another_shape_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"1 of another shape: w \(8, 4\) instead of \(4, 8\)"):
        weights.load_strictly(nn.ParameterDict({"w": torch.zeros(4, 8)}), {"w": torch.zeros(8, 4)}, "x")


def test_counters_of_norms_may_be_missing() -> None:
    norm = nn.BatchNorm2d(2)
    state = {key: value + 1 for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
    weights.load_strictly(norm, state, "w.pth")
    assert torch.equal(norm.state_dict()["running_mean"], torch.ones(2))


def test_digest_of_tensors_follows_values_and_names() -> None:
    layer = nn.Linear(2, 2)
    first = weights.tensors_digest(layer)
    assert weights.tensors_digest(layer) == first
    assert weights.tensors_digest(nn.Sequential(layer)) != first
    with torch.no_grad():
        layer.bias[0] += 1
    assert weights.tensors_digest(layer) != first
