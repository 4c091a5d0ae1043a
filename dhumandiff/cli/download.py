"""Fetch the released weights (Pan1111/DHumanDiff, four files) from Hugging Face.

python -m dhumandiff download                             into models/dhumandiff/DHumanDiff
python -m dhumandiff download --to ComfyUI/models/dhumandiff

A download that was interrupted goes on where it stopped. The authors state no licence for these weights.
"""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

from ..catalogue import DHUMANDIFF
from ..errors import AdapterError, short_error
from ..io import expand_user


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `download` to the commands."""
    parser = subparsers.add_parser(
        "download",
        help="fetch the released weights from Hugging Face",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("models/dhumandiff"),
        metavar="FOLDER",
        help="where adapters live; the files go into FOLDER/DHumanDiff (default: models/dhumandiff)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Download into `args.to` and say what came."""
    from ..describe import as_text, describe

    folder = fetch(expand_user(args.to))  # the doctor's text says ~, also where no shell knows it
    print(as_text(describe(folder)))
    print(
        "The authors state no licence for these weights: ask them before you use the pictures for more than trying out."
    )


def fetch(to: Path) -> Path:
    """Download the four files into `to`/DHumanDiff, check their sizes against the hub's, and return that folder.

    Raises:
        AdapterError: the hub cannot be reached (at once when offline); the message says which files to put where by hand.
    """
    folder = to / DHUMANDIFF.name
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise AdapterError(
            f"The download needs huggingface_hub: pip install huggingface_hub. {_by_hand(folder)}",
            code="package-missing",
        ) from error
    try:
        # One small question first: it fails at once without a network, where a download retries for half a minute.
        found = HfApi().model_info(DHUMANDIFF.repository, files_metadata=True, timeout=15)
        published = {Path(entry.rfilename).name: entry for entry in found.siblings or []}
        missing = [name for name in DHUMANDIFF.files if name not in published]
        if missing:
            raise AdapterError(
                f"{DHUMANDIFF.repository} no longer holds {', '.join(missing)} on Hugging Face. {_by_hand(folder)}",
                code="repository-lacks-files",
            )
        for name in DHUMANDIFF.files:
            # All of one revision, also when the authors publish others meanwhile.
            remote = published[name].rfilename
            path = Path(hf_hub_download(DHUMANDIFF.repository, remote, revision=found.sha, local_dir=folder))
            _check_size(path, published[name].size)
    except Exception as error:
        if not _is_about_the_network(error):
            raise
        raise AdapterError(
            f"{DHUMANDIFF.repository} cannot be fetched from Hugging Face: {_reason(error)}. {_by_hand(folder)}",
            code="download-failed",
        ) from error
    return folder


def _check_size(path: Path, wanted: int | None) -> None:
    size = path.stat().st_size
    if wanted is not None and size != wanted:
        raise AdapterError(
            f"{path}: the file has {size:,} bytes, Hugging Face says {wanted:,}. Remove it and run the command again.",
            code="download-of-another-size",
        )


def _by_hand(folder: Path) -> str:
    return f"By hand: get {', '.join(DHUMANDIFF.files)} from {DHUMANDIFF.url} and put them into {folder.absolute()}."


def _is_about_the_network(error: Exception) -> bool:
    """Whether the hub, the network or the disk failed. The hub's HTTP library differs between its versions."""
    origins = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(origins & {"huggingface_hub", "httpx", "httpx2", "httpcore", "requests"})


def _reason(error: Exception) -> str:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk"
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "offline mode is on (HF_HUB_OFFLINE)"
    return short_error(error)
