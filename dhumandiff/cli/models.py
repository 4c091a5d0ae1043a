"""What `generate` takes from a models folder when no option names it: base, adapter, image encoder, face pack.

--models ComfyUI/models          whatever a ComfyUI has, extra_model_paths.yaml included

One candidate is taken, and said; of several none is guessed: they are listed, to choose one by its option.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogue import BASE, DHUMANDIFF, FACE_PACKS, SFACE
from ..doctor.folders import FACE_ROOT, PROJECT, Folders, files_in, is_comfyui
from ..errors import AdapterError, HostError
from ..io import expand_user

if TYPE_CHECKING:
    from ..protocols import ImageEncoder

__all__ = [
    "ADAPTER",
    "add_models_option",
    "choose_adapter",
    "choose_models",
    "default_models",
    "find_image_encoder",
    "folders_of",
    "full_adapters",
    "load_image_encoder",
]

ADAPTER = Path("models") / DHUMANDIFF.folder / DHUMANDIFF.name
"""Where `python -m dhumandiff download` puts the released weights."""

SHIPPED = ("mini", "tiny")


def add_models_option(add: Callable[..., Any]) -> None:
    """Add `--models`."""
    models = (
        "where base, adapter, image encoder and face pack are looked for when no option names them: ComfyUI's models "
    )
    models += "folder, or one filled by `download` (default: that of the ComfyUI around this project, else models)"
    add("--models", type=Path, metavar="FOLDER", help=models)


def default_models() -> Path:
    """ComfyUI's models folder, when the project lies in its custom_nodes; else `models` where the command is typed."""
    around = PROJECT.parents[1] / "models"
    return around if PROJECT.parent.name == "custom_nodes" and is_comfyui(around) else Path("models")


def folders_of(args: argparse.Namespace) -> Folders:
    """Where each kind of model is looked for.

    Raises:
        HostError: --models is no folder.
    """
    if args.models is None:
        return Folders.below(default_models())
    folder = expand_user(args.models)
    if not os.path.isdir(folder):
        what = "is a file, no folder" if os.path.exists(folder) else "does not exist"
        raise HostError(f"--models {folder} {what}. Name ComfyUI's models folder.", code="no-models-folder")
    return Folders.below(folder)


def choose_models(args: argparse.Namespace, folders: Folders) -> list[str]:
    """Fill in --base, --vae and --face-root where they are not given; what was taken, in words.

    Adapters are known by their names below the models folder, too, as ComfyUI lists them.

    The adapter (`choose_adapter`) and the image encoder that it was trained with (`find_image_encoder`) are looked for later.

    Raises:
        HostError: there is none, or more than one.
    """
    taken = []
    args.vae = _by_name(args.vae, folders.vae)
    args.adapter = _by_name(args.adapter, [*folders.adapters, *folders.ip_adapters], folders_too=True)
    for name in ("full_adapter", "pathway"):
        if getattr(args, name, None) is not None:
            known = _by_name(str(getattr(args, name)), folders.adapters, folders_too=True)
            setattr(args, name, Path(str(known)))
    if args.base is None:
        args.base = str(_base(folders))
        taken.append(f"base: {args.base}")
    elif args.base not in SHIPPED:
        args.base = _by_name(args.base, folders.checkpoints)
    shipped = args.base in SHIPPED
    if args.face_root is None and not (args.face_pack in SHIPPED or (shipped and args.face_pack is None)):
        args.face_root = _face_root(args.face_pack or FACE_PACKS[0].name, folders)
    return taken


def choose_adapter(args: argparse.Namespace, folders: Folders) -> list[str]:
    """Fill in --adapter where it is not given and the base has none of its own, for the dual pathway also --pathway; what was taken,
    in words, and which files of low rank there are besides.

    Raises:
        HostError: there is none, or more than one.
    """
    if args.adapter is not None or args.base in SHIPPED:
        return []
    told = _choose_dual(args, folders) if getattr(args, "method", None) == "dual_pathway" else []
    if args.adapter is None and not (args.models is None and ADAPTER.is_dir()):
        args.adapter = str(_adapter(folders))
        told.append(f"adapter: {args.adapter}")
    from ..formats import low_rank

    small = [path for path in _distinct(_files(folders.adapters, ".safetensors")) if low_rank.is_file(path)]
    return told + [f"also there, of low rank on top of an adapter: --adapter {path}" for path in small]


def full_adapters(args: argparse.Namespace, folders: Folders) -> list[Path]:
    """Where a low-rank --adapter finds the adapter that it changes: the one given, or all that lie beside it or in the models folder.
    Empty for any other --adapter."""
    from ..formats import low_rank

    if args.full_adapter is not None:
        return [args.full_adapter]
    if args.adapter is None or not low_rank.is_file(expand_user(args.adapter)):
        return []
    released = [folder / DHUMANDIFF.name for folder in folders.adapters]
    there = [*low_rank.neighbors(expand_user(args.adapter)), *_files(folders.adapters, ".safetensors"), *released]
    return [path for path in _distinct(there) if os.path.exists(path)]


