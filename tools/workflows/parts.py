"""What the workflows have in common: the files they load, and the parts that they are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from dhumandiff.layout.layout import format_boxes, preset_boxes
from dhumandiff.miniature.defaults import defaults_of
from dhumandiff.miniature.design import SHIPPED, Design, design_of

from .graph import Graph, Node, Output
from .notes import NOTES

NEGATIVE = "monochrome, lowres, bad anatomy, worst quality, low quality"
HUB = "https://huggingface.co"
SIDE = 512
"""What the released weights were trained at, px."""


def offered(choice: str, directory: str, source: str, file: str | None = None) -> list[dict[str, str]]:
    """What a node may offer to download: the file behind a choice, out of a folder on Hugging Face, there called `file`."""
    name = choice.rpartition("/")[2]
    return [
        {"name": name, "url": f"{HUB}/{source.replace(':', '/resolve/main')}/{file or name}", "directory": directory}
    ]


CHECKPOINT = "sd_xl_base_1.0.safetensors"
VISION = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
ADAPTER = "DHumanDiff"
IP_ADAPTER = "ipadapter/ip-adapter-plus-face_sdxl_vit-h.safetensors"
"""As Load DHumanDiff Adapter names the files of models/ipadapter."""
PHOTOS = ("person_1.png", "person_2.png")
OLD_PHOTOS = ("old_photo_1.png", "old_photo_2.png")
OLD_LOOKS = "sepia, black and white, faded, scratches, film grain, blurry"
"""What a photo of today is not."""
POSES = "OpenPoseXL2.safetensors"
STYLE = "watercolor_v1_sdxl.safetensors"
FILES = {
    CHECKPOINT: offered(CHECKPOINT, "checkpoints", "stabilityai/stable-diffusion-xl-base-1.0:"),
    VISION: offered(VISION, "clip_vision", "h94/IP-Adapter:/models/image_encoder", "model.safetensors"),
    IP_ADAPTER: offered(IP_ADAPTER, "ipadapter", "h94/IP-Adapter:/sdxl_models"),
    POSES: offered(POSES, "controlnet", "thibaud/controlnet-openpose-sdxl-1.0:"),
    STYLE: offered(STYLE, "loras", "ostris/watercolor_style_lora_sdxl:"),
}

GARDEN = "A man@1 and a woman@2 on a bench in a garden. The man@1 wears a black tuxedo, the woman@2 a white dress"
SIDES = "A man@1 on the left in a black tuxedo and a woman@2 on the right in a white dress"

BEACH = "A woman@1 on the left in a red dress and a man@2 on the right in a blue suit stand on a beach."
MINI_SIZE = design_of(SHIPPED).size
"""Width and height of the pictures of the miniature that ships, px: workflows are for its weights, whichever are used here."""
LOOK = 512
"""Px that its pictures are enlarged to, to look at."""


def mini_sampling(design: Design) -> dict[str, Any]:
    """How a miniature draws, as samplers in ComfyUI call it."""
    usual = defaults_of(design)
    return {"steps": usual["steps"], "cfg": usual["cfg"], "sampler_name": usual["sampler"]}


MINI = mini_sampling(design_of(SHIPPED))


def plain(text: str) -> str:
    """A sentence without its marks, for CLIP Text Encode."""
    return text.replace("@1", "").replace("@2", "")


# --- parts --------------------------------------------------------------------------------------------------------------


def start(name: str, id: str | None = None) -> Graph:
    """A graph with its note."""
    graph = Graph(name, id)
    graph.band()
    graph.group(None)
    graph.note(NOTES[name])
    return graph


def models(graph: Graph, adapter: str = ADAPTER) -> SimpleNamespace:
    """What is loaded, below the note: model, clip, vae, towers (image encoders as inputs of Encode Reference Face), faces, adapter."""
    graph.group("Models")
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT, models=FILES[CHECKPOINT])
    vision = graph.add("CLIPVisionLoader", clip_name=VISION, models=FILES[VISION])
    faces = graph.add("DHDLoadFaceAnalysis", pack="buffalo_l")
    loaded = load_adapter(graph, adapter)
    return SimpleNamespace(
        model=checkpoint["MODEL"],
        clip=checkpoint["CLIP"],
        vae=checkpoint["VAE"],
        towers={"clip_vision": vision["CLIP_VISION"]},
        faces=faces["face_analysis"],
        adapter=loaded["adapter"],
    )


def load_adapter(graph: Graph, file: str, title: str | None = None) -> Node:
    """An adapter, with the download that the page may offer."""
    return graph.add("DHDLoadAdapter", title, adapter_name=file, models=FILES.get(file, ()))


def miniature(graph: Graph) -> SimpleNamespace:
    """The same out of the miniature."""
    graph.group("Models")
    loaded = graph.add("DHDLoadMiniature")
    return SimpleNamespace(
        **{name: loaded[name] for name in ("model", "clip", "vae", "adapter")},
        towers={"clip_vision": loaded["clip_vision"]},
        faces=loaded["face_analysis"],
    )


def photos(graph: Graph, files: Sequence[str] = PHOTOS) -> list[Output]:
    """Two photos, in a band of their own."""
    graph.band()
    graph.group("1 Photos")
    return loaded_photos(graph, files)


def loaded_photos(graph: Graph, files: Sequence[str], first: int = 1) -> list[Output]:
    """Photos of the people from number `first` on."""
    return [graph.add("LoadImage", f"Photo of person {k}", image=file)["IMAGE"] for k, file in enumerate(files, first)]


def encoded(graph: Graph, use: SimpleNamespace, images: Sequence[Output], first: int = 1, **encode: Any) -> list[Node]:
    """What is known of the people from number `first` on, to the right of their photos."""
    graph.column()
    return [
        graph.add(
            "DHDEncodeReference",
            f"Reference of person {k}",
            image=image,
            face_analysis=use.faces,
            **use.towers,
            **encode,
        )
        for k, image in enumerate(images, first)
    ]


def couple(graph: Graph, use: SimpleNamespace, files: Sequence[str] = PHOTOS, **encode: Any) -> tuple[Output, Output]:
    """The references of two photos."""
    first, second = encoded(graph, use, photos(graph, files), **encode)
    return first["reference"], second["reference"]


def people(pair: tuple[Output, Output]) -> dict[str, Output]:
    """Both references as inputs."""
    return {"reference_1": pair[0], "reference_2": pair[1]}


def sentence(
    graph: Graph, use: SimpleNamespace, pair: tuple[Output, Output], text: Any, avoid: str = NEGATIVE
) -> SimpleNamespace:
    """The sentence with both people in it, and what to avoid: positive, negative, and which word is whom."""
    said = graph.add(
        "DHDSubjectPrompt", "Who is who (prompt)", clip=use.clip, adapter=use.adapter, **people(pair), text=text
    )
    negative = avoided(graph, use, avoid)
    return SimpleNamespace(positive=said["conditioning"], negative=negative, words=said["bound_words"])


def avoided(graph: Graph, use: SimpleNamespace, avoid: str = NEGATIVE) -> Output:
    """The negative prompt."""
    return graph.add("CLIPTextEncode", "What to avoid (negative)", clip=use.clip, text=avoid)["CONDITIONING"]


def paired(
    graph: Graph, use: SimpleNamespace, pair: tuple[Output, Output], title: str | None = None, **more: Any
) -> Output:
    """The model with both people."""
    return graph.add("DHDApplyPair", title, model=use.model, adapter=use.adapter, **people(pair), **more)["model"]


def empty(
    graph: Graph, width: int | Output = SIDE, height: int | Output = SIDE, batch: int = 1, title: str | None = None
) -> Output:
    """An empty latent."""
    return graph.add("EmptyLatentImage", title, width=width, height=height, batch_size=batch)["LATENT"]


def layout(graph: Graph, latent: Output, preset: str, width: int = SIDE, height: int = SIDE) -> dict[str, Output]:
    """A mask for each person by a preset, as inputs."""
    boxes = format_boxes(preset_boxes(preset, width, height))
    places = graph.add(
        "DHDPortraitLayout",
        "Where they are",
        size=(340, max(330, round(330 * height / width))),
        preset=preset,
        width=width,
        height=height,
        boxes=boxes,
        latent=latent,
    )
    return {"mask_1": places["mask_1"], "mask_2": places["mask_2"]}


def drawn(
    graph: Graph,
    use: SimpleNamespace,
    model: Output,
    said: SimpleNamespace,
    latent: Output,
    group: str = "4 Draw",
    below: bool = False,
    **sampling: Any,
) -> SimpleNamespace:
    """The cascade and the decoder, in a band of their own unless `below` the last group: image, focus."""
    if not below:
        graph.band()
    graph.group(group)
    settings = {"seed": 1, "steps": 30, **sampling}
    sampler = graph.add(
        "DHDCascadeKSampler",
        model=model,
        positive=said.positive,
        negative=said.negative,
        latent_image=latent,
        **settings,
    )
    graph.column()
    return SimpleNamespace(image=decoded(graph, use, sampler["latent"]), focus=sampler["focus"])


def decoded(graph: Graph, use: SimpleNamespace, latent: Output) -> Output:
    """The picture of a latent."""
    return graph.add("VAEDecode", samples=latent, vae=use.vae)["IMAGE"]


def scored(
    graph: Graph, use: SimpleNamespace, pair: tuple[Output, Output], image: Output, text: Any = "", **more: Any
) -> Node:
    """Who is on a picture."""
    return graph.add("DHDIdentityScore", image=image, face_analysis=use.faces, **people(pair), text=text, **more)


def picked(graph: Graph, use: SimpleNamespace, pair: tuple[Output, Output], image: Output, text: Any) -> Node:
    """The best of a batch."""
    return graph.add("DHDPickBest", image=image, face_analysis=use.faces, **people(pair), text=text)


def result(graph: Graph, image: Output, prefix: str, title: str = "5 Result") -> None:
    """The saved picture, at the right end."""
    graph.band()
    graph.group(title)
    graph.add("SaveImage", "The portrait", images=image, filename_prefix=prefix)
