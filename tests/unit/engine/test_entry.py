import errno
import sys

import pytest

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
