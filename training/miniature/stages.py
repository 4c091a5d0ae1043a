"""The stages of the miniature, each a process of its own: `python -m training.miniature.stages NAME FOLDER` runs one.

A stage that was killed goes on where it was; one that is finished leaves FOLDER/done/NAME.json. Weights go to
FOLDER/weights, which is where every stage looks for those of earlier ones.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dhumandiff.miniature.design import DESIGN, FIRST, SECOND

__all__ = ["STAGES", "Stage", "configs_of", "finished", "stages_of"]

CONFIGS = Path(__file__).parent.parent / "configs"
_CONFIGS = {
    FIRST.name: {"train": ("mini.yaml",), "prepare": ("mini_prepare.yaml",)},
    SECOND.name: {"train": ("mini.yaml", "mini_256.yaml"), "prepare": ("mini_prepare.yaml", "mini_256_prepare.yaml")},
}
"""Of a design's adapter and its data."""

PICTURES = 24_000
"""That the autoencoder and the base see; of strangers, so that the base learns nobody."""
PEOPLE, MEETINGS = 3_000, 6_000
"""Training identities, and pictures of two of them, for the vision tower and the adapter."""
OTHERS = 4_000
"""Identities of the recognizer, and as many others of the judge."""
TOWER_STEPS = 1000
PARTS_COUPLES, PARTS_STEPS = 3_000, 1_800
"""Couples with pictures of their parts, and steps of Parts2Whole."""
TOLD_PICTURES, TOLD_FROM, TOLD_STEPS = 10_000, 50_000_000, 800
"""Pictures whose sentences say expressions and turns of heads, seeds from where, and steps of the base that learns from them."""
TOLD_MEETINGS = 600
"""Pictures with references that the adapter of the taught base learns from, whose sentences tell expressions."""
READ_PICTURES, READER_STEPS = 3_000, 1_800
"""Pictures that expressions are learned to be read from, and steps of that."""


@dataclass(frozen=True)
class Stage:
    """One stage: what has to be there, what it does, about how many minutes, the cores it keeps busy, whether it has a
    process for each that find each other as `accelerate launch` has them do, whether `run` takes a device, too, whether a
    build makes it on a GPU only, since two cores take hours for it, whether only rows of the table need it, and whether it
    stands on the base that knows expressions, <folder>/told."""

    needs: tuple[str, ...]
    run: Callable[..., Any]
    minutes: float
    what: str
    cores: int = 1
    together: bool = False
    on_device: bool = False
    on_gpu: bool = False
    for_rows: bool = False
    taught: bool = False


def configs_of(command: Literal["train", "prepare"]) -> list[str]:
    """The configurations of the miniature's adapter that is used, as options of `python -m training train` or `prepare`."""
    return [word for name in _CONFIGS[DESIGN.name][command] for word in ("--config", str(CONFIGS / name))]


def _pictures(folder: Path) -> None:
    from .renders import render_pictures

    render_pictures(folder / "pictures", PICTURES, 1)


def _identities(split: str, count: int, pair_images: int) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from .renders import render_pair_images, render_people

        render_people(folder / f"people_{split}", split, count, 8, 1)
        render_pair_images(folder / f"meetings_{split}", split, count, pair_images, 1)

    return run


def _autoencoder(folder: Path) -> None:
    import numpy as np

    from dhumandiff.miniature.weights import save_part

    from .autoencoder import encode_all, train_autoencoder, train_decoder
    from .renders import Renders

    renders = Renders(folder / "pictures")
    vae = train_decoder(folder, train_autoencoder(folder, renders, 2600), renders, 800)
    save_part("vae", vae.state_dict(), folder / "weights")
    np.save(folder / "pictures" / "latents.npy", encode_all(vae, renders["images"]).numpy())


def _vision(folder: Path) -> None:
    from dhumandiff.miniature.weights import save_part

    from .renders import Renders
    from .vision import train_image_encoder

    tower = train_image_encoder(folder, Renders(folder / "people_train"), Renders(folder / "meetings_train"), 1500)
    kept = {name: value for name, value in tower.state_dict().items() if not name.endswith("position_ids")}
    save_part("vision", kept, folder / "weights")


