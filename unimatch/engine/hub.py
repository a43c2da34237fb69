"""Runs on the Hugging Face hub: `hf://OWNER/NAME` stands for a run folder wherever one is read."""

from __future__ import annotations

from pathlib import Path

from unimatch.errors import UserError

SCHEME = "hf:"


def on_this_machine(run: str | Path) -> Path:
    """The folder of a run; one of the hub is brought here, into the hub's own cache, where it is not yet.

    run: a folder, or hf://OWNER/NAME, with @REVISION behind it for another than the newest.
    UserError: there is none, or the hub cannot be reached and nothing of it is here.
    """
    text = str(run)
    if not text.startswith(f"{SCHEME}/"):
        return Path(run)
    name, _, revision = text.removeprefix(SCHEME).strip("/").partition("@")
    if name.count("/") != 1:
        raise UserError(f"{text}: a run on the hub is hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        told = str(error).strip().splitlines()[0]
        raise UserError(
            f"hf://{name}: cannot be fetched ({told}); private ones need `hf auth login`"
        ) from error
