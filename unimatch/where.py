"""Says where a file lies that came with unimatch; without a name, which there are.

accelerate launch --config_file "$(unimatch where launch/nodes8)" ... -m unimatch.train --config RUN.yaml
cp "$(unimatch where recipes/folder)" my.yaml
"""

from __future__ import annotations

import argparse
import sys
from textwrap import wrap

from unimatch import shipped
from unimatch.registry import nearest

KINDS = {
    "recipes": "for `unimatch pack --recipe NAME` (`synthetic` is built in), `include: recipes/NAME`",
    "splits": "for `data.split: NAME` in a run's configuration: the labelled samples as published",
    "configs": "for `include: NAME` in a run's configuration, and for `unimatch train --config NAME`",
    "launch": "for `unimatch train --launch NAME`, `accelerate launch --config_file`; and scripts for bash",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="unimatch where", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="such as recipes/camvid, configs/base/camvid or launch/cpu2")
    options = parser.parse_args(argv)
    if options.name is None:
        print(listing())
        return 0
    path = shipped.find(options.name)
    if path is None:
        print(f"error: no file {options.name!r} came with unimatch; {_advice(options.name)}", file=sys.stderr)
        return 1
    print(path)
    return 0


def listing() -> str:
    """The names of all files, by kind."""
    lines = [f"in {shipped.ROOT}"]
    for kind, use in KINDS.items():
        names = "  ".join(shipped.of_kind(kind))
        lines += ["", f"{kind}/  {use}", *(f"  {line}" for line in wrap(names, 100))]
    return "\n".join(lines)


def _advice(name: str) -> str:
    """The names like it; a bare `cpu2` lacks its kind only."""
    complete = [f"{kind}/{name}" for kind in KINDS if shipped.find(name, kind)]
    if complete:
        return f"did you mean {' or '.join(map(repr, complete))}?"
    told = nearest(name, shipped.names())
    return told if told.startswith("did you mean") else "all names: unimatch where"


if __name__ == "__main__":
    sys.exit(main())