def find_image_encoder(given: str | None, folders: Folders, width: int) -> Path | str | None:
    """The image encoder that an adapter was trained with: the one given, or the only one of that width in clip_vision.

    Args:
        given: a path, a Hugging Face id, a name below clip_vision, or None.
        folders: where to look.
        width: of the encoder's hidden states.

    Returns:
        None where there is none.

    Raises:
        HostError: there are several.
    """
    if given is not None:
        return _by_name(given, folders.clip_vision)
    from ..formats import clip_vision  # torch: not before something is looked at

    def fits(path: Path) -> bool:
        try:
            return clip_vision.width(path) == width
        except AdapterError:  # not whole: not what is looked for
            return False

    found = _distinct(path for path in _files(folders.clip_vision, ".safetensors") if fits(path))
    return _only(found, "image encoder", "--image-encoder") if found else None


def load_image_encoder(
    args: argparse.Namespace, built_in: str | None, folders: Folders, width: int, device: str
) -> ImageEncoder:
    """The image encoder of --image-encoder, of a base that ships, of the models folder, or of Hugging Face; see `find_image_encoder`."""
    from ..hosts.diffusers.loading import IMAGE_ENCODER, ClipVision, choose_dtype

    source = args.image_encoder or built_in
    if source == "tiny":
        from ..testing import tiny_vision

        return tiny_vision()
    if source == "mini":
        from ..miniature.base import mini_vision

        return mini_vision()
    found = find_image_encoder(source, folders, width)
    if found is not None and source is None:
        print(f"image encoder: {found}")
    return ClipVision.from_pretrained(found or IMAGE_ENCODER, device, choose_dtype(args.dtype, device))


def _base(folders: Folders) -> Path:
    from ..formats import checkpoint

    files = _files(folders.checkpoints, ".safetensors")
    found = _distinct(path for path in files if checkpoint.family_of(path) == checkpoint.SDXL)
    if not found:
        among = f"; the {len(files)} checkpoints there are of other kinds" if files else ""
        raise HostError(
            f"There is no SDXL checkpoint in {_places(folders.checkpoints)}{among}. Say where the base is with --base, name "
            "ComfyUI's models folder with --models, or fetch it with `python -m dhumandiff download --portrait`. --base mini "
            f"is the drawn world that ships. License of SDXL: {BASE.license}.",
            code="no-base",
        )
    return _only(found, "SDXL checkpoint", "--base")


def _adapter(folders: Folders) -> Path:
    """DHumanDiff's released weights; else the only other adapter; else the only IP-Adapter Plus for SDXL."""
    places = (folder / DHUMANDIFF.name for folder in folders.adapters)
    if released := _distinct(place for place in places if place.is_dir()):
        return _only(released, "adapter", "--adapter")
    for places, endings in ((folders.adapters, (".safetensors",)), (folders.ip_adapters, (".safetensors", ".bin"))):
        found = _distinct(path for path in _files(places, *endings) if _is_adapter(path))
        if found:
            return _only(found, "adapter", "--adapter")
    raise HostError(
        f"There are no weights of the method at {folders.adapters[0] / DHUMANDIFF.name}, and no other adapter. Fetch them with "
        "`python -m dhumandiff download`, or say where they are with --adapter.",
        code="no-adapter",
    )


def _choose_dual(args: argparse.Namespace, folders: Folders) -> list[str]:
    """Take the only file of the dual pathway, if there is one: with an adapter in it as --adapter, of trained parts as --pathway."""
    from ..formats import dual_pathway

    if args.pathway is not None:
        return []
    found = _distinct(path for path in _files(folders.adapters, ".safetensors") if dual_pathway.is_file(path))
    if not found:
        return []
    file = _only(found, "file of the dual pathway", "--adapter, or --pathway beside an adapter")
    if dual_pathway.has_identity(file):
        args.adapter = str(file)
        return [f"adapter: {file}"]
    args.pathway = file
    return [f"pathway: {file}"]


def _is_adapter(path: Path) -> bool:
    from .. import formats

    try:
        kind = formats.detect(path)
        return kind == formats.native.NAME or (kind == formats.ip_adapter.NAME and formats.ip_adapter.fits(path))
    except AdapterError:  # a person's reference, another pack's file, or not whole
        return False


def _face_root(pack: str, folders: Folders) -> Path | None:
    """InsightFace's root that has the pack: in the models folder, else None for its own."""
    pack = SFACE.name if pack == "sface" else pack  # lies with the open pack
    roots = [root for root in (folders.face_root, folders.other_face_root) if root is not None]
    has = [root for root in roots if os.path.isdir(root / "models" / pack) or os.path.isdir(root / pack)]
    return has[0] if has and has[0] != expand_user(FACE_ROOT) else None


def _by_name(given: str | None, places: Sequence[Path], folders_too: bool = False) -> str | None:
    """A file below a models folder by its name there, as ComfyUI lists it; whatever else stays as it was given."""
    if given is None or os.path.exists(expand_user(given)):
        return given
    there = os.path.exists if folders_too else os.path.isfile
    found = [place / given for place in places if there(place / given)]
    return str(found[0]) if found else given


def _files(places: Iterable[Path], *endings: str) -> list[Path]:
    return [path for place in places for path in files_in(place, *endings)]


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """Files in their order, one for each that lies there by several ways."""
    return list({os.path.realpath(path): path for path in paths}.values())


def _only(found: Sequence[Path], what: str, option: str) -> Path:
    if len(found) > 1:
        names = "".join(f"\n  {path}" for path in found)
        raise HostError(
            f"There is more than one {what}, and none is chosen for you. Name one with {option}:{names}",
            code="several-to-choose-from",
        )
    return found[0]


def _places(folders: Sequence[Path]) -> str:
    return " or ".join(map(str, folders))
