"""Portraits by photos: the first one, and the occasions and ways to steer it."""

from __future__ import annotations

from .graph import Graph
from .parts import (
    FILES,
    GARDEN,
    NEGATIVE,
    OLD_LOOKS,
    OLD_PHOTOS,
    POSES,
    SIDES,
    STYLE,
    couple,
    drawn,
    empty,
    encoded,
    layout,
    models,
    paired,
    photos,
    picked,
    result,
    scored,
    sentence,
    start,
)


def dual_portrait() -> Graph:
    """The first portrait."""
    graph = start("dual_portrait", "8d6c2f0e-3f4b-4c56-9a1e-d1b5b5a7c201")
    use = models(graph)
    found = encoded(graph, use, photos(graph))
    graph.column()
    swap = graph.add("DHDSwapPersons", reference_1=found[0]["reference"], reference_2=found[1]["reference"])
    for k, one in enumerate(found, 1):
        graph.add("PreviewAny", f"About photo {k}", source=one["report"])
    pair = swap["person_1"], swap["person_2"]
    graph.band()
    graph.group("2 Sentence")
    said = sentence(graph, use, pair, GARDEN)
    graph.group("3 Both people, and the size")
    model = paired(graph, use, pair)
    latent = empty(graph)
    picture = drawn(graph, use, model, said, latent, steps=50)
    graph.add("MaskPreview", "Where the faces are", mask=picture.focus)
    graph.add("PreviewAny", "Which word is whom", source=said.words)
    result(graph, picture.image, "dual_portrait")
    return graph


WEDDING = """A bride@1 on the left and a groom@2 on the right under an old oak in a park.
A bride@1 on the left and a groom@2 on the right on a pier at sunset.
A bride@1 on the left and a groom@2 on the right on the steps of a church.
A bride@1 on the left and a groom@2 on the right in a field of lavender.
A bride@1 on the left and a groom@2 on the right on a beach.
A bride@1 on the left and a groom@2 on the right in a library.
A bride@1 on the left and a groom@2 on the right in a snowy forest.
A bride@1 on the left and a groom@2 on the right on a street in the old town at night.
A bride@1 on the left and a groom@2 on the right in a rose garden.
A bride@1 on the left and a groom@2 on the right at a table with candles."""
WORN = "The bride@1 wears a white wedding dress, the groom@2 a black suit"


def wedding_preview() -> Graph:
    """One couple, ten sentences, the best of four each."""
    graph = start("wedding_preview")
    use = models(graph)
    pair = couple(graph, use)
    graph.group("2 Sentences")
    text = graph.add("DHDSentences", "One sentence a line", text=WEDDING, after=WORN)["sentences"]
    graph.band()
    graph.group("3 Both people, four tries each")
    said = sentence(graph, use, pair, text)
    model = paired(graph, use, pair)
    latent = empty(graph, batch=4, title="Four tries a sentence")
    picture = drawn(graph, use, model, said, latent)
    graph.band()
    graph.group("5 The best of four, ten times")
    best = picked(graph, use, pair, picture.image, text)
    graph.column()
    graph.add("SaveImage", "The ten portraits", images=best["best"], filename_prefix="wedding_preview", size=(460, 300))
    score = scored(graph, use, pair, best["best"], text)
    graph.column()
    graph.add("PreviewAny", "Of each sentence the four, the best first", source=best["report"], size=(400, 340))
    graph.add("PreviewAny", "Who is on each portrait", source=score["report"], size=(400, 340))
    return graph


def parent_and_child() -> Graph:
    """Two people of unlike size, each with a place."""
    graph = start("parent_and_child")
    use = models(graph)
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    text = (
        "A mother@1 on the left and a boy@2 on the right bake a cake in a bright kitchen. "
        "The mother@1 wears a blue dress, the boy@2 a yellow sweater"
    )
    said = sentence(graph, use, pair, text)
    graph.group("3 Size and places")
    latent = empty(graph)
    graph.column()
    masks = layout(graph, latent, "parent and child")
    graph.band()
    graph.group("Both people")
    model = paired(graph, use, pair, **masks)
    picture = drawn(graph, use, model, said, latent)
    result(graph, picture.image, "parent_and_child")
    return graph


