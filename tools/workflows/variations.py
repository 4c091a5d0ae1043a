"""What else the pack does: repair, comparison, other samplers, other weights, and the miniature."""

from __future__ import annotations

from types import SimpleNamespace

from .graph import Graph, Node, Output
from .parts import (
    BEACH,
    GARDEN,
    IP_ADAPTER,
    LOOK,
    MINI,
    MINI_SIZE,
    SIDES,
    avoided,
    couple,
    decoded,
    drawn,
    empty,
    encoded,
    layout,
    load_adapter,
    miniature,
    models,
    paired,
    people,
    picked,
    plain,
    result,
    scored,
    sentence,
    start,
)


def face_repair() -> Graph:
    """The faces of a result drawn again, larger, each by its own person."""
    graph = start("face_repair")
    use = models(graph)
    pair = couple(graph, use)
    graph.group("2 Sentence, and the size")
    text = graph.add("PrimitiveStringMultiline", "The sentence", value=f"{SIDES} on a bench in a garden")["STRING"]
    graph.column()
    latent = empty(graph)
    graph.band()
    graph.group("3 Both people")
    said = sentence(graph, use, pair, text)
    model = paired(graph, use, pair)
    picture = drawn(graph, use, model, said, latent)
    graph.band()
    graph.group("5 Twice as large, and where the faces are")
    large = graph.add("ImageScaleBy", "Enlarge", image=picture.image, upscale_method="lanczos", scale_by=2.0)["IMAGE"]
    graph.column()
    graph.add("SaveImage", "Before", images=large, filename_prefix="face_repair_before", size=(340, 280))
    masks = graph.add("DHDFaceMasks", image=large, face_analysis=use.faces, **people(pair), text=text)
    graph.column()
    both = graph.add(
        "MaskComposite", "Both faces", destination=masks["mask_1"], source=masks["mask_2"], operation="add"
    )["MASK"]
    for k in (1, 2):
        graph.add("MaskPreview", f"Face of person {k}", mask=masks[f"mask_{k}"])
    encode = graph.add("VAEEncode", pixels=large, vae=use.vae)["LATENT"]
    graph.band()
    graph.group("6 Draw the faces again, each by its own person")
    inside = graph.add("SetLatentNoiseMask", samples=encode, mask=both)["LATENT"]
    model = paired(graph, use, pair, "Each person in their own mask", mask_1=masks["mask_1"], mask_2=masks["mask_2"])
    graph.column()
    sampler = graph.add(
        "DHDCascadeKSampler",
        model=model,
        positive=said.positive,
        negative=said.negative,
        latent_image=inside,
        focus=both,
        seed=1,
        steps=30,
        denoise=0.45,
        control="fixed",
    )
    graph.column()
    again = decoded(graph, use, sampler["latent"])
    graph.band()
    graph.group("7 Result")
    joined = graph.add("ImageCompositeMasked", "Nothing but the faces", destination=large, source=again, mask=both)[
        "IMAGE"
    ]
    graph.column()
    graph.add("SaveImage", "The portrait", images=joined, filename_prefix="face_repair")
    return graph


def compare_adapters() -> Graph:
    """The same people, sentence and noise with two adapters: a grid with scores."""
    graph = start("compare_adapters")
    use = models(graph)
    other = load_adapter(graph, IP_ADAPTER, "The other adapter")["adapter"]
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    text = f"{SIDES} on a bench in a garden"
    said = sentence(graph, use, pair, text)
    unmarked = graph.add("CLIPTextEncode", "The sentence for the other adapter", clip=use.clip, text=plain(text))[
        "CONDITIONING"
    ]
    graph.group("3 Size and places")
    latent = empty(graph, batch=2, title="Two seeds")
    graph.column()
    masks = layout(graph, latent, "side by side")
    graph.band()
    graph.group("Both people, twice")
    first = paired(graph, use, pair, "Pair by the first adapter")
    use.adapter = other
    second = paired(graph, use, pair, "Pair by the other adapter", **masks)
    scores: list[Node] = []
    for group, model, positive, other in (
        ("4 Draw with the first", first, said.positive, False),
        ("4 Draw with the other", second, unmarked, True),
    ):
        said.positive = positive
        picture = drawn(graph, use, model, said, latent, group=group, below=other, control="fixed")
        graph.column()
        scores.append(scored(graph, use, pair, picture.image, text, least_similarity=0.4))
    graph.band()
    graph.group("5 A row a seed: the first adapter, the other")
    seeds = [
        [graph.add("ImageFromBatch", image=one["boxed"], batch_index=k)["IMAGE"] for one in scores] for k in (0, 1)
    ]
    graph.column()
    rows = [graph.add("ImageStitch", image1=left, image2=right)["IMAGE"] for left, right in seeds]
    graph.column()
    grid = graph.add("ImageStitch", image1=rows[0], image2=rows[1], direction="down")["IMAGE"]
    for title, one in zip(("Scores of the first", "Scores of the other"), scores, strict=True):
        graph.add("PreviewAny", title, source=one["report"])
    graph.column()
    graph.add("SaveImage", "The grid", images=grid, filename_prefix="compare_adapters", size=(520, 460))
    return graph


