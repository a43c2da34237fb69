"""What a part has found, a JSON line each: what is stopped in the middle has told what came before."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "results.jsonl"


@dataclass
class Result:
    """One finding. `passed`: of a goal or a bound; None: a figure that has none."""

    part: str
    name: str
    values: dict[str, Any]
    passed: bool | None = None
    note: str = ""
    seconds: float = 0.0  # since the part began


@dataclass
class Teller:
    """Writes the findings of one part."""

    part: str
    out: Path
    rehearsal: bool
    until: float  # on time.monotonic's clock, one for all processes: nothing long is begun after it
    began: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds that the part still has."""
        return self.until - time.monotonic()

    def tell(self, name: str, passed: bool | None = None, note: str = "", **values: Any) -> None:
        self.put(name, values, passed, note)

    def put(self, name: str, values: Mapping[str, Any], passed: bool | None = None, note: str = "") -> None:
        """Numbers that are no numbers are told as text: JSON has none."""
        safe = {key: _plain(value) for key, value in values.items()}
        result = Result(self.part, name, safe, passed, note, round(time.monotonic() - self.began, 1))
        line = json.dumps(asdict(result))
        with (self.out / FILE).open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def read(out: Path) -> list[Result]:
    """All findings so far; a line that was being written when its process was stopped is left out."""
    found = []
    path = out / FILE
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Result(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