def two_friends() -> Graph:
    """Two of one gender, the hardest pairs: sides, clothes, places, and the best of four."""
    graph = start("two_friends")
    use = models(graph)
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    text = graph.add(
        "PrimitiveStringMultiline",
        "The sentence",
        value="A woman@1 on the left in a red dress and another woman@2 on the right in a green dress laugh in a sunny garden",
    )["STRING"]
    graph.group("3 Size and places")
    latent = empty(graph, batch=4, title="Four tries")
    graph.column()
    masks = layout(graph, latent, "side by side")
    graph.band()
    graph.group("Both people")
    said = sentence(graph, use, pair, text)
    model = paired(graph, use, pair, **masks)
    picture = drawn(graph, use, model, said, latent)
    graph.band()
    graph.group("5 The best of four")
    best = picked(graph, use, pair, picture.image, text)
    graph.column()
    graph.add("SaveImage", "The portrait", images=best["best"], filename_prefix="two_friends")
    graph.add("PreviewAny", "The four, the best first", source=best["report"])
    return graph


def fixed_poses() -> Graph:
    """Who stands how, by a drawing of both."""
    graph = start("fixed_poses")
    use = models(graph)
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    said = sentence(graph, use, pair, f"{SIDES} dance in a ballroom")
    graph.group("3 Both people, and the size")
    model = paired(graph, use, pair)
    latent = empty(graph, 768, 768)
    graph.band()
    graph.group("Poses")
    net = graph.add("ControlNetLoader", control_net_name=POSES, models=FILES[POSES])
    pose = graph.add("LoadImage", "Poses of both (OpenPose)", image="two_poses.png")
    graph.column()
    held = graph.add(
        "ControlNetApplyAdvanced",
        positive=said.positive,
        negative=said.negative,
        control_net=net["CONTROL_NET"],
        image=pose["IMAGE"],
        strength=0.8,
        end_percent=0.8,
    )
    said.positive, said.negative = held["positive"], held["negative"]
    picture = drawn(graph, use, model, said, latent)
    result(graph, picture.image, "fixed_poses")
    return graph


def style_lora() -> Graph:
    """A style over both."""
    graph = start("style_lora")
    use = models(graph)
    graph.band()
    graph.group("Style")
    lora = graph.add(
        "LoraLoader",
        model=use.model,
        clip=use.clip,
        lora_name=STYLE,
        strength_model=0.8,
        strength_clip=0.8,
        models=FILES[STYLE],
    )
    use.model, use.clip = lora["MODEL"], lora["CLIP"]
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    said = sentence(
        graph, use, pair, f"Watercolour painting. {SIDES} on a bench in a garden", avoid="photo, lowres, bad anatomy"
    )
    graph.group("3 Both people, and the size")
    model = paired(graph, use, pair)
    latent = empty(graph)
    picture = drawn(graph, use, model, said, latent, scene_strength=0.6, face_strength=1.1)
    result(graph, picture.image, "style_lora")
    return graph


def painted_regions() -> Graph:
    """Where each may be, painted by hand."""
    graph = start("painted_regions")
    use = models(graph)
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    said = sentence(graph, use, pair, f"{SIDES} on a staircase")
    latent = empty(graph)
    graph.group("3 Regions, painted in the mask editor")
    painted = [graph.add("LoadImage", f"Paint where person {k} may be", image=f"region_{k}.png") for k in (1, 2)]
    graph.band()
    graph.group("Both people, each in their region")
    model = paired(graph, use, pair, mask_1=painted[0]["MASK"], mask_2=painted[1]["MASK"])
    for k, one in enumerate(painted, 1):
        graph.add("MaskPreview", f"Region of person {k}", mask=one["MASK"])
    picture = drawn(graph, use, model, said, latent)
    result(graph, picture.image, "painted_regions")
    return graph


def old_photos() -> Graph:
    """Out of two worn photographs a new one."""
    graph = start("old_photos")
    use = models(graph)
    pair = couple(graph, use, OLD_PHOTOS, normalise_light=True)
    graph.band()
    graph.group("2 Sentence")
    text = "Colour photograph of a man@1 and a woman@2 at a table in a sunny garden. The man@1 wears a blue shirt, the woman@2 a red dress"
    said = sentence(graph, use, pair, text, avoid=f"{OLD_LOOKS}, {NEGATIVE}")
    graph.group("3 Both people, and the size")
    model = paired(graph, use, pair, end=0.85)
    latent = empty(graph)
    picture = drawn(graph, use, model, said, latent, scene_strength=0.5, face_strength=0.9)
    result(graph, picture.image, "old_photos")
    return graph
