"""Gives a run away on the Hugging Face hub, with a model card.

unimatch push runs/NAME OWNER/NAME                   # after `hf auth login`
unimatch push runs/NAME OWNER/NAME --folder FOLDER   # writes what would be uploaded, and sends nothing

Uploaded are the networks of one checkpoint, the configuration (with the paths in it), metrics.jsonl and the
card; no optimiser, no images, no labels. unimatch.load("hf://OWNER/NAME"), `predict` and `evaluate` take it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.options import add_which_weights
from unimatch.engine.restore import restore
from unimatch.engine.run_folder import read_config
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.sharing.card import model_card
from unimatch.sharing.folder import fill


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("name", help="OWNER/NAME on the hub")
    parser.add_argument("--folder", type=Path, help="write there what would be uploaded, and send nothing")
    parser.add_argument("--public", action="store_true", help="anyone may see it (default: private)")
    parser.add_argument("--licence", metavar="NAME", help="of the whole, such as mit or cc-by-nc-4.0")
    add_which_weights(parser)
    options = parser.parse_args(args)
    if options.name.count("/") != 1 or not all(options.name.split("/")):
        parser.error(f"the name must be OWNER/NAME, found {options.name!r}")
    if options.folder is not None and options.folder.exists():
        raise UserError(f"{options.folder} exists: name another folder, or remove it")
    found = restore(options.run, options.checkpoint, options.network, Runtime())
    card = model_card(options.name, options.run, read_config(options.run), found, options.licence)
    if options.folder is not None:
        options.folder.mkdir(parents=True)
        size = fill(options.folder, options.run, options.checkpoint, card)
        print(f"{options.folder}: {size / 1e6:.1f} MB, as they would be uploaded to {options.name}")
        return
    with tempfile.TemporaryDirectory() as folder:
        size = fill(Path(folder), options.run, options.checkpoint, card)
        address = upload(Path(folder), options.name, private=not options.public)
    print(f"{size / 1e6:.1f} MB of {found.folder} are at {address}")


def upload(folder: Path, name: str, private: bool) -> str:
    """The address of a model on the hub with these files and no other checkpoint. UserError: refused."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        # What an earlier push left would be found beside it: `last` is the newest checkpoint there.
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="unimatch push",
            delete_patterns=["checkpoints/*"],
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: the hub took nothing ({told}); `hf auth login` says who you are") from error
    return f"{api.endpoint}/{name}"


if __name__ == "__main__":
    sys.exit(run_entry(main))
