import os
from pathlib import Path

import pytest

from unimatch import cores


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "what?\n"}, None),
    ],
)
def test_quota_of_a_control_group(tmp_path: Path, files: dict[str, str], expected: float | None):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cores.quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("affinity", "limit", "processes", "expected"),
    [
        (8, None, "1", 8),
        (8, None, "2", 4),
        (8, 2.5, "1", 2),
        (64, 16, "4", 4),
        (2, None, "8", 1),
        (4, 0.5, "1", 1),
    ],
)
def test_share_of_a_process(monkeypatch: pytest.MonkeyPatch, affinity, limit, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda _: limit)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cores.share_of_cores() == expected
