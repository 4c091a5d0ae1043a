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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError, ImageError, ReferenceError

if TYPE_CHECKING:
    from torch import Tensor

    from ..adapter import Adapter
    from ..hosts.diffusers_pipeline import Portrait
    from ..prompt import Prompt
    from ..references import FaceReference

ADAPTER = Path("models/dhumandiff/DHumanDiff")
"""Where `python -m dhumandiff download` puts the released weights."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `generate` to the commands."""
    form = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = subparsers.add_parser("generate", help="make a portrait from photos and a sentence", **form)
    add = parser.add_argument
    photos = "photos of {} person, or a saved reference .safetensors"
    add("--person-1", nargs="+", required=True, metavar="PHOTO", help=photos.format("the first"))
    add("--person-2", nargs="+", metavar="PHOTO", help=photos.format("the second"))
    add("--swap", action="store_true", help="exchange the two people; strengths and masks stay with @1 and @2")
    add("--prompt", required=True, help="a sentence; @1 and @2 behind a word say who it is")
    add("--negative", help="what to keep away from (default: as published)")
    add("--mentions", choices=("first", "all"), default="first", help="which marked words carry a face")
    add("--out", type=Path, required=True, metavar="PNG", help="where the portrait goes; overwritten")
    add("--focus-out", type=Path, metavar="PNG", help="also write the cascade's focus mask")

    for n in (1, 2):
        add(f"--which-face-{n}", metavar="FACE", help=f"in the photos of --person-{n}, instead of --which-face")
        add(f"--save-reference-{n}", type=Path, metavar="FILE", help=f"keep person {n} as .safetensors; overwritten")
        add(f"--strength-{n}", type=float, metavar="FACTOR", help=f"of @{n}, multiplied with the others (default: 1.0)")
        add(f"--mask-{n}", type=Path, metavar="PICTURE", help=f"greyscale, white where @{n} may be (default: anywhere)")

    add("--base", required=True, metavar="SDXL", help="diffusers folder, checkpoint .safetensors, or tiny")
    add("--adapter", metavar="PATH", help=f"weights of the method, or tiny (default: {ADAPTER})")
    vision = "CLIP ViT-H/14: folder, Hugging Face id, or tiny (default: IP-Adapter's)"
    add("--image-encoder", metavar="PATH", help=vision)
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
    add("--start", type=float, default=0.0, help="share of sampling at which the faces begin to count (default: 0)")
    add("--end", type=float, default=1.0, help="share of sampling at which they cease to count (default: 1)")
    add("--device", default="auto", help="auto, cuda, mps, cpu")
    add("--dtype", default="auto", help="auto, fp16, bf16, fp32")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class _Person:
    """What the command line says of --person-<number>."""

    number: int
    sources: list[str]
    which: str
    save: Path | None


def run(args: argparse.Namespace) -> None:
    """Make the portrait that `args` describe and write it to `args.out`.

    Everything that can be refused without loading a model is refused first.
    """
    size = _size(args.size)
    people = _people(args)
    for path in filter(None, (args.out, args.focus_out)):
        _check_writable(path, "picture", ".png")
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

    names = "seed steps cfg mode scene_strength face_strength focus_share strength start end"
    settings = {"size": size, **{name: getattr(args, name) for name in names.split()}}
    factors = [1.0 if factor is None else factor for factor in (args.strength_1, args.strength_2)]
    settings["person_strengths"] = factors[: len(people)]
    check_settings(**settings)
    prompt = parse_prompt(args.prompt, persons=len(people), mentions=args.mentions)
    negative = NEGATIVE if args.negative is None else args.negative
    device = choose_device(args.device)
    check_base(args.base)
    read = [_read(person) for person in people]
    _check_saves([person.save for person in people if person.save])
    masks = _masks((args.mask_1, args.mask_2)[: len(people)], size)
    for name in ("transformers", "diffusers"):
        package(name)

    adapter = _adapter(args.adapter or ("tiny" if tiny else None)).to(device)
    references = _references(args, people, read, device, tiny)
    _tell_warnings(adapter, references, prompt)
    portrait = Portrait.from_base(args.base, device, args.dtype)
    if adapter.has_subject_path:
        print(portrait.bound_words(prompt))
    started = time.monotonic()
    image, focus = _with_progress(portrait, adapter, references, prompt, negative, masks=masks, **settings)
    record = _record(args, people, settings | {"negative": negative}, adapter, portrait)
    _write(image, args.out, record)
    if args.focus_out:
        _write(_focus_picture(focus, size), args.focus_out, record)
    print(f"{args.out}: {size[0]} x {size[1]} px, seed {args.seed}, {time.monotonic() - started:.1f} s")


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise HostError(f"--size {text!r} is not clear: write width x height in px, for instance 512x768.")
    return int(parts[0]), int(parts[1])


