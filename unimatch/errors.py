"""Errors that a user can cause: commands print their message alone; bugs keep their traceback."""

import re
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can put right: the message names what was wrong, where, and what to do."""


class ConfigError(UserError):
    """One or more mistakes in a configuration file or override."""


class DataError(UserError):
    """Data that cannot be used: the message names the shard and the key, or the file."""


def masked(text: str) -> str:
    """The text with user, password and query of every URL in it replaced: they may be credentials."""
    text = re.sub(r"(?<=://)[^/\s'\"]*@", "***@", text)
    return re.sub(r"(://[^\s'\"?]+)\?[^\s'\"]*[^\s'\".,;:)]", r"\1?***", text)


def of_system(error: OSError) -> str:
    """What the operating system refused, and for which file, as the text of a message."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def summary(items: Iterable[str], limit: int = 5) -> str:
    """The first items, comma separated, and how many more there are."""
    listed = list(items)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
