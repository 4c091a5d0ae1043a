"""Make a portrait of two people from photos and a sentence, without ComfyUI.

python -m dhumandiff generate --person-1 a.jpg --person-2 b.jpg --base sdxl-base --out portrait.png
    --prompt "A man@1 and a woman@2 on a bench in a garden"

python -m dhumandiff generate --person-1 a.jpg --person-2 b.jpg --base tiny --out noise.png
    --prompt "A man@1 and a woman@2"            tries the machinery with random weights: the picture is noise

All settings are stored in the PNG (text chunks "dhumandiff", as JSON, and "parameters").
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError, ImageError

if TYPE_CHECKING:
    from ..adapter import Adapter
    from ..hosts.diffusers_pipeline import Portrait
    from ..prompt import Prompt
    from ..references import FaceReference

ADAPTER = Path("models/dhumandiff/DHumanDiff")
"""Where `python -m dhumandiff download` puts the released weights."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `generate` to the commands."""
    parser = subparsers.add_parser(
        "generate",
        help="make a portrait from photos and a sentence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    photos = "photos of {} person, or a saved reference .safetensors"
    add("--person-1", nargs="+", required=True, metavar="PHOTO", help=photos.format("the first"))
    add("--person-2", nargs="+", metavar="PHOTO", help=photos.format("the second"))
    add("--swap", action="store_true", help="exchange the two people")
    add("--prompt", required=True, help="a sentence; @1 and @2 behind a word say who it is")
    add("--negative", help="what to keep away from (default: as published)")
    add("--mentions", choices=("first", "all"), default="first", help="which marked words carry a face")
    add("--out", type=Path, required=True, metavar="PNG", help="where the portrait goes; overwritten")
    add("--focus-out", type=Path, metavar="PNG", help="also write the cascade's focus mask")

    add("--base", required=True, metavar="SDXL", help="diffusers folder, checkpoint .safetensors, or tiny")
    add("--adapter", metavar="PATH", help=f"weights of the method, or tiny (default: {ADAPTER})")
    add(
        "--image-encoder",
        metavar="PATH",
        help="CLIP ViT-H/14: folder, Hugging Face id, or tiny (default: IP-Adapter's)",
    )
    add("--face-pack", metavar="NAME", help="InsightFace pack by name or folder, or tiny (default: buffalo_l)")
    add("--face-root", type=Path, metavar="FOLDER", help="where models/<pack> is (default: ~/.insightface)")
    add("--provider", default="auto", help="of face analysis: auto, CPU, CUDA, CoreML, DirectML")
    add("--which-face", default="largest", metavar="FACE", help="largest, left-most, right-most, or an index from 0")
    add("--normalise-light", action="store_true", help="even out the light on the faces")

    add("--seed", type=int, default=0)
    add("--size", default="512x512", metavar="WxH", help="px, multiples of 8 (default: 512x512)")
    add("--steps", type=int, default=50)
    add("--cfg", type=float, default=5.0, help="guidance (default: 5); 1 switches it off")
    add("--mode", default="two_strength", help="of the cascade: two_strength, released, none (default: two_strength)")
    add("--scene-strength", type=float, default=0.7, help="of the faces outside of the faces (default: 0.7)")
    add("--face-strength", type=float, default=1.0, help="of the faces where they are (default: 1.0)")
    add("--focus-share", type=float, default=0.1, help="share of the picture that is face (default: 0.1)")
    add("--strength", type=float, default=1.0, help="of the faces in the mode none (default: 1.0)")
    add("--device", default="auto", help="auto, cuda, mps, cpu")
    add("--dtype", default="auto", help="auto, fp16, bf16, fp32")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Make the portrait that `args` describe and write it to `args.out`.

    Everything that can be refused without loading a model is refused first.
    """
    size = _size(args.size)
    for path in filter(None, (args.out, args.focus_out)):
        _check_writable(path)
    if args.focus_out and args.mode == "none":
        raise HostError("The mode none has no focus mask: leave --focus-out away, or choose two_strength or released.")
    if args.focus_out and args.focus_out.absolute() == args.out.absolute():
        raise ImageError(f"--out and --focus-out are both {args.out}: choose another name for one of them.")
    tiny = args.base == "tiny"
    if tiny:
        print("The tiny base has random weights: the picture will be noise. It shows that everything runs, no more.")

    from ..hosts.diffusers_base import check_base, choose_device, package
    from ..hosts.diffusers_pipeline import NEGATIVE, Portrait, check_settings
    from ..prompt import parse_prompt

    strengths = (args.scene_strength, args.face_strength, args.focus_share, args.strength)
    check_settings(size, args.steps, args.cfg, args.mode, *strengths, seed=args.seed)
    sources = _people(args)
    prompt = parse_prompt(args.prompt, persons=len(sources), mentions=args.mentions)
    negative = NEGATIVE if args.negative is None else args.negative
    device = choose_device(args.device)
    check_base(args.base)
    people = [_read(photos) for photos in sources]
    for name in ("transformers", "diffusers"):
        package(name)

    adapter = _adapter(args.adapter or ("tiny" if tiny else None)).to(device)
    references = _references(args, people, device, tiny)
    _tell_warnings(adapter, references, prompt)
    portrait = Portrait.from_base(args.base, device, args.dtype)
    if adapter.has_subject_path:
        print(portrait.bound_words(prompt))
    started = time.monotonic()
    settings = {
        "seed": args.seed,
        "size": size,
        "steps": args.steps,
        "cfg": args.cfg,
        "mode": args.mode,
        "scene_strength": args.scene_strength,
        "face_strength": args.face_strength,
        "focus_share": args.focus_share,
        "strength": args.strength,
    }
    image, focus = _with_progress(portrait, adapter, references, prompt, negative, settings)
    record = _record(args, sources, negative, settings, adapter, portrait)
    _write(image, args.out, record)
    if args.focus_out:
        _write(_mask(focus, size), args.focus_out, record)
    print(f"{args.out}: {size[0]} x {size[1]} px, seed {args.seed}, {time.monotonic() - started:.1f} s")


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise HostError(f"--size {text!r} is not clear: write width x height in px, for instance 512x768.")
    return int(parts[0]), int(parts[1])


def _check_writable(path: Path) -> None:
    """Refuse a path that a PNG cannot be written to. ImageError."""
    if path.suffix.lower() != ".png":
        raise ImageError(f"The picture cannot be written to {path}: choose a name that ends in .png.")
    if path.is_dir():
        raise ImageError(f"The picture cannot be written to {path}: it is a folder. Give a file name.")
    if not path.parent.is_dir():
        raise ImageError(f"The picture cannot be written to {path}: the folder {path.parent} does not exist. Make it.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ImageError(
            f"The picture cannot be written to {path}: {error.strerror or error}. Choose a folder you may write to."
        ) from error


def _people(args: argparse.Namespace) -> list[list[str]]:
    """The photos of each person, in order."""
    people = [photos for photos in (args.person_1, args.person_2) if photos]
    if args.swap:
        if len(people) < 2:
            raise HostError("--swap exchanges two people, but only one is given. Add --person-2.")
        people.reverse()
    return people


def _read(sources: list[str]) -> FaceReference | list[Any]:
    """A saved reference, or photos, read at once: a wrong name shall not come out after minutes of loading."""
    from ..faces.photos import load_photo
    from ..references import FaceReference

    saved = [source for source in sources if source.endswith(".safetensors")]
    if saved and len(sources) > 1:
        raise ImageError(
            f"{saved[0]} is a saved reference, which is one person already: give it alone, or give photos alone."
        )
    return FaceReference.load(saved[0]) if saved else [load_photo(source) for source in sources]


def _adapter(path: str | None) -> Adapter:
    from ..adapter import Adapter

    if path == "tiny":
        from ..tiny import tiny_adapter

        return tiny_adapter()
    if path is None and not ADAPTER.is_dir():
        raise HostError(
            f"There are no weights of the method at {ADAPTER}. Fetch them with `python -m dhumandiff download`, or say "
            "where they are with --adapter."
        )
    return Adapter.from_pretrained(path or ADAPTER)


def _references(args: argparse.Namespace, people: list[Any], device: str, tiny: bool) -> list[FaceReference]:
    """Encode whoever is not a saved reference yet. The models for it are let go afterwards."""
    from ..encode import encode_reference
    from ..references import FaceReference

    if all(isinstance(person, FaceReference) for person in people):
        return people
    vision = _vision(args.image_encoder or ("tiny" if tiny else None), device, args.dtype)
    faces = _faces(args, tiny)
    which = int(args.which_face) if args.which_face.isdecimal() else args.which_face
    references = []
    for number, person in enumerate(people, 1):
        if not isinstance(person, FaceReference):
            name = f"person {number}"
            person, report = encode_reference(
                person, vision, faces, which=which, normalise_light=args.normalise_light, name=name
            )
            for warning in report.warnings():
                print(f"warning: {name}, {warning}")
        references.append(person)
    return references


def _vision(source: str | None, device: str, dtype: str) -> Any:
    from ..hosts.diffusers_base import IMAGE_ENCODER, ClipVision, choose_dtype

    if source == "tiny":
        from ..tiny import tiny_vision

        return tiny_vision()
    return ClipVision.from_pretrained(source or IMAGE_ENCODER, device, choose_dtype(dtype, device))


def _faces(args: argparse.Namespace, tiny: bool) -> Any:
    pack = args.face_pack or ("tiny" if tiny else "buffalo_l")
    if pack == "tiny":
        from ..tiny import tiny_faces

        return tiny_faces()
    from ..faces import InsightFaceAnalyser

    analyser = InsightFaceAnalyser.from_pack(pack, args.face_root, args.provider)
    if analyser.note:
        print(f"note: {analyser.note}")
    return analyser


def _tell_warnings(adapter: Adapter, references: list[FaceReference], prompt: Prompt) -> None:
    from ..references import same_person_warning

    same = same_person_warning(*references) if len(references) == 2 else None
    if same:
        print(f"warning: {same}")
    if not adapter.has_subject_path:
        print("note: these weights have no subject path, so the faces act but no word of the prompt carries one.")
        return
    for person in prompt.unbound_persons(len(references)):
        print(f"note: no word names person {person}: the face counts, but no word carries it. Write word@{person}.")


def _with_progress(
    portrait: Portrait,
    adapter: Adapter,
    references: list[FaceReference],
    prompt: Prompt,
    negative: str,
    settings: dict[str, Any],
) -> tuple[Any, Any]:
    from tqdm import tqdm

    with tqdm(desc="sampling", unit="step", total=settings["steps"]) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return portrait.generate(adapter, references, prompt, negative, progress=progress, **settings)


def _record(
    args: argparse.Namespace,
    sources: list[list[str]],
    negative: str,
    settings: dict[str, Any],
    adapter: Adapter,
    portrait: Portrait,
) -> dict[str, str]:
    """What the PNG says about how it was made. Names of files, not where they lay: pictures are passed on."""
    from .. import __version__

    made = {
        "version": __version__,
        "prompt": args.prompt,
        "negative": negative,
        "mentions": args.mentions,
        **settings,
        "persons": [[Path(source).name for source in photos] for photos in sources],
        "which_face": args.which_face,
        "normalise_light": args.normalise_light,
        "base": Path(args.base).name,
        "adapter": Path(args.adapter).name if args.adapter else adapter.info.source,
        "device": portrait.device.type,
        "dtype": str(portrait.dtype).removeprefix("torch."),
    }
    readable = {
        "Steps": args.steps,
        "Sampler": type(portrait.scheduler).__name__.removesuffix("DiscreteScheduler"),
        "CFG scale": args.cfg,
        "Seed": args.seed,
        "Size": "x".join(map(str, settings["size"])),
        "Model": made["base"],
        "DHumanDiff": f"{args.mode} {args.scene_strength} {args.face_strength} {args.focus_share}",
    }
    line = ", ".join(f"{name}: {value}" for name, value in readable.items())
    return {
        "dhumandiff": json.dumps(made, ensure_ascii=False),
        "parameters": f"{args.prompt}\nNegative prompt: {negative}\n{line}",
    }


def _mask(focus: Any, size: tuple[int, int]) -> Any:
    """The focus mask at the picture's size, white where faces are; black where nothing was in focus."""
    from PIL import Image

    if focus is None:  # every person at strength 0
        return Image.new("L", size)
    return Image.fromarray(focus.numpy().astype("uint8") * 255).resize(size, Image.Resampling.NEAREST)


def _write(image: Any, path: Path, record: dict[str, str]) -> None:
    """Write a PNG at once or not at all."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in record.items():
        info.add_text(name, text)  # Pillow chooses the chunk that can hold the text's letters
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        image.save(part, format="PNG", pnginfo=info)
        os.replace(part, path)
    except OSError as error:
        raise ImageError(
            f"The picture cannot be written to {path}: {error.strerror or error}. Make room, or choose another folder."
        ) from error
    finally:
        part.unlink(missing_ok=True)