def _check_writable(path: Path, what: str, ending: str) -> None:
    """Refuse a path that a picture or reference cannot be written to. ImageError, ReferenceError."""
    refusal = ImageError if ending == ".png" else ReferenceError
    head = f"The {what} cannot be written to {path}"
    if (path.suffix.lower() if ending == ".png" else path.suffix) != ending:  # saved references are known by it
        raise refusal(f"{head}: choose a name that ends in {ending}.")
    if path.is_dir():
        raise refusal(f"{head}: it is a folder. Give a file name.")
    if not path.parent.is_dir():
        raise refusal(f"{head}: the folder {path.parent} does not exist. Make it.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise refusal(f"{head}: {error.strerror or error}. Choose a folder you may write to.") from error


def _check_saves(paths: list[Path]) -> None:
    """Refuse files that references cannot be kept in, or that hold something else already. ReferenceError."""
    from ..references import FaceReference

    for path in paths:
        _check_writable(path, "reference", ".safetensors")
        try:
            if path.exists():
                FaceReference.load(path)
        except ReferenceError as error:
            what = "it exists and holds something else. Choose another name."
            raise ReferenceError(f"The reference cannot be written to {path}: {what}") from error
    if len({path.absolute() for path in paths}) < len(paths):
        raise ReferenceError(f"Both people would be saved to {paths[0]}: choose another name for one of them.")


def _people(args: argparse.Namespace) -> list[_Person]:
    """The people, @1 first. HostError for options about a person who is not there."""
    given = vars(args)
    if not args.person_2:
        for option in ("--swap", "--which-face-2", "--save-reference-2", "--strength-2", "--mask-2"):
            value = given[option[2:].replace("-", "_")]
            if value is not None and value is not False:  # a strength of 0 is given too
                raise HostError(f"{option} needs two people, but only one is given. Add --person-2, or leave it away.")
    people = []
    for n in (1, 2) if args.person_2 else (1,):
        sources, which = given[f"person_{n}"], given[f"which_face_{n}"]
        if which is not None and sources[0].endswith(".safetensors"):
            raise HostError(f"--which-face-{n} is for photos, but {sources[0]} is one person already. Leave it away.")
        people.append(_Person(n, sources, which or args.which_face, given[f"save_reference_{n}"]))
    return people[::-1] if args.swap else people


def _read(person: _Person) -> FaceReference | list[Any]:
    """A saved reference, or photos, read at once: a wrong name shall not come out after minutes of loading."""
    from ..faces.photos import load_photo
    from ..references import FaceReference

    saved = [source for source in person.sources if source.endswith(".safetensors")]
    if saved and len(person.sources) > 1:
        raise ImageError(f"{saved[0]} is a saved reference, one person already: give it alone, or photos alone.")
    return FaceReference.load(saved[0]) if saved else [load_photo(source) for source in person.sources]


def _masks(paths: tuple[Path | None, ...], size: tuple[int, int]) -> Tensor | None:
    """Where each person may be, [P, 1, H, W] 0..1 at the latent's size; None when nobody has a mask."""
    import torch

    if not any(paths):
        return None
    latent = (size[1] // 8, size[0] // 8)
    return torch.cat([_person_mask(path, latent) if path else torch.ones(1, 1, *latent) for path in paths])


def _person_mask(path: Path, latent: tuple[int, int]) -> Tensor:
    """A picture as a mask [1, 1, *latent]. ImageError when it is none."""
    import torch

    from ..attention import fit_masks
    from ..faces.photos import load_photo

    try:
        photo = load_photo(path)
        pixels = photo.pixels
        if any("transparent" in note for note in photo.notes):
            raise ImageError("parts of it are transparent, which is neither white nor black. Fill them.")
        if (pixels.max(axis=-1) - pixels.min(axis=-1)).max() > 16:  # JPEG leaves a trace of colour in grey
            raise ImageError("it has colours. A mask is greyscale: white where the person may be, black elsewhere.")
        mask = fit_masks(torch.from_numpy(pixels.mean(axis=-1, dtype="float32"))[None, None] / 255, latent, 1)
        if not mask.any():
            raise ImageError("it is black all over, so the person could be nowhere. Paint white where they may be.")
    except (ImageError, HostError) as error:
        raise ImageError(f"The mask {path} cannot be used: {error}") from error
    return mask


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


def _references(
    args: argparse.Namespace, people: list[_Person], read: list[Any], device: str, tiny: bool
) -> list[FaceReference]:
    """Encode whoever is not a saved reference yet, and keep whom to keep. The models for it are let go afterwards."""
    from ..encode import encode_reference
    from ..references import FaceReference

    vision = faces = None
    if not all(isinstance(known, FaceReference) for known in read):
        vision = _vision(args.image_encoder or ("tiny" if tiny else None), device, args.dtype)
        faces = _faces(args, tiny)
    references = []
    for number, (person, reference) in enumerate(zip(people, read, strict=True), 1):
        if not isinstance(reference, FaceReference):
            name = f"person {number}"
            which = int(person.which) if person.which.isdecimal() else person.which
            reference, report = encode_reference(
                reference, vision, faces, which=which, normalise_light=args.normalise_light, name=name
            )
            for warning in report.warnings():
                print(f"warning: {name}, {warning}")
        if person.save:  # under the file's name: whom the file shows need not be person 1 next time
            replace(reference, name=person.save.stem).save(person.save)
            print(f"{person.save}: whom --person-{person.number} shows")
        references.append(reference)
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


def _with_progress(portrait: Portrait, *inputs: Any, **settings: Any) -> tuple[Any, Any]:
    """`Portrait.generate` with a bar."""
    from tqdm import tqdm

    with tqdm(desc="sampling", unit="step", total=settings["steps"]) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return portrait.generate(*inputs, progress=progress, **settings)


def _record(
    args: argparse.Namespace, people: list[_Person], settings: dict[str, Any], adapter: Adapter, portrait: Portrait
) -> dict[str, str]:
    """What the PNG says about how it was made. Names of files, not where they lay: pictures are passed on."""
    from .. import __version__

    made = {
        "version": __version__,
        "prompt": args.prompt,
        "mentions": args.mentions,
        **settings,
        "persons": [[Path(source).name for source in person.sources] for person in people],
        "which_face": [person.which for person in people],
        "masks": [path and path.name for path in (args.mask_1, args.mask_2)[: len(people)]],
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
        "parameters": f"{args.prompt}\nNegative prompt: {settings['negative']}\n{line}",
    }


def _focus_picture(focus: Any, size: tuple[int, int]) -> Any:
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
