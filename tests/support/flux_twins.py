"""Twins of the workflows on FLUX: small enough for a test, on the tiny FLUX, with drawn people.

    fill_flux(base, folder)             # the files that those workflows name
    server.run(on_the_tiny_flux(prompt))

All nodes stay as they are shipped, the loaders included: the tiny FLUX, its towers, WithAnyone's and SigLIP's files lie under the
shipped names. Draw Person stands in for photos, and the miniature finds their faces under the name of the recognizer that
WithAnyone asks for. Size and steps are small, so a stock Upscale Image stands in for FluxKontextImageScale, which makes a megapixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.workflows.flux import AUTOENCODER, CLIP_L, EDITING, FACES, FLUX, KONTEXT, SIGLIP, T5, WITHANYONE

SIZE = {"width": 128, "height": 96}
STEPS = 2
PEOPLE = ((4, "woman"), (14, "man"), (8, "woman"), (7, "man"))
"""Number and gender for Draw Person."""


def on_the_tiny_flux(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt in API form, made small."""
    people = iter(PEOPLE)
    for key, node in list(prompt.items()):
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "LoadImage" and inputs.get("image", "person_").startswith("person_"):
            number, gender = next(people)
            given = {"person": number, "gender": gender, "view": 0, "size": 384}
            prompt[key] = {"class_type": "DHDDrawPerson", "inputs": given}
        elif kind == "DHDLoadFaceAnalysis":
            prompt[key] = {"class_type": "DrawnFacesForWithAnyone", "inputs": {}}
        elif kind == "EmptySD3LatentImage":
            inputs |= SIZE
        elif kind == "FluxKontextImageScale":
            given = {"image": inputs["image"], "upscale_method": "lanczos", "crop": "center", **SIZE}
            prompt[key] = {"class_type": "ImageScale", "inputs": given}
        elif kind == "KSampler":
            inputs["steps"] = STEPS
    return prompt


def fill_flux(models: Path) -> None:
    """The files of a models folder that workflows on FLUX name, and the tiny FLUX under its own names."""
    from support import model_folders, siglip, tiny_flux, tiny_withanyone, withanyone_files

    tiny_flux.write_models(models)
    towers = zip((CLIP_L, T5), tiny_flux.FILES["text_encoders"], strict=True)
    names = {
        "diffusion_models": [(name, tiny_flux.FILES["diffusion_models"]) for name in (FLUX, KONTEXT)],
        "text_encoders": towers,
        "vae": [(AUTOENCODER, tiny_flux.FILES["vae"])],
    }
    for folder, files in names.items():
        for name, tiny in files:
            (models / folder / name).hardlink_to(models / folder / tiny)
    tiny_withanyone.write_file(models / "withanyone" / WITHANYONE)
    withanyone_files.branch_file(models / "withanyone" / EDITING, "arc", **tiny_withanyone.sizes())
    siglip.siglip_file(models / "clip_vision" / SIGLIP)
    model_folders.face_pack(models / "insightface" / "models" / FACES)
