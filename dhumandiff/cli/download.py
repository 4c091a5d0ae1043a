"""Fetch released weights from Hugging Face: DHumanDiff's (Pan1111/DHumanDiff, four files), or another method's.

python -m dhumandiff download                             into models/dhumandiff/DHumanDiff
python -m dhumandiff download --to ComfyUI/models/dhumandiff
python -m dhumandiff download --portrait                  everything that a first portrait needs, into ComfyUI's models or models
python -m dhumandiff download --portrait --list           the same as a table: what to put where, without a network
python -m dhumandiff download --method parts2whole        into models/dhumandiff/Parts2Whole
python -m dhumandiff download --method withanyone         into models/withanyone
python -m dhumandiff download --list                      all weights that are known: where from, where to, under which license

A download that was interrupted goes on where it stopped. DHumanDiff's authors state no license for their weights; WithAnyone's
are for non-commercial research.
"""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

from ..catalogue import CATALOGUE, DHUMANDIFF, PARTS2WHOLE, WITHANYONE, KnownWeights
from ..errors import AdapterError, short_error
from ..io import expand_user
from .portrait_download import add_portrait_options, run_portrait


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `download` to the commands."""
    parser = subparsers.add_parser(
        "download",
        help="fetch the released weights from Hugging Face",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--method",
        choices=sorted(WEIGHTS),
        default="paired",
        help="whose weights: paired, which is DHumanDiff (default), parts2whole (some 9 GB, with its base), or withanyone "
        "(for FLUX.1; 2.8 billion numbers)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where adapters live; the files go into FOLDER/DHumanDiff, FOLDER/Parts2Whole (default: models/dhumandiff), or "
        "WithAnyone's one file into FOLDER (default: models/withanyone)",
    )
    add_portrait_options(parser.add_argument)
    parser.add_argument("--list", action="store_true", help="print what is known, and fetch nothing")
    parser.set_defaults(run=run)


WEIGHTS = {"paired": DHUMANDIFF, "parts2whole": PARTS2WHOLE, "withanyone": WITHANYONE}
"""Method -> its released weights."""

_LICENSE_NOTES = {
    "paired": "The authors state no license for these weights: ask them before you use the pictures for more than trying out."
}


def run(args: argparse.Namespace) -> None:
    """Download into `args.to` and say what came."""
    from ..describe import as_text, describe

    given = [option for option in ("items", "models", "accept") if getattr(args, option)]
    if args.portrait:
        if args.to is not None or args.method != "paired":
            raise AdapterError(
                "--portrait fetches into the folders of --models, for DHumanDiff: leave --to and --method away.",
                code="download-options-clash",
            )
        run_portrait(args)
        return
    if given:
        raise AdapterError(
            f"--{given[0]} belongs to --portrait: add that, or leave it away.", code="download-options-need-portrait"
        )
    if args.list:
        print(listing())
        return
    known = WEIGHTS[args.method]
    to = args.to or Path("models") / known.folder
    folder = fetch(expand_user(to), known)  # the doctor's text says ~, also where no shell knows it
    print(as_text(describe(folder if known.name else folder / known.files[0])))
    print(_LICENSE_NOTES.get(args.method, f"License: {known.license}."))


def listing() -> str:
    """All weights that are known, with source, place and license."""
    rows = []
    for known in CATALOGUE:
        names = ", ".join([*known.files, *(f"{name}/" for name in known.folders)])
        inside = f", in {known.inside}" if known.inside else ""
        rows += [
            known.title,
            f"  {'from':<8} {f'{known.url}{inside}' if known.repository else 'its publisher'}{names and f': {names}'}",
            f"  {'into':<8} models/{known.folder}/{known.name}",
            f"  {'license':<8} {known.license}",
        ]
    return "\n".join(rows)


def fetch(to: Path, known: KnownWeights = DHUMANDIFF) -> Path:
    """Download released files into a folder of `to`, check their sizes against the hub's, and return that folder.

    Raises:
        AdapterError: the hub cannot be reached (at once when offline); the message says which files to put where by hand.
    """
    folder = to / known.name
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise AdapterError(
            f"The download needs huggingface_hub ({error}). Install it with: pip install huggingface_hub. "
            f"{_by_hand(folder, known)}",
            code="package-missing",
        ) from error
    try:
        # One small question first: it fails at once without a network, where a download retries for half a minute.
        found = HfApi().model_info(known.repository, files_metadata=True, timeout=15)
        wanted, missing = _wanted(known, {entry.rfilename: entry.size for entry in found.siblings or []})
        if missing:
            raise AdapterError(
                f"{known.repository} no longer holds {', '.join(missing)} on Hugging Face. {_by_hand(folder, known)}",
                code="repository-lacks-files",
            )
        for remote, size in wanted.items():
            # All of one revision, also when the authors publish others meanwhile.
            path = Path(hf_hub_download(known.repository, remote, revision=found.sha, local_dir=folder))
            _check_size(path, size)
    except Exception as error:
        if not is_about_the_network(error):
            raise
        raise AdapterError(
            f"{known.repository} cannot be fetched from Hugging Face: {reason(error)}. {_by_hand(folder, known)}",
            code="download-failed",
        ) from error
    return folder


def _wanted(known: KnownWeights, published: dict[str, int | None]) -> tuple[dict[str, int | None], list[str]]:
    """What is to be fetched, with sizes; and names that the repository lacks.

    Of a model that lies there both ways the .safetensors is enough.
    """
    by_name = {Path(remote).name: remote for remote in published if Path(remote).parts[0] not in known.folders}
    wanted = {by_name[name]: published[by_name[name]] for name in known.files if name in by_name}
    missing = [name for name in known.files if name not in by_name]
    for folder in known.folders:
        inside = {remote: size for remote, size in published.items() if Path(remote).parts[0] == folder}
        safe = any(remote.endswith(".safetensors") for remote in inside)
        wanted |= {remote: size for remote, size in inside.items() if not (safe and remote.endswith(".bin"))}
        if not inside and folder in known.required_folders:
            missing.append(f"{folder}/")
    return wanted, missing


def _check_size(path: Path, wanted: int | None) -> None:
    size = path.stat().st_size
    if wanted is not None and size != wanted:
        raise AdapterError(
            f"{path}: the file has {size:,} bytes, Hugging Face says {wanted:,}. Remove it and run the command again.",
            code="download-of-another-size",
        )


def _by_hand(folder: Path, known: KnownWeights) -> str:
    names = ", ".join([*known.files, *(f"{name}/" for name in known.folders)])
    return f"By hand: get {names} from {known.url} and put {'them' if ',' in names else 'it'} into {folder.absolute()}."


def is_about_the_network(error: Exception) -> bool:
    """Whether the hub, the network or the disk failed. The hub's HTTP library differs between its versions."""
    origins = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(origins & {"huggingface_hub", "httpx", "httpx2", "httpcore", "requests"})


def reason(error: Exception) -> str:
    """Why, in words."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk"
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "offline mode is on (HF_HUB_OFFLINE)"
    return short_error(error)
