"""WithAnyone on FLUX.1: up to four people, each in a box, with the nodes and files that people of FLUX have."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from dhumandiff.catalogue import SIGLIP as SIGLIP_SOURCE
from dhumandiff.catalogue import WITHANYONE as WITHANYONE_SOURCE
from dhumandiff.layout.layout import format_boxes, preset_boxes

from .graph import Graph, Output
from .parts import decoded, encoded, loaded_photos, offered, result, start

FLUX = "flux1-dev.safetensors"
KONTEXT = "flux1-dev-kontext_fp8_scaled.safetensors"
CLIP_L, T5 = "clip_l.safetensors", "t5xxl_fp16.safetensors"
AUTOENCODER = "ae.safetensors"
SIGLIP = "siglip-base-patch16-256-i18n.safetensors"
WITHANYONE = "withanyone.safetensors"
EDITING = "WithAnyone.Ke.preview.safetensors"
"""The weights for edits with Kontext, which have ArcFace's branch alone. What the file is called where it lies could not be looked
up, so no download of it is offered."""
FACES = "antelopev2"
PHOTO = "photo_to_edit.png"
FILES = {
    FLUX: offered(FLUX, "diffusion_models", "Comfy-Org/flux1-dev:"),
    KONTEXT: offered(KONTEXT, "diffusion_models", "Comfy-Org/flux1-kontext-dev_ComfyUI:/split_files/diffusion_models"),
    T5: [one for name in (CLIP_L, T5) for one in offered(name, "text_encoders", "comfyanonymous/flux_text_encoders:")],
    AUTOENCODER: offered(AUTOENCODER, "vae", "Comfy-Org/Lumina_Image_2.0_Repackaged:/split_files/vae"),
    SIGLIP: offered(SIGLIP, SIGLIP_SOURCE.folder, f"{SIGLIP_SOURCE.repository}:", SIGLIP_SOURCE.files[0]),
    WITHANYONE: offered(WITHANYONE, WITHANYONE_SOURCE.folder, f"{WITHANYONE_SOURCE.repository}:"),
}
"""File -> the download that its node may offer, from where ComfyUI's own workflows have it."""

PRESET = "faces only"
"""Boxes of faces: what the weights were trained with."""
STEPS, GUIDANCE = 25, 4.0
"""As published."""
SHIFT = 0.4675
"""The constant shift of the published schedule."""
T5_LENGTH = 512
"""To how many tokens the published code fills up what T5 reads."""

COUPLE = (
    "A photo of two people on a bench in a garden, looking at the camera. On the left a young man with short brown hair in a black "
    "tuxedo, on the right a young woman with long dark hair in a white dress."
)
GROUP = (
    "A photo of four friends side by side on a beach at sunset, laughing. From left to right: a young man with short brown hair in a "
    "white shirt, a young woman with long dark hair in a red dress, a man of sixty with grey hair in a blue sweater, a young woman with "
    "blonde hair in a green dress."
)
EDIT = "Two people smile at the camera. High resolution, extremely detailed"


def withanyone_two() -> Graph:
    """Two people, each in a box."""
    return _portrait("withanyone_two", 2, COUPLE, (1024, 1024))


def withanyone_four() -> Graph:
    """Four people."""
    return _portrait("withanyone_four", 4, GROUP, (1344, 768))


def withanyone_parity() -> Graph:
    """Two people with all that the published code samples with."""
    return _portrait("withanyone_parity", 2, COUPLE, (1024, 1024), published=True)


def withanyone_kontext() -> Graph:
    """Other faces into a photo, by FLUX.1 Kontext."""
    graph = start("withanyone_kontext")
    use = _models(graph, KONTEXT, EDITING)
    references = _references(graph, use, 2)
    graph.band()
    graph.group("2 The photo, and whose face goes where")
    photo = graph.add("LoadImage", "Photo to edit", image=PHOTO)["IMAGE"]
    graph.column()
    photo = graph.add("FluxKontextImageScale", image=photo)["IMAGE"]
    graph.column()
    size = graph.add("VAEEncode", "Its size", pixels=photo, vae=use.vae)["LATENT"]
    graph.column()
    places = _layout(graph, size, 2, (1024, 1024), background=photo, feather=0.0)
    graph.band()
    graph.group("3 The old faces, blurred")
    both = graph.add(
        "MaskComposite", "Both boxes", destination=places["mask_1"], source=places["mask_2"], operation="add"
    )["MASK"]
    blurred = graph.add("ImageBlur", image=photo, blur_radius=31, sigma=10.0)["IMAGE"]
    graph.column()
    canvas = graph.add(
        "ImageCompositeMasked", "Blurred inside the boxes", destination=photo, source=blurred, mask=both
    )["IMAGE"]
    graph.column()
    seen = graph.add("VAEEncode", "What Kontext looks at", pixels=canvas, vae=use.vae)["LATENT"]
    graph.band()
    graph.group("4 Sentence")
    said = _sentence(graph, use, EDIT, seen)
    image = _drawn(graph, use, references, places["boxes"], said, size, "5 Both people, and the picture", form=0.0)
    result(graph, image, "withanyone_kontext", "6 Result")
    return graph