def _detector(folder: Path) -> None:
    from dhumandiff.miniature.weights import save_part

    from .faces import train_detector
    from .renders import Renders

    detector = train_detector(folder, Renders(folder / "pictures"), Renders(folder / "people_train"), 1500)
    save_part("detector", detector.state_dict(), folder / "weights")


def _recognizer(folder: Path) -> None:
    from dhumandiff.miniature.weights import save_part

    from .faces import faces_of, train_recognizer
    from .renders import Renders

    crops, labels = faces_of(Renders(folder / "people_recogniser"), Renders(folder / "meetings_recogniser"))
    model = train_recognizer(folder, "recogniser", crops, labels, 1100, 24, 4)
    save_part("recogniser", model.state_dict(), folder / "weights")


def _evaluator(folder: Path) -> None:
    from dhumandiff.miniature.base import mini_vae
    from dhumandiff.miniature.weights import save_part

    from .faces import faces_of, through_autoencoder, train_recognizer
    from .renders import Renders

    people, pair_images = Renders(folder / "people_judge"), Renders(folder / "meetings_judge")
    crops, labels = faces_of(people, pair_images, through_autoencoder(mini_vae(), pair_images))
    model = train_recognizer(folder, "judge", crops, labels, 1000, 32, 5)
    save_part("judge", model.state_dict(), folder / "weights")


def _towers(folder: Path) -> None:
    from .renders import Renders
    from .towers import Sentences, save_text_encoders, train_text_encoders

    sentences = Sentences.of(Renders(folder / "pictures").descriptions())
    save_text_encoders(train_text_encoders(folder, sentences, TOWER_STEPS), folder / "weights")


def _text_to_image(folder: Path) -> None:
    import torch
    from accelerate import Accelerator

    from dhumandiff.miniature.weights import save_part

    from .renders import Renders
    from .text_to_image import train_text_to_image
    from .towers import Sentences, train_text_encoders

    renders = Renders(folder / "pictures")
    sentences = Sentences.of(renders.descriptions())
    towers = train_text_encoders(folder, sentences, TOWER_STEPS)  # trained by then: they are only read
    latents, accelerator = torch.tensor(renders["latents"]), Accelerator(cpu=True)
    unet = train_text_to_image(folder, latents, renders["boxes"], sentences, towers, 3000, accelerator)
    if accelerator.is_main_process:
        save_part("unet", unet.state_dict(), folder / "weights")


def draw_parts_pictures(folder: Path) -> None:
    """Couples with pictures of their parts, as the run's miniature encodes them."""
    from .parts_data import draw_parts_data
    from .sampling import load_parts

    draw_parts_data(folder / "parts_pictures", load_parts(), PARTS_COUPLES, 2 * PEOPLE)


def train_parts2whole(folder: Path) -> None:
    """Parts2Whole on these couples, saved as a released folder."""
    from .parts_data import load_parts_data
    from .parts_training import save_weights, train_parts
    from .sampling import load_parts

    data = load_parts_data(folder / "parts_pictures")
    save_weights(folder / "parts2whole", *train_parts(folder, load_parts(), data, PARTS_STEPS), PARTS_STEPS)


def _told_latents(folder: Path) -> None:
    from dhumandiff.miniature.base import mini_vae

    from .latents import draw_latents
    from .told_data import draw_told

    draw_latents(folder / "told_latents", mini_vae(), TOLD_PICTURES, TOLD_FROM, draw=draw_told)


def _told_words(folder: Path) -> None:
    from .latents import Latents
    from .told_words import teach_face_words

    teach_face_words(folder, Latents.load(folder / "told_latents").descriptions, folder / "told")


