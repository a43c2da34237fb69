"""The names that the format knows: of shards, of their members, and what a key may be."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

IMAGES, LABELS = "unimatch-shards", "unimatch-labels"  # the two kinds of sets
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "tif")
LABEL_EXTENSIONS = ("npy.zst", "png")  # behind "<key>.label."
SHARD_NAME = re.compile(r"(?P<subset>[A-Za-z0-9_][A-Za-z0-9_.-]*?)(?:-(?P<number>\d+))?\.tar")


def shard_name(subset: str, number: int) -> str:
    return f"{subset}-{number:05d}.tar"


def key_problem(key: str) -> str | None:
    """Why a key cannot be a tar member's base name and a line of a key list, or None if it can."""
    if not key or key != key.strip():
        return "is empty, or starts or ends with a space"
    if "." in key:
        return (
            "has a dot (the tar format takes what follows the first dot as the file type); replace dots by _"
        )
    if "\\" in key or not key.isprintable():
        return "has a backslash or an unprintable character"
    if not all(part and part == part.strip() for part in key.split("/")):
        return "is not a relative path of non-empty parts"
    return None


def look_alike(key: str) -> str:
    """The same text for keys of file names that look the same: their path in the Unicode form NFC."""
    return unicodedata.normalize("NFC", unquote(key))
