"""Which parallel mode a launch asks for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.support.launches import fsdp
from unimatch.engine.modes import FSDP, HYBRID, ZERO, Fsdp, Mode, asked, described, unseen
from unimatch.errors import UserError

FILES = Path(__file__).resolve().parents[3] / "launch" / "accelerate"


def told_by(file: str, *options: str) -> dict[str, str]:
    """What `accelerate launch` with a shipped file puts into the environment of its processes."""
    path = str(FILES / f"{file}.yaml")
    options = launch_command_parser().parse_args(["--config_file", path, *options, "-m", "unimatch.train"])
    return prepare_multi_gpu_env(_validate_launch_command(options)[0])


@pytest.mark.parametrize(
    ("file", "options", "mode"),
    [
        ("gpu8", (), Mode()),
        ("gpu8_fsdp", (), Mode(fsdp=Fsdp())),
        ("cpu2_fsdp", ("--fsdp_reshard_after_forward", "false"), Mode(fsdp=Fsdp(reshard=False))),
        ("nodes8_hsdp", (), Mode(fsdp=Fsdp(replicas=2))),
        (
            "nodes8_hsdp",
            ("--parallelism_config_dp_replicate_size=4", "--parallelism_config_dp_shard_size=4"),
            Mode(fsdp=Fsdp(replicas=4)),
        ),
    ],
)
def test_a_launch_file_chooses(
    file: str, options: tuple[str, ...], mode: Mode, monkeypatch: pytest.MonkeyPatch
):
    for name, value in told_by(file, *options).items():
        monkeypatch.setenv(name, value)
    assert asked(16) == mode


def test_a_run_tells_its_mode():
    told = [described(*one) for one in ((0, None, 1), (0, None, 2), (3, None, 1), (0, Fsdp(), 2))]
    assert told == ["", "DDP", "ZeRO-3", "FSDP"]
    assert described(0, Fsdp(replicas=2), 8) == "FSDP in 2 replicas"


def test_what_torchrun_is_told_by_hand(monkeypatch: pytest.MonkeyPatch):
    assert asked(4) == Mode()
    monkeypatch.setenv(FSDP, "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert asked(4) == Mode(fsdp=Fsdp())
    monkeypatch.setenv(ZERO, "true")
    assert asked(4) == Mode(zero=True)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: not supported .*launch/zero3_offload"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "the run's own activation_checkpointing decides"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "sometimes"}, "must be true or false, found sometimes"),
        ({"PARALLELISM_CONFIG_DP_SHARD_SIZE": "3"}, "2 replicas of 3 parts .* number of processes, 4"),
        ({"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "two"}, "whole numbers"),
        ({"PARALLELISM_CONFIG_TP_SIZE": "2"}, "tp_size: only data parallelism"),
        ({FSDP: "false"}, f"{HYBRID}. is for FSDP launches"),
    ],
)
def test_what_cannot_be_had_is_refused(changed: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in (fsdp(replicas=2, parts=2) | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=reason):
        asked(4)


def test_accelerate_sees_none_of_it_and_the_next_runtime_does(monkeypatch: pytest.MonkeyPatch):
    for name, value in fsdp(replicas=2, parts=2).items():
        monkeypatch.setenv(name, value)
    with unseen():
        assert FSDP not in os.environ and HYBRID not in os.environ
    assert asked(4) == Mode(fsdp=Fsdp(replicas=2))