# --- parts --------------------------------------------------------------------------------------------------------------


def _portrait(name: str, people: int, text: str, size: tuple[int, int], published: bool = False) -> Graph:
    """Text to image with that many people."""
    graph = start(name)
    use = _models(graph)
    references = _references(graph, use, people)
    graph.band()
    graph.group("2 Sentence")
    if published:
        use.clip = graph.add("T5TokenizerOptions", "T5 reads 512 tokens", clip=use.clip, min_length=T5_LENGTH)["CLIP"]
        use.model = graph.add(
            "ModelSamplingFlux", "A constant shift", model=use.model, max_shift=SHIFT, base_shift=SHIFT
        )["MODEL"]
        graph.column()
    said = _sentence(graph, use, text)
    graph.group("3 Size and places")
    latent = graph.add("EmptySD3LatentImage", width=size[0], height=size[1])["LATENT"]
    graph.column()
    places = _layout(graph, latent, people, size)
    image = _drawn(graph, use, references, places["boxes"], said, latent, "4 Everybody on FLUX, and the picture")
    result(graph, image, name)
    return graph


def _models(graph: Graph, unet: str = FLUX, weights: str = WITHANYONE) -> SimpleNamespace:
    """What is loaded, below the note: model, clip, vae, faces, towers, withanyone."""
    graph.group("Models")
    flux = graph.add("UNETLoader", unet_name=unet, models=FILES[unet])
    text = graph.add("DualCLIPLoader", clip_name1=CLIP_L, clip_name2=T5, type="flux", models=FILES[T5])
    vae = graph.add("VAELoader", vae_name=AUTOENCODER, models=FILES[AUTOENCODER])
    faces = graph.add("DHDLoadFaceAnalysis", pack=FACES)
    siglip = graph.add("DHDLoadSigLIP", siglip_name=SIGLIP, models=FILES[SIGLIP])
    loaded = graph.add("DHDLoadWithAnyone", adapter_name=weights, models=FILES.get(weights, ()))
    return SimpleNamespace(
        model=flux["MODEL"],
        clip=text["CLIP"],
        vae=vae["VAE"],
        faces=faces["face_analysis"],
        towers={"siglip_vision": siglip["siglip_vision"]},
        withanyone=loaded["withanyone"],
    )


def _references(graph: Graph, use: SimpleNamespace, people: int) -> dict[str, Output]:
    """Photos and references, two below each other, as inputs."""
    graph.band()
    graph.group("1 Photos")
    found: dict[str, Output] = {}
    for first in range(1, people + 1, 2):
        if first > 1:
            graph.column()
        images = loaded_photos(graph, [f"person_{k}.png" for k in (first, first + 1)], first)
        for k, one in enumerate(encoded(graph, use, images, first), first):
            found[f"reference_{k}"] = one["reference"]
    return found


def _sentence(graph: Graph, use: SimpleNamespace, text: str, seen: Output | None = None) -> SimpleNamespace:
    """The sentence for FLUX: positive, and the negative that CFG 1 does not look at. `seen`: a latent that Kontext looks at."""
    words = graph.add("CLIPTextEncode", "The sentence", clip=use.clip, text=text, size=(380, 40))["CONDITIONING"]
    graph.column()
    positive = words
    if seen is not None:
        positive = graph.add("ReferenceLatent", conditioning=words, latent=seen)["CONDITIONING"]
        graph.column()
    positive = graph.add("FluxGuidance", conditioning=positive, guidance=GUIDANCE)["CONDITIONING"]
    negative = graph.add("ConditioningZeroOut", "Nothing to avoid (CFG 1)", conditioning=words)["CONDITIONING"]
    return SimpleNamespace(positive=positive, negative=negative)


def _layout(graph: Graph, latent: Output, people: int, size: Sequence[int], **more: Any) -> dict[str, Output]:
    """Boxes of faces, to be dragged."""
    width, height = size
    boxes = format_boxes(preset_boxes(PRESET, width, height, people))
    node = graph.add(
        "DHDPortraitLayout",
        "Where the faces are",
        preset=PRESET,
        width=width,
        height=height,
        boxes=boxes,
        latent=latent,
        people=people,
        **more,
    )
    return {name: node[name] for name in ("boxes", "mask_1", "mask_2")}


def _drawn(
    graph: Graph,
    use: SimpleNamespace,
    references: dict[str, Output],
    boxes: Output,
    said: SimpleNamespace,
    latent: Output,
    group: str,
    form: float = 0.5,
) -> Output:
    """The people on FLUX, the sampler and the decoder, in a band of their own."""
    graph.band()
    graph.group(group)
    model = graph.add(
        "DHDApplyWithAnyone", model=use.model, withanyone=use.withanyone, **references, boxes=boxes, form=form
    )["model"]
    graph.column()
    sampler = graph.add(
        "KSampler",
        model=model,
        positive=said.positive,
        negative=said.negative,
        latent_image=latent,
        seed=1,
        steps=STEPS,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
    )
    graph.column()
    return decoded(graph, use, sampler["LATENT"])
