"""The command `unimatch`: `unimatch NAME ARGUMENTS` is `python -m unimatch.NAME ARGUMENTS`.

Nothing is imported before it is known which program is meant, so that help costs no second.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys

import unimatch
from unimatch.registry import nearest

COMMANDS = {
    "prepare data": {
        "init": "write a recipe or a run's configuration to fill in",
        "pack": "images and labels, or made-up scenes, become shards",
        "check": "verify shards, find duplicates, draw a sheet of them",
        "split": "choose which samples are labelled",
        "curate": "of many images: doubles, leaks, those unlike what is labelled",
    },
    "train": {
        "plan": "memory, batch and traffic of a run before it is started",
        "train": "train one run; many processes: --launch gpu8",
        "experiment": "train the runs of a table; list them, show the table",
    },
    "use what was trained": {
        "evaluate": "the figures of a run on any samples",
        "predict": "class ids, colour masks and overlays of a folder of images",
        "report": "one page about a run: figures, classes, images, trust, cost",
        "compare": "runs side by side: a table, curves, overlays, the page",
        "export": "a run's network as one ONNX file, checked against the run",
        "push": "give a run away on the Hugging Face hub, with a model card",
        "import": "a released checkpoint becomes a run folder",
        "export-weights": "a run's network with the released names",
    },
    "label more": {
        "rank": "which images to label next, and why",
        "prelabel": "predictions to edit in CVAT, Label Studio or LabelMe",
    },
    "look further": {
        "where": "recipes, configurations and launch files: names and paths",
        "scale": "measure how training scales here, predict it elsewhere",
        "bench": "time reading, decoding and views",
    },
}
MODULES = {"import": "import_weights", "export-weights": "export_weights"}  # whose names Python cannot take
NAMES = [name for group in COMMANDS.values() for name in group]


def usage() -> str:
    """The whole help, in one screen."""
    lines = ["usage: unimatch COMMAND ...      more about one: unimatch COMMAND --help"]
    for group, commands in COMMANDS.items():
        lines += [group, *(f"  {name:<15}{text}" for name, text in commands.items())]
    return "\n".join(lines)


def main() -> int:
    """Runs the command that the arguments name; the exit status of one that is wrong."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"unimatch {unimatch.__version__}")
        return 0
    if name not in NAMES:
        print(f"error: no command {name!r}; {nearest(name, NAMES)}", file=sys.stderr)
        return 2
    sys.argv[1:] = arguments
    # Imports make a million objects that stay: to look for garbage among them 14 times more rarely spares an
    # eighth of the start.
    gc.set_threshold(10_000)
    try:
        try:
            runpy.run_module(f"unimatch.{MODULES.get(name, name)}", run_name="__main__", alter_sys=True)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's last flush must not fail
        return 128 + signal.SIGPIPE
    raise AssertionError("a program ends with sys.exit")


if __name__ == "__main__":
    sys.exit(main())