def custom_sampler() -> Graph:
    """The cascade with any sampler and any schedule."""
    graph = start("custom_sampler")
    use = models(graph)
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    said = sentence(graph, use, pair, GARDEN)
    graph.group("3 Both people, and the size")
    model = paired(graph, use, pair)
    latent = empty(graph)
    graph.band()
    graph.group("4 Noise, guider, sampler, schedule")
    noise = graph.add("RandomNoise", noise_seed=1)["NOISE"]
    guider = graph.add("DHDCascadeGuider", model=model, positive=said.positive, negative=said.negative)["guider"]
    sampler = graph.add("KSamplerSelect", sampler_name="dpmpp_2m")["SAMPLER"]
    sigmas = graph.add("BasicScheduler", model=model, scheduler="karras", steps=25)["SIGMAS"]
    graph.column()
    sampled = graph.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    graph.column()
    image = decoded(graph, use, sampled["output"])
    result(graph, image, "custom_sampler")
    return graph


def ip_adapter_faces() -> Graph:
    """Public IP-Adapter weights alone; what keeps the two apart are their places."""
    graph = start("ip_adapter_faces")
    use = models(graph, IP_ADAPTER)
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence, without marks")
    text = plain(f"{SIDES} on a bench in a garden")
    positive = graph.add("CLIPTextEncode", "The sentence", clip=use.clip, text=text)["CONDITIONING"]
    said = SimpleNamespace(positive=positive, negative=avoided(graph, use))
    graph.group("3 Size and places")
    latent = empty(graph, 1024, 1024)
    graph.column()
    masks = layout(graph, latent, "side by side", 1024, 1024)
    graph.band()
    graph.group("Both people, each in their place")
    model = paired(graph, use, pair, **masks)
    picture = drawn(graph, use, model, said, latent, face_strength=0.9)
    result(graph, picture.image, "ip_adapter_faces")
    return graph


# --- with nothing downloaded ---------------------------------------------------------------------------------------------


def two_drawn(graph: Graph, use: SimpleNamespace) -> tuple[Output, Output]:
    """The two example people, through the switch that exchanges them."""
    graph.band()
    graph.group("1 Who")
    images = [
        graph.add("DHDDrawPerson", f"Person {k}", person=number, gender=gender)["image"]
        for k, (number, gender) in enumerate(((8, "woman"), (7, "man")), 1)
    ]
    first, second = encoded(graph, use, images)
    graph.column()
    swap = graph.add("DHDSwapPersons", **people((first["reference"], second["reference"])))
    return swap["person_1"], swap["person_2"]


def enlarged(graph: Graph, image: Output) -> Output:
    """A picture of the miniature, as large as one looks at."""
    scale = LOOK / MINI_SIZE[0]
    return graph.add("ImageScaleBy", "Enlarge to look at", image=image, upscale_method="bicubic", scale_by=scale)[
        "IMAGE"
    ]


def mini_dual_portrait() -> Graph:
    """A portrait in seconds."""
    graph = start("mini_dual_portrait", "00000000-0000-0000-0000-000000000000")
    use = miniature(graph)
    pair = two_drawn(graph, use)
    graph.band()
    graph.group("2 Sentence")
    said = sentence(graph, use, pair, BEACH, avoid="")
    graph.group("3 Both people, and the size")
    model = paired(graph, use, pair)
    latent = empty(graph, *MINI_SIZE)
    picture = drawn(graph, use, model, said, latent, seed=12, **MINI)
    graph.add("MaskPreview", "Where the faces are", mask=picture.focus)
    graph.add("PreviewAny", "Which word is whom", source=said.words)
    graph.band()
    graph.group("5 Result")
    large = enlarged(graph, picture.image)
    graph.column()
    graph.add("PreviewImage", "The portrait", images=large, size=(540, 420))
    return graph


def mini_score() -> Graph:
    """The three nodes that look at a result."""
    graph = start("mini_score", "5c0e6a0e-6a1f-4a8c-9a54-6d1f0b1c7a21")
    use = miniature(graph)
    pair = two_drawn(graph, use)
    graph.group("2 Sentence")
    text = graph.add("PrimitiveStringMultiline", "The sentence", value=BEACH)["STRING"]
    graph.band()
    graph.group("3 Both people, four tries")
    said = sentence(graph, use, pair, text, avoid="")
    model = paired(graph, use, pair)
    latent = empty(graph, *MINI_SIZE, batch=4, title="Four at once")
    picture = drawn(graph, use, model, said, latent, **MINI)
    graph.column()
    large = enlarged(graph, picture.image)
    graph.band()
    graph.group("5 The best of four")
    graph.add("PreviewImage", "All four", images=large)
    best = picked(graph, use, pair, large, text)
    graph.band()
    graph.group("6 Who is on it")
    score = scored(graph, use, pair, best["best"], text, least_similarity=0.2)
    masks = graph.add("DHDFaceMasks", image=best["best"], face_analysis=use.faces, **people(pair), text=text)
    graph.column()
    graph.add("PreviewAny", "The four, the best first", source=best["report"], size=(360, 200))
    graph.add("PreviewAny", "Who is on it", source=score["report"], size=(360, 140))
    for k in (1, 2):
        graph.add("MaskPreview", f"The face of person {k}", mask=masks[f"mask_{k}"], size=(360, 160))
    return graph
