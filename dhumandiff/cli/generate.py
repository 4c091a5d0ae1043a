"""Make a portrait of people from photos and a sentence, without ComfyUI.

python -m dhumandiff generate --person-1 a.jpg --person-2 b.jpg --base sdxl-base-1.0 --out portrait.png
    --prompt "A man@1 and a woman@2 on a bench in a garden"

python -m dhumandiff generate --person-1 a.jpg --person-2 b.jpg --models ComfyUI/models --out portrait.png
    --prompt "A man@1 and a woman@2"            all that a ComfyUI has: checkpoint, adapter, image encoder, face pack
python -m dhumandiff generate --person-1 a.png --person-2 b.png --base mini --out drawn.png
    --prompt "A man@1 on the left in a red suit and a woman@2 on the right in a blue dress stand at the beach."
                                                the drawn world that ships: people, photos and sentences of that world
python -m dhumandiff generate --person-1 a.jpg --person-2 b.jpg --base tiny --out noise.png
    --prompt "A man@1 and a woman@2"            tries the machinery with random weights: the picture is noise

All settings are stored in the PNG (text chunks "dhumandiff", as JSON, and "parameters").
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FaceError, HostError
from ..io import write_png
from ..miniature.defaults import MINI
from ..optional import require
from .drawing import CASCADE, focus_picture, record_of, with_progress
from .dual import add_dual_options, dual_of
from .files import check_outputs, check_writable
from .models import (
    ADAPTER,
    add_models_option,
    choose_adapter,
    choose_models,
    folders_of,
    full_adapters,
    load_image_encoder,
)
from .parts import add_options, refuse_options_of_parts, run_parts
from .people import (
    add_person_options,
    check_saves,
    each,
    people_of,
    read,
    read_mask,
    read_masks,
    references_of,
)

if TYPE_CHECKING:
    from ..methods.paired.adapter import Adapter
    from ..prompts import Prompt
    from ..references.reference import FaceReference


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `generate` to the commands."""
    form = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = subparsers.add_parser("generate", help="make a portrait from photos and a sentence", **form)
    add = parser.add_argument
    add(
        "--method",
        choices=("paired", "parts2whole", "dual_pathway"),
        default="paired",
        help="paired: DHumanDiff (default); parts2whole; dual_pathway (our reading of DP-Adapter)",
    )
    add_person_options(add)
    add("--swap", action="store_true", help="exchange the two people; strengths and masks stay with @1 and @2")
    add("--prompt", required=True, help="a sentence; @1, @2 and so on behind a word say who it is")
    add("--negative", help="what to keep away from (default: as published; mini: nothing)")
    add("--mentions", choices=("first", "all"), default="first", help="which marked words carry a face")
    add("--out", type=Path, required=True, metavar="PNG", help="where the portrait goes; overwritten")
    add("--focus-out", type=Path, metavar="PNG", help="also write the cascade's focus mask")

    add_models_option(add)
    base = "diffusers folder, checkpoint .safetensors, mini, or tiny (default: the only SDXL checkpoint of --models)"
    add("--base", metavar="SDXL", help=base)
    add(
        "--vae",
        metavar="FILE",
        help="VAE in a file of its own, in place of the base's (SDXL's: no shape tells them apart)",
    )
    own = "default: {}, with the bases mini and tiny their own"
    add("--adapter", metavar="PATH", help=f"weights of the method, or mini, tiny ({own.format(ADAPTER)})")
    add(
        "--full-adapter",
        type=Path,
        metavar="PATH",
        help="that a low-rank --adapter changes (default: found beside it, or in --models)",
    )
    vision = "CLIP ViT-H/14: one file, folder, Hugging Face id, or mini, tiny ({})"
    add("--image-encoder", metavar="PATH", help=vision.format(own.format("that of --models, else IP-Adapter's")))
    pack = "open (YuNet, AuraFace), an InsightFace pack by name or folder, or mini, tiny ({})"
    add("--face-pack", metavar="NAME", help=pack.format(own.format("buffalo_l")))
    add("--face-root", type=Path, metavar="FOLDER", help="where models/<pack> is (default: --models, ~/.insightface)")
    add("--provider", default="auto", help="of face analysis: auto, CPU, CUDA, CoreML, DirectML")
    which = "largest, left-most, right-most, an index from 0, or whole-photo: head crops, for IP-Adapter without face models"
    add("--which-face", default="largest", metavar="FACE", help=which)
    add("--normalise-light", action="store_true", help="even out the light on the faces")

    add("--seed", type=int, default=0)
    size = f"px, multiples of 8 (default: 512x512; mini: {MINI['size']})"
    add("--size", metavar="WxH", help=size)
    add("--steps", type=int, help=f"of the sampler (default: 50; mini: {MINI['steps']})")
    add("--sampler", choices=("euler", "euler_ancestral"), help=f"default: euler; mini: {MINI['sampler']}")
    add("--cfg", type=float, help=f"guidance (default: 5; mini: {MINI['cfg']:g}); 1 switches it off")
    add("--mode", help="of the cascade: one_pass, two_strength, released, none (default: one_pass)")
    add("--scene-strength", type=float, help="of the faces outside of the faces (default: 0.7)")
    add("--face-strength", type=float, help="of the faces where they are (default: 1.0)")
    add("--focus-share", type=float, help="share of the picture that is face (default: 0.1)")
    add(
        "--focus", type=Path, metavar="PICTURE", help="greyscale, white where the faces are (default: found on the way)"
    )
    add("--strength", type=float, help="of the faces in the mode none (default: 1.0)")
    add("--start", type=float, help="share of sampling at which the faces begin to count (default: 0)")
    add("--end", type=float, help="share of sampling at which they cease to count (default: 1)")
    add_options(add)
    add_dual_options(add)
    add("--device", default="auto", help="auto, cuda, mps, cpu")
    add("--dtype", default="auto", help="auto, fp16, bf16, fp32")
    turns = "models wait in the computer's memory until it is their turn (default: where the GPU is too small for all)"
    add("--offload", choices=("on", "off"), help=turns)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Make the portrait that `args` describe and write it to `args.out`.

    Everything that can be refused without loading a model is refused first.
    """
    if args.method == "parts2whole":
        args.parsed_size = args.size and _size(args.size)
        dual_of(args)
        return run_parts(args)
    refuse_options_of_parts(args)
    dual = dual_of(args)
    _fill_defaults(args)
    _check_words(args)
    size = _size(args.size)
    people = people_of(args)
    for path in filter(None, (args.out, args.focus_out)):
        check_writable(path, "picture", ".png")
    if args.focus_out and args.mode == "none":
        raise HostError(
            "The mode none has no focus mask: leave --focus-out away, or choose one of the others.",
            code="no-focus-without-cascade",
        )
    if args.focus and args.mode == "none":
        raise HostError(
            "The mode none has no focus: leave --focus away, or choose one of the others.",
            code="no-focus-without-cascade",
        )
    folders = folders_of(args)
    for line in choose_models(args, folders):
        print(line)
    photos = [source for person in people for source in person.sources]
    models = (args.base, args.vae, args.adapter, args.full_adapter, args.pathway, args.image_encoder)
    read_files = [*photos, *each(args, "mask"), args.focus, *models]
    outputs = {"--out": args.out, "--focus-out": args.focus_out}
    outputs |= {f"--save-reference-{person.number}": person.save for person in people}
    check_outputs(outputs, read_files)

    from ..hosts.diffusers.loading import BUILT_IN, check_base, choose_device
    from ..hosts.diffusers.pipeline import NEGATIVE, PortraitPipeline, check_settings
    from ..methods.paired.settings import CascadeSettings, SamplingSettings
    from ..prompts import parse_prompt

    built_in = args.base if args.base in BUILT_IN else None
    if built_in:
        print(_BUILT_IN_NOTES[built_in])
    factors = [1.0 if factor is None else factor for factor in each(args, "strength")]
    cascade = CascadeSettings(args.mode, args.scene_strength, args.face_strength, args.focus_share, args.strength)
    sampling = SamplingSettings(
        steps=args.steps,
        cfg=args.cfg,
        sampler=args.sampler,
        seed=args.seed,
        size=size,
        start=args.start,
        end=args.end,
        person_strengths=tuple(factors[: len(people)]),
    )
    check_settings(cascade, sampling)
    prompt = parse_prompt(args.prompt, persons=len(people), mentions=args.mentions)
    negative = NEGATIVE if args.negative is None else args.negative
    device = choose_device(args.device)
    check_base(args.base, args.vae)
    found = [read(person) for person in people]
    check_saves([person.save for person in people if person.save])
    masks = dual.regions(len(people), size) if dual else read_masks(each(args, "mask")[: len(people)], size)
    focus = read_mask(args.focus, size, "the faces are")[0] if args.focus else None
    for name in ("transformers", "diffusers"):
        require(name)

    for line in choose_adapter(args, folders):
        print(line)
    path, full = args.adapter or built_in, full_adapters(args, folders)
    adapter = dual.load(partial(_adapter, full=full), path) if dual else _adapter(path, full)
    adapter.check_persons(len(people))
    pack = args.face_pack or built_in or "buffalo_l"
    references = references_of(
        people,
        found,
        lambda: load_image_encoder(args, built_in, folders, adapter.info.clip_width, device),
        lambda: _faces(pack, args, adapter),
        args.normalise_light,
        drawn=_is_drawn(pack, args),
    )
    for note in dual.notes if dual else ():
        print(f"note: {note}")
    limited = [*masks] if dual and masks is not None else each(args, "mask")[: len(people)]
    _tell_warnings(adapter, references, prompt, limited)
    offload = {None: None, "on": True, "off": False}[args.offload]
    portrait = PortraitPipeline.from_base(args.base, device, args.dtype, args.vae, offload)
    if not portrait.offload:
        (dual or adapter).to(portrait.device)
    if adapter.has_subject_path:
        print(portrait.bound_words(prompt))
    started = time.monotonic()
    settings = {"cascade": cascade, "sampling": sampling, "masks": masks, "focus": focus}
    draw = dual.drawing(portrait) if dual else portrait
    image, focus = with_progress(draw, adapter, references, prompt, negative, **settings)
    record = record_of(args, people, cascade, sampling, negative, adapter, portrait, dual)
    write_png(image, args.out, record)
    if args.focus_out:
        write_png(focus_picture(focus, size), args.focus_out, record)
    print(f"{args.out}: {size[0]} x {size[1]} px, seed {args.seed}, {time.monotonic() - started:.1f} s")


_BUILT_IN_NOTES = {
    "mini": "The mini base knows a small drawn world: give it drawn people and sentences of that world.",
    "tiny": "The tiny base has random weights: the picture will be noise. It shows that everything runs, no more.",
}


def _fill_defaults(args: argparse.Namespace) -> None:
    """What the command line leaves open and the base decides."""
    usual = {"size": "512x512", "steps": 50, "cfg": 5.0, "sampler": "euler"}
    for name, value in {**(MINI if args.base == "mini" else usual), **CASCADE}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _check_words(args: argparse.Namespace) -> None:
    """Refuse words that are looked at late or, with the base that is given, not at all."""
    from ..faces.insightface import check_provider

    check_provider(args.provider)
    try:
        (args.negative or "").encode()
    except UnicodeEncodeError as error:
        raise HostError(
            f"Character {error.start + 1} of --negative is none: it was typed or read in another encoding. Type it anew.",
            code="negative-not-text",
        ) from error


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise HostError(
            f"--size {text!r} is not clear: write width x height in px, for instance 512x768.", code="size-not-clear"
        )
    return int(parts[0]), int(parts[1])


def _adapter(path: str | None, full: Sequence[Path]) -> Adapter:
    from ..methods.paired.adapter import Adapter

    if path == "tiny":
        from ..testing import tiny_adapter

        return tiny_adapter()
    if path == "mini":
        from ..miniature import mini_adapter

        return mini_adapter()
    return Adapter.from_pretrained(path or ADAPTER, full=full)


def _is_drawn(pack: str, args: argparse.Namespace) -> bool:
    """Whether the miniature's faces are meant: with --face-root somebody's own pack of that name is."""
    return pack == "mini" and args.face_root is None


def _faces(pack: str, args: argparse.Namespace, adapter: Adapter) -> Any:
    from ..faces.same_recognizer import compare_analyzer, pack_of

    analyzer = _load_faces(pack, args)
    said = adapter.info.recognizer
    if adapter.has_subject_path and compare_analyzer(said, analyzer) == "other":
        raise FaceError(
            f"The adapter was trained with the face recognizer {said}, and the pack {analyzer.name} holds another one, whose "
            f"numbers mean nothing to it. Name {pack_of(said)}, the adapter's own, with --face-pack.",
            code="pack-of-another-recognizer",
        )
    return analyzer


def _load_faces(pack: str, args: argparse.Namespace) -> Any:
    if pack == "tiny":
        from ..testing import tiny_faces

        return tiny_faces()
    if _is_drawn(pack, args):
        from ..miniature.faces import mini_faces

        return mini_faces()
    from ..faces import load_face_analysis

    analyzer = load_face_analysis(pack, args.face_root, args.provider)
    if analyzer.note:
        print(f"note: {analyzer.note}")
    return analyzer


def _tell_warnings(adapter: Adapter, references: list[FaceReference], prompt: Prompt, masks: Sequence[Any]) -> None:
    from ..references.recognizers import check_trained_with, recognizer_warnings
    from ..references.reference import same_person_warning

    for warning in filter(None, (same_person_warning(*references), adapter.info.blending_note(masks))):
        print(f"warning: {warning}")
    if not adapter.has_subject_path:
        print("note: these weights have no subject path, so the faces act but no word of the prompt carries one.")
        return
    for reference in references:  # before the base is loaded
        reference.require("identity", by="the adapter")
        check_trained_with(reference, adapter.info.recognizer)
    for warning in recognizer_warnings(references, adapter.info.recognizer):
        print(f"warning: {warning} See --face-pack.")
    for note in prompt.notes(len(references)):
        print(f"note: {note}")
