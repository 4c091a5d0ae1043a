"""The miniature, from nothing: `python -m training mini` draws its world and trains everything that ships in dhumandiff/miniature.

    renders.py       pictures, people and references of the world, drawn once by many processes
    fit.py           the one small training loop that all frozen parts share: resumable, with EMA and a log
    autoencoder.py   8 px a latent
    faces.py         detector, recognizer, and the judge, which conditions nothing
    vision.py        a CLIP-like tower
    towers.py        two text towers, which learn what a sentence says, and of whom
    text_to_image.py the UNet: with the towers the base, which knows clothes, scenes and places but nobody's face
    build.py         all of it in order, then prepare and train for the adapter

    larger.py        the stages of the second design, 256 x 192 px, which ships. What sees and reads it takes from the first:
    latents.py       many pictures' latents; their pictures are not kept
    base.py          its UNet, which predicts the velocity; resumable at any time, on a CPU or a GPU
    redrawn.py       pictures with the base's own errors, which the decoder learns to mend
    look.py          what it draws by now, beside the world

    stages.py        the stages, each a process
    sampling.py, scoring.py, rendering.py        portraits in batches, and how good they are
    ablations.py, table.py                       what each part of the method is worth, and the table of it
    parts_drawing.py, parts_reading.py           clothes with patterns and pictures of parts, and reading clothes back
    parts_data.py, parts_training.py             Parts2Whole on them ...
    parts_scoring.py                             ... and whether the right person wears the right clothes
    evaluation.py                                the miniature's part of `python -m training evaluate`

The adapter is not trained here: `python -m training prepare` and `train` do that, with the config a user would copy.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m training mini`; see build.py."""
    from .build import main

    main(argv)
