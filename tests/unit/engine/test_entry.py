import errno
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.support.processes import forking
from tests.support.warm_python import FORKED_PYTHON
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError


def fail(error):
    def main(args):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("a: wrong; do b"), "a: wrong; do b"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x/y"), "x/y: Not a directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_a_users_mistake_is_one_message_of_one_process_a_node(capsys, monkeypatch, error, told):
    assert run_entry(fail(error)) == 1
    assert capsys.readouterr().err == f"error: {told}\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_entry(fail(error)) == 1
    assert capsys.readouterr().err == ""


def test_a_launcher_repeats_the_message_at_its_end(capfd, tmp_path, monkeypatch):
    """Torch's launcher prints fifty lines; the last is what the process left in its error file."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom unimatch.engine.entry import run_entry\nfrom unimatch.errors import UserError\n"
        "def main(args):\n    raise UserError('the batch is odd:\\ntake 8')\n"
        "sys.exit(run_entry(main))\n"
    )
    for name, value in forking().items():
        monkeypatch.setenv(name, value)
    launch = LaunchConfig(
        1, 1, 2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0
    )
    with pytest.raises(ChildFailedError) as caught:
        elastic_launch(launch, str(FORKED_PYTHON))(str(program))
    assert caught.value.get_first_failure()[0] == 0
    shown = str(caught.value).rstrip("=\n").splitlines()
    assert shown[-2:] == ["  traceback : error: the batch is odd:", "take 8"]
    assert capfd.readouterr().err.count("error: the batch is odd") == 1


@pytest.mark.parametrize("error", [KeyError("x"), OSError(errno.EBADF, "Bad file descriptor")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_entry(fail(error))


def test_wrong_arguments_are_a_users_mistake(monkeypatch, capsys):
    def main(args):
        parser = Parser(prog="p")
        parser.add_argument("--count", type=int)
        parser.parse_args(args)

    monkeypatch.setattr(sys, "argv", ["p", "--count", "few"])
    assert run_entry(main) == 1
    assert capsys.readouterr().err == "error: argument --count: invalid int value: 'few'; see p --help\n"


def test_what_the_system_refuses_to_one_process_is_told_without_its_number():
    with pytest.raises(UserError, match="^/x: Read-only file system$"), Runtime().together():
        raise OSError(errno.EROFS, "Read-only file system", "/x")


@pytest.mark.parametrize(
    "text",
    [
        "[/x/gloo/transport/tcp/pair.cc:544] Connection closed by peer [10.0.0.2]:4711",
        "Application timeout caused pair closure",  # of a wait beside the one that timed out
    ],
)
def test_a_process_that_is_gone_is_told_as_such(capsys, text):
    assert run_entry(fail(RuntimeError(text))) == 1
    assert (
        "did not find each other" in capsys.readouterr().err
    )  # no group here; beside others: see tests/dist
    with pytest.raises(RuntimeError, match="something else"):
        run_entry(fail(RuntimeError("something else")))