def _told_base(folder: Path) -> None:
    from dhumandiff.miniature.base import mini_text_encoders
    from dhumandiff.miniature.weights import FOLDER, save_part

    from .base import Texts
    from .latents import Latents
    from .told_base import train_told_base

    data, texts = Latents.load(folder / "told_latents"), Texts(*mini_text_encoders(folder / "told"))
    save_part("unet", train_told_base(folder, data, texts, TOLD_STEPS).state_dict(), folder / "told")
    for part in FOLDER.glob("*.safetensors"):  # the rest as it is, so that DHUMANDIFF_MINI can name the folder
        if not (folder / "told" / part.name).exists():
            shutil.copyfile(part, folder / "told" / part.name)


def train_told_reader(folder: Path) -> None:
    """What expressions are read with, trained on drawings that went through this miniature's autoencoder."""
    from dhumandiff.miniature.base import mini_vae
    from dhumandiff.miniature.faces import mini_judge

    from .told_data import render_told_faces
    from .told_reading import save_reader, train_reader

    faces = folder / "told_faces.npz"
    if not faces.exists():
        render_told_faces(faces, mini_vae(), mini_judge(), "judge", OTHERS // 2, READ_PICTURES)
    save_reader(train_reader(folder, faces, READER_STEPS), folder / "told")


def _data(folder: Path, name: str = "data", count: int = MEETINGS, references: int = 4, tell: float = 0.0) -> None:
    from dhumandiff.miniature.world import people, write_dataset

    seeds = range(20_000_000, 20_000_000 + count)
    write_dataset(folder / name, seeds, people("train", PEOPLE), references=references, tell=tell)


def _prepare(folder: Path, data: str = "data", shards: str = "shards", workers: int = 2) -> None:
    from ..prepare import main

    places = ["--data", str(folder / data), "--out", str(folder / shards)]
    main([*configs_of("prepare"), *places, "--workers", str(workers)])


def _told_adapter(folder: Path) -> None:
    train_adapter(folder, "told_adapter", ("--config", str(CONFIGS / "mini_told.yaml")), "told_shards")
    save_adapter(folder / "runs" / "told_adapter", folder / "told" / "told_adapter.safetensors")


def train_adapter(folder: Path, run: str, arguments: tuple[str, ...] = (), shards: str = "shards") -> bool:
    """`python -m training train` with the miniature's configuration, on this process's share of the work.

    Args:
        folder: of the miniature's run.
        run: name of the adapter's.
        arguments: more of the command's.
        shards: name of the folder with the data.

    Returns:
        Whether this is the process that saves.
    """
    from ..train import main

    data = json.dumps([{"path": str(folder / shards)}])
    main([*configs_of("train"), "--data.folders", data, "--run", str(folder / "runs" / run), *arguments])
    return int(os.environ.get("RANK", "0")) == 0


def _adapter(folder: Path) -> None:
    if train_adapter(folder, "adapter"):
        save_adapter(folder / "runs" / "adapter", folder / "weights" / "adapter.safetensors")


def save_adapter(run: Path, path: Path) -> None:
    """The averaged weights of a run's last checkpoint, in half precision, as they ship."""
    from ..run.checkpoint import adapter_of_run
    from ..run.weights import build_weights, metadata_of

    trained = adapter_of_run(run)
    half = {name: value.half() for name, value in trained.state_dict().items()}
    metadata = metadata_of(trained)
    license_ = "pathway_licence" if "pathway_licence" in metadata else "licence"
    build_weights(half, {**metadata, license_: "Apache-2.0"}).save_pretrained(path)


STAGES: dict[str, Stage] = {
    "pictures": Stage((), _pictures, 4, "draw pictures of strangers"),
    "crowd_train": Stage((), _identities("train", PEOPLE, MEETINGS), 3, "draw the people of the vision tower"),
    "vision": Stage(("crowd_train",), _vision, 18, "train the vision tower"),
    "autoencoder": Stage(("pictures",), _autoencoder, 14, "train the autoencoder"),
    "crowd_judge": Stage((), _identities("judge", OTHERS, 8000), 4, "draw the judge's people"),
    "judge": Stage(("crowd_judge", "autoencoder"), _evaluator, 15, "train the judge"),
    "crowd_recogniser": Stage((), _identities("recogniser", OTHERS, 8000), 4, "draw the recogniser's people"),
    "recogniser": Stage(("crowd_recogniser",), _recognizer, 11, "train the recogniser"),
    "towers": Stage(("pictures",), _towers, 7, "train the text towers"),
    "detector": Stage(("pictures", "crowd_train"), _detector, 6, "train the face detector"),
    "data": Stage((), _data, 3, "write the adapter's data set"),
    "text_to_image": Stage(("autoencoder", "towers"), _text_to_image, 35, "train the UNet", 2, together=True),
    "prepare": Stage(
        ("data", "text_to_image", "vision", "recogniser", "detector"), _prepare, 9, "python -m training prepare", 2
    ),
    "parts_pictures": Stage(
        ("text_to_image", "vision"), draw_parts_pictures, 9, "draw couples and pictures of their parts", for_rows=True
    ),
    "parts2whole": Stage(("parts_pictures",), train_parts2whole, 55, "train Parts2Whole", for_rows=True),
    "told_latents": Stage(
        ("text_to_image",), _told_latents, 2, "draw pictures whose sentences say expressions", for_rows=True
    ),
    "told_words": Stage(("told_latents",), _told_words, 2, "teach the text towers these words", for_rows=True),
    "told_base": Stage(("told_words",), _told_base, 8, "teach the UNet to draw what they say", for_rows=True),
    "told_reader": Stage(("autoencoder", "judge"), train_told_reader, 3, "train who reads expressions", for_rows=True),
    "told_data": Stage(
        ("told_base",),
        partial(_data, name="told_data", count=TOLD_MEETINGS, references=2, tell=1.0),
        1,
        "write meetings that tell expressions",
        for_rows=True,
        taught=True,
    ),
    "told_shards": Stage(
        ("told_data",),
        partial(_prepare, data="told_data", shards="told_shards", workers=1),
        3,
        "python -m training prepare, on the base that was taught",
        for_rows=True,
        taught=True,
    ),
    "told_adapter": Stage(
        ("told_shards",), _told_adapter, 6, "teach the adapter the base that was taught", for_rows=True, taught=True
    ),
    "adapter": Stage(("prepare",), _adapter, 19, "python -m training train", 2, together=True),
}
"""In the order in which they are started, whenever two of them can run: the long ones first, so that no core waits before the
UNet needs both. Minutes as measured, beside some other work."""


def stages_of(design: str) -> dict[str, Stage]:
    """The stages that make the weights of a design."""
    if design == FIRST.name:
        return STAGES
    from .larger import STAGES as LARGER

    return LARGER


def finished(folder: Path, name: str) -> bool:
    """Whether a stage is done."""
    return (folder / "done" / f"{name}.json").exists()


def main(argv: list[str] | None = None) -> None:
    """Run one stage here. The rows' trainings come as `row:NAME` with their arguments."""
    name, place, *arguments = sys.argv[1:] if argv is None else argv
    folder, started = Path(place), time.monotonic()
    import torch

    if name == "look":
        from .look import look

        print(look(folder, int(arguments[0])))
        return
    device = "cpu"
    if arguments[:1] == ["--device"]:
        _, device, *arguments = arguments
    if device == "cpu":
        torch.set_num_threads(1)
    if name.startswith("row:"):
        from .ablations import ABLATIONS

        row = ABLATIONS[name.removeprefix("row:")]
        train_adapter(folder, row.name, tuple(arguments), row.shards)
    else:
        stage = stages_of(DESIGN.name)[name]
        stage.run(folder, device) if stage.on_device else stage.run(folder)
    if int(os.environ.get("RANK", "0")) == 0:
        (folder / "done").mkdir(exist_ok=True)
        entry = {"stage": name, "seconds": round(time.monotonic() - started, 1)}
        (folder / "done" / f"{name.replace(':', '_')}.json").write_text(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
