"""Parts2Whole: people with face, hair and clothes from pictures of their own, on its own Stable Diffusion 1.5."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from dhumandiff.catalogue import PARTS2WHOLE

from .graph import Graph, Output
from .parts import avoided, decoded, empty, layout, offered, result, start

FOLDER = PARTS2WHOLE.name
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
VISION = "clip-vit-large-patch14.safetensors"
FILES = {
    CHECKPOINT: offered(CHECKPOINT, "checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive:"),
    VISION: offered(VISION, "clip_vision", "openai/clip-vit-large-patch14:", "model.safetensors"),
}
"""File -> the download that its node may offer. Parts2Whole itself is a folder, which the command `download` fetches."""

SAMPLING = {"steps": 50, "cfg": 3.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
"""As published."""
ONE_SIZE = (512, 768)
"""Width and height of the pictures that the weights were trained with, px."""
TWO_SIZE = (768, 768)
POSE = "pose_map.png"

Parts = Sequence[tuple[str, str, str]]
"""Title, file and label of each part."""
ONE: Parts = (
    ("Face", "face.png", "face"),
    ("Jacket", "jacket.png", "upper body clothes"),
    ("Trousers", "trousers.png", "lower body clothes"),
)
BRIDE: Parts = (
    ("Bride's face", "bride_face.png", "face"),
    ("Veil", "veil.png", "hair or headwear"),
    ("Dress", "dress.png", "whole body clothes"),
)
GROOM: Parts = (("Groom's face", "groom_face.png", "face"), ("Suit", "suit.png", "whole body clothes"))

PERSON = "A young woman in a red jacket and dark trousers stands in front of a white wall, whole body, photo"
COUPLE = "A bride in a white dress and a groom in a black suit stand side by side in a garden, whole body, photo"


def parts_one() -> Graph:
    """One person from a face, a jacket and trousers, in a pose."""
    graph = start("parts_one")
    use = _models(graph, ONE_SIZE)
    graph.band()
    graph.group("1 Parts")
    parts = _encoded(graph, use, ONE)
    said = _sentence(graph, use, PERSON, "2 Sentence")
    graph.band()
    graph.group("3 Pose, and the picture")
    pose = graph.add("LoadImage", "Pose map (DensePose, raw IUV)", image=POSE)["IMAGE"]
    latent = empty(graph, *use.size)
    image = _drawn(graph, use, parts, said, latent, pose=pose)
    result(graph, image, "parts_one", "4 Result")
    return graph


def parts_wedding() -> Graph:
    """Bride and groom, each with parts and a place of their own."""
    graph = start("parts_wedding")
    use = _models(graph, TWO_SIZE)
    graph.band()
    graph.group("1 The bride")
    parts = _encoded(graph, use, BRIDE)
    said = _sentence(graph, use, COUPLE, "3 Sentence")
    graph.band()
    graph.group("2 The groom")
    parts = _encoded(graph, use, GROOM, person=2, before=parts)
    graph.group("4 Where each stands")
    width, height = use.size
    latent = graph.add("EmptyLatentImage", width=width, height=height, size=(470, 0))[
        "LATENT"
    ]  # fills the group's width
    graph.column()
    places = layout(graph, latent, "side by side", *TWO_SIZE)
    graph.band()
    graph.group("5 Both, and the picture")
    image = _drawn(graph, use, parts, said, latent, **places)
    result(graph, image, "parts_wedding", "6 Result")
    return graph


# --- parts --------------------------------------------------------------------------------------------------------------


def _models(graph: Graph, size: tuple[int, int]) -> SimpleNamespace:
    """What is loaded, and the picture's size, below the note: model, weights, clip, vae, vision, size."""
    graph.group("Models")
    loaded = graph.add("DHDLoadParts2Whole", folder=FOLDER)
    checkpoint = graph.add(
        "CheckpointLoaderSimple", "CLIP and VAE of SD 1.5", ckpt_name=CHECKPOINT, models=FILES[CHECKPOINT]
    )
    vision = graph.add("CLIPVisionLoader", "CLIP ViT-L/14", clip_name=VISION, models=FILES[VISION])
    graph.group("Size of the picture, for everything")
    width, height = (
        graph.add("PrimitiveInt", title, value=value, control="fixed")["INT"]
        for title, value in zip(("Width", "Height"), size, strict=True)
    )
    return SimpleNamespace(
        model=loaded["model"],
        weights=loaded["weights"],
        clip=checkpoint["CLIP"],
        vae=checkpoint["VAE"],
        vision=vision["CLIP_VISION"],
        size=(width, height),
    )


def _encoded(graph: Graph, use: SimpleNamespace, parts: Parts, person: int = 1, before: Output | None = None) -> Output:
    """A picture and a part each, every part to the right of the one before it; the next picture stands below."""
    for title, file, label in parts:
        image = graph.add("LoadImage", title, image=file)["IMAGE"]
        graph.column()
        width, height = use.size
        chained = {} if before is None else {"parts": before}
        before = graph.add(
            "DHDEncodePart",
            f"Part: {title.lower()}",
            weights=use.weights,
            image=image,
            part=label,
            clip=use.clip,
            vae=use.vae,
            clip_vision=use.vision,
            width=width,
            height=height,
            person=person,
            **chained,
        )["parts"]
    assert before is not None
    return before


def _sentence(graph: Graph, use: SimpleNamespace, text: str, group: str) -> SimpleNamespace:
    """The sentence, and what to avoid: nothing, as published."""
    graph.group(group)
    positive = graph.add("CLIPTextEncode", "The sentence", clip=use.clip, text=text)["CONDITIONING"]
    graph.column()
    return SimpleNamespace(positive=positive, negative=avoided(graph, use, ""))


def _drawn(
    graph: Graph, use: SimpleNamespace, parts: Output, said: SimpleNamespace, latent: Output, **more: Output
) -> Output:
    """The people on the model, the sampler and the decoder. `more`: a pose, or masks."""
    if "pose" in more:
        graph.column()
    model = graph.add("DHDApplyParts", model=use.model, weights=use.weights, parts=parts, **more)["model"]
    graph.column()
    sampler = graph.add(
        "KSampler",
        model=model,
        positive=said.positive,
        negative=said.negative,
        latent_image=latent,
        seed=1,
        **SAMPLING,
    )
    graph.column()
    return decoded(graph, use, sampler["LATENT"])
