"""The fingerprint of every image of a set, 16 bytes each."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from unimatch.codecs.decode import decode_image
from unimatch.curation.appended import appended
from unimatch.errors import DataError, UserError
from unimatch.inspection.duplicates import fingerprint
from unimatch.shardset.archive import ShardSet

UNREADABLE = (1 << 64) - 1  # both numbers of an image that cannot be decoded


def fingerprints(shards: ShardSet, folder: Path) -> np.ndarray:
    """uint64 [N, 2] of the N samples, see `duplicates.fingerprint`; they lie in a file of the folder, which
    goes on where it was.

    UserError: samples of two dates, which `unimatch check` compares.
    """
    if (shards.index["second_size"] > 0).any():
        raise UserError(
            f"{shards.root} has pairs of images, which curate does not take; `unimatch check` compares them"
        )
    path = folder / f"fingerprints-{shards.info['index']['sha256'][:16]}.bin"
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside the interpreter lock

        def made(rows: np.ndarray) -> np.ndarray:
            if shards.is_remote:
                shards.expect(rows)
            return np.array(list(pool.map(partial(_of_row, shards), rows.tolist())), np.uint64)

        return appended(path, len(shards), 2, np.uint64, made, "fingerprints")


def _of_row(shards: ShardSet, row: int) -> tuple[int, int]:
    try:
        record = shards.read(row)
        return fingerprint(decode_image(record.image, record.where))
    except DataError:
        return UNREADABLE, UNREADABLE
