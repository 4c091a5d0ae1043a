"""The pictures of help pages that show what a node does to a portrait, drawn by the miniature in a real ComfyUI.

python -m tools.help_pictures

Pictures of widgets (who_is_who.jpg, portrait_layout.jpg, doctor.jpg) are cut from screenshots of the page instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from PIL import Image

from .workflows import REPOSITORY
from .workflows.pictures import write_jpg
from .workflows.running import ran_prompt, shipped_server

HELP = REPOSITORY / "web" / "docs"
SIZE = (266, 200)
"""Of a picture in a row, px."""
GAP = 6


def row(pictures: Sequence[Image.Image], name: str) -> None:
    """Write pictures side by side."""
    made = Image.new("RGB", (len(pictures) * (SIZE[0] + GAP) - GAP, SIZE[1]), "white")
    for number, picture in enumerate(pictures):
        made.paste(picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS), (number * (SIZE[0] + GAP), 0))
    write_jpg(made, HELP / name)
    print(f"web/docs/{name}")


def changed(prompt: dict[str, Any], kind: str, **inputs: Any) -> dict[str, Any]:
    """A workflow in API form with other inputs of the node of that type."""
    [key] = [key for key, node in prompt.items() if node["class_type"] == kind]
    return {**prompt, key: {**prompt[key], "inputs": {**prompt[key]["inputs"], **inputs}}}


def make(server: Any) -> None:
    """All of them."""
    from support.twins import twin

    portrait = twin("mini_dual_portrait")

    def draw(prompt: dict[str, Any], name: str) -> dict[str, list[Image.Image]]:
        return ran_prompt(server, prompt, name).shown

    drawn = draw(portrait, "focus")
    plain = drawn["PreviewImage"][0]
    row([plain, drawn["MaskPreview"][0]], "focus.jpg")
    swapped = draw(changed(portrait, "DHDSwapPersons", swap=True), "swap_persons")["PreviewImage"][0]
    row([plain, swapped], "swap_persons.jpg")
    strengths = ({"strength": 0.0}, {}, {"strength_2": 0.0}, {"strength_1": 0.0})
    simple = stock_sampler(portrait)
    each = [draw(changed(simple, "DHDApplyPair", **given), "apply_pair")["PreviewImage"][0] for given in strengths]
    row(each, "apply_pair.jpg")
    scored = twin("mini_score")
    four = changed(scored, "DHDIdentityScore", image=batch_of(scored))
    row(draw(four, "score")["DHDIdentityScore"], "score.jpg")
    drawn = draw(scored, "face_masks")
    row([drawn["DHDPickBest"][0], *drawn["MaskPreview"]], "face_masks.jpg")


def stock_sampler(prompt: dict[str, Any]) -> dict[str, Any]:
    """With ComfyUI's own KSampler, which leaves the strengths to Apply Disparity-Aware Conditioning."""
    own = ("scene_strength", "face_strength", "focus_share", "mode")
    kept = {key: node for key, node in prompt.items() if node["class_type"] != "MaskPreview"}
    [key] = [key for key, node in kept.items() if node["class_type"] == "DHDCascadeKSampler"]
    inputs = {name: value for name, value in kept[key]["inputs"].items() if name not in own}
    return {**kept, key: {**kept[key], "class_type": "KSampler", "inputs": inputs}}


def batch_of(prompt: dict[str, Any]) -> list[Any]:
    """Where the batch comes from that Pick Best Portrait chooses of."""
    return next(node["inputs"]["image"] for node in prompt.values() if node["class_type"] == "DHDPickBest")


def main() -> None:
    """The command."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    with shipped_server() as server:
        make(server)


if __name__ == "__main__":
    main()
