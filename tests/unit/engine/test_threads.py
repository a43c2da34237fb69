import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unimatch.engine import threads
from unimatch.engine.entry import run_entry


@pytest.fixture
def two_threads():
    """What torch has by itself, on a machine with two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("share", "expected"), [(1, 1), (2, 2), (16, 2)])
def test_a_command_computes_with_its_share_of_the_cores(monkeypatch, two_threads, share, expected):
    for name in threads.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "share_of_cores", lambda: share)
    seen = []
    assert run_entry(lambda args: seen.append(torch.get_num_threads())) == 0
    assert seen == [expected]


@pytest.mark.parametrize("name", threads.CHOSEN)
def test_a_choice_is_left_alone(monkeypatch, two_threads, name):
    for other in threads.CHOSEN:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "2")
    monkeypatch.setattr(threads, "share_of_cores", lambda: 1)
    threads.limit_threads()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("chosen", "expected"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_that_wait_sleep(chosen, expected):
    """As torch's OpenMP has read it, which happens once, when torch loads that library."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    env |= {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": chosen} if chosen else {})
    (library,) = Path(torch.__file__).parent.glob("lib/libgomp*")
    program = f"import unimatch, ctypes; ctypes.CDLL({str(library)!r})"
    ended = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert f"OMP_WAIT_POLICY = '{expected}'" in ended.stderr
