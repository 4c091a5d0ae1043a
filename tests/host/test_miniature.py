"""The miniature in ComfyUI: the same numbers as in diffusers, drawn references, and weights that are not there."""

import functools
import json
import shutil
import subprocess
import sys

import comfy.cli_args
import comfy.lora
import comfy.utils
import pytest
import torch
from dhd_pack.dhumandiff.faces import Face
from dhd_pack.dhumandiff.hosts.diffusers.attention import attach
from dhd_pack.dhumandiff.miniature import base, mini_adapter
from dhd_pack.dhumandiff.miniature.autoencoder import LATENTS
from dhd_pack.dhumandiff.miniature.design import DESIGN
from dhd_pack.dhumandiff.miniature.weights import FOLDER, load_part
from dhd_pack.dhumandiff.miniature.world import SPLITS, draw_reference, draw_script, sample_script
from dhd_pack.dhumandiff.prompts import parse_prompt
from dhd_pack.dhumandiff.references.encode import clip_pixels
from dhd_pack.dhumandiff.references.reference import FaceReference
from dhd_pack.nodes.comfy import miniature as comfy_mini
from dhd_pack.nodes.comfy.encoders import encode_subject_prompt
from dhd_pack.nodes.comfy.patch import apply_people
from dhd_pack.nodes.comfy.vision import ClipVisionEncoder
from dhd_pack.nodes.miniature import DHDDrawPerson, DHDLoadMiniature, drawn_person
from dhd_pack.nodes.references import DHDEncodeReference
from PIL import Image
from support.comfyui import COMFYUI, REPOSITORY
from support.refused import refused
from support.sampling import guider, predict, sigma_at
from support.server import api_form

WORKFLOW = REPOSITORY / "workflows" / "mini_dual_portrait.json"
SENTENCE = (
    "A woman@1 on the left in a red dress and a man@2 on the right in a blue suit stand on a beach. The man@2 waves."
)


@pytest.fixture(scope="module")
def pipeline():
    return base.mini_pipeline()


@pytest.fixture(scope="module")
def loaded():
    return DHDLoadMiniature.execute().result


@pytest.fixture(scope="module")
def pictures():
    """Two drawn pairs, [2, 96, 128, 3] float 0..1."""
    couple = drawn_person(0, "woman"), drawn_person(0, "man")
    drawn = [draw_script(sample_script(seed, couple), seed).picture for seed in (1, 2)]
    return torch.stack([torch.from_numpy(picture.copy()) for picture in drawn]).float() / 255


LATENT = (1, LATENTS, base.SIZE[1] // 8, base.SIZE[0] // 8)


def cleaned(noisy, predicted, sigma):
    """The picture in noisy latents, of the noise or the velocity that was predicted."""
    if DESIGN.prediction == "epsilon":
        return noisy - predicted * sigma
    return noisy / (sigma**2 + 1) - predicted * sigma / (sigma**2 + 1) ** 0.5


def people():
    """Two random people as the miniature's encoders would see them."""
    found = []
    for seed in (1, 2):
        random = torch.Generator().manual_seed(seed)
        identity = torch.nn.functional.normalize(torch.randn(1, 512, generator=random), dim=-1)
        hidden, zero = torch.randn(2, 1, 65, 128, generator=random)
        found.append(FaceReference(identity, hidden, zero, identity_swapped=identity, name=f"person {seed}"))
    return found


def stock(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


# --- the same numbers in both hosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", parse_prompt(SENTENCE).text, "a groom in green at night, zebra"])
def test_text_is_encoded_as_in_diffusers(pipeline, loaded, text):
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
    ((ours, options),) = stock(loaded[1], text)
    assert ours.shape == (1, 77, 160)
    assert (ours - context).abs().max() < 1e-5
    assert (options["pooled_output"] - pooled).abs().max() < 1e-5


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_same_noise_is_predicted_as_in_diffusers(pipeline, loaded, strength):
    model, clip, adapter = loaded[0], loaded[1], loaded[5]
    prompt = parse_prompt(SENTENCE)
    positive, bound = encode_subject_prompt(clip, adapter, people(), prompt)
    assert [token.person for token in bound] == [1, 2]
    negative = stock(clip, "")
    timestep, (width, height) = 601, base.SIZE
    sigma = sigma_at(model, timestep)
    noisy = torch.randn(LATENT, generator=torch.Generator().manual_seed(5)) * sigma
    with attach(pipeline.unet, mini_adapter(), people(), strength=strength), torch.no_grad():
        predicted = pipeline.unet(
            (noisy / (sigma**2 + 1) ** 0.5).expand(2, -1, -1, -1),
            timestep,
            encoder_hidden_states=torch.cat([negative[0][0], positive[0][0]]),
            added_cond_kwargs={
                "text_embeds": torch.cat([prompt[0][1]["pooled_output"] for prompt in (negative, positive)]),
                "time_ids": torch.tensor(
                    [[height, width, 0, 0, height, width]] * 2
                ),  # what ComfyUI takes from the latent
            },
        ).sample
    patched = apply_people(model, adapter, people(), strength)
    for cfg, expected in zip((0.0, 1.0), cleaned(noisy, predicted, sigma), strict=True):
        got = predict(guider(patched, positive, negative, cfg), noisy, sigma)
        assert (got - expected).abs().max() / sigma < 1e-4


def test_a_size_that_it_was_not_trained_on_is_said_once(loaded, caplog):
    comfy_mini._note_size.cache_clear()
    noise, text = torch.zeros(1, LATENTS, 4, 4), torch.zeros(1, 77, sum(base.TEXT_WIDTHS))
    given = {"device": "cpu", "cross_attn": text, "pooled_output": torch.zeros(1, base.TEXT_WIDTHS[1])}
    for _ in range(2):
        loaded[0].model.extra_conds(noise=noise, **given)
    (said,) = (record.getMessage() for record in caplog.records)
    assert "{} x {} px".format(*base.SIZE) in said
    assert "At 32 x 32 px it loses faces" in said
    loaded[0].model.extra_conds(noise=torch.zeros(LATENT), **given)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_narrower_weights_predict_nearly_the_same(monkeypatch, loaded, dtype):
    prompt, noisy = stock(loaded[1], "a man and a woman"), torch.randn(LATENT)
    monkeypatch.setattr(comfy.cli_args.args, f"{dtype}_unet", True)
    narrow = comfy_mini.mini_model()
    assert narrow.model.get_dtype() == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    full, got = (predict(guider(m, prompt, cfg=1.0), noisy, sigma_at(m, 500)) for m in (loaded[0], narrow))
    assert (got - full).abs().max() < {"fp16": 0.01, "bf16": 0.05}[dtype] * full.abs().max()


def test_people_change_the_prediction(loaded):
    model, adapter = loaded[0], loaded[5]
    noisy, prompt = torch.randn(LATENT), stock(loaded[1], "a man and a woman")
    plain, paired = (
        predict(guider(m, prompt, cfg=1.0), noisy, sigma_at(model, 500))
        for m in (model, apply_people(model, adapter, people()))
    )
    assert not torch.allclose(plain, paired, atol=1e-3)


def test_pictures_are_encoded_and_decoded_as_in_diffusers(pipeline, loaded, pictures):
    vae = loaded[2]
    with torch.no_grad():
        latents = pipeline.vae.encode(pictures.movedim(-1, 1) * 2 - 1).latent_dist.mode()
        decoded = (pipeline.vae.decode(latents).sample.movedim(1, -1) / 2 + 0.5).clamp(0, 1)
    assert (vae.encode(pictures) - latents).abs().max() < 1e-4
    assert (vae.decode(latents) - decoded).abs().max() < 1e-4


def test_the_vision_tower_sees_what_the_one_of_transformers_sees(loaded, pictures):
    tower, theirs = ClipVisionEncoder(loaded[3]), base.mini_vision()
    assert tower.image_size == theirs.image_size == 96
    pixels = torch.cat([clip_pixels(pictures, 96), torch.zeros(1, 3, 96, 96)])
    ours = tower(pixels)
    assert ours.shape == (3, 65, 128)
    assert (ours - theirs(pixels)).abs().max() < 1e-4


def test_lora_files_find_the_layers(loaded):
    """In ComfyUI's names; its list of diffusers' ones counts on equally many layers in all levels."""
    found = comfy.lora.model_lora_keys_unet(loaded[0].model, {})
    there = loaded[0].model.diffusion_model.state_dict().keys()
    assert set(found.values()) >= {f"diffusion_model.{name}" for name in there if name.endswith(".weight")}


# --- drawn references -----------------------------------------------------------------------------------------------------


def drawn(person=0, gender="any", view=0, size=384):
    return DHDDrawPerson.execute(person, gender, view, size).result[0]


def test_a_number_is_always_the_same_person():
    """One whom nobody trained on."""
    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    assert not torch.equal(drawn(3), drawn(3, view=1))
    assert drawn(size=128).shape == (1, 128, 128, 3)
    assert 0 <= drawn().min() < drawn().max() <= 1
    assert all(drawn_person(n, g).seed in SPLITS["test"] for n in (0, 9999) for g in ("any", "woman", "man"))


def test_a_woman_is_a_grown_up_woman():
    for gender in ("woman", "man"):
        chosen = [drawn_person(number, gender) for number in range(40)]
        assert {who.gender for who in chosen} == {gender}
        assert "child" not in {who.age for who in chosen}
        assert len({who.name for who in chosen}) == 40
    assert {who.age for who in map(drawn_person, range(40))} >= {"child", "old"}


@pytest.mark.parametrize("size", [128, 256, 384])
def test_a_drawn_photo_becomes_a_reference(monkeypatch, loaded, size):
    who = drawn_person(2, "woman")
    truth = draw_reference(who, 5, size).people[0]
    faces = loaded[4]
    assert faces.name == "mini"
    # Where the face is, is the drawing's own: how well it is found is the miniature's own test.
    monkeypatch.setattr(faces, "detect", lambda image: [Face(truth.face_box, truth.landmarks)])
    reference, crop, report = DHDEncodeReference.execute(
        drawn(2, "woman", 5, size), loaded[3], faces, "largest", 0, False
    ).result
    assert reference.identity.shape == (1, 512)
    assert reference.clip_hidden.shape == (1, 65, 128)
    assert crop.shape[-1] == 3
    if size >= 256:
        assert "Nothing to improve" in report


def test_the_example_photos_are_what_the_workflow_draws():
    nodes = [n for n in json.loads(WORKFLOW.read_text())["nodes"] if n["type"] == "DHDDrawPerson"]
    for number, node in enumerate(sorted(nodes, key=lambda n: n["title"]), 1):
        shipped = Image.open(REPOSITORY / "examples" / f"mini_person_{number}.png")
        values = (drawn(*node["widgets_values"])[0] * 255).round().byte().numpy()
        assert shipped.size == (384, 384)
        assert shipped.tobytes() == values.tobytes()


# --- weights that are not there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["unet", "text_encoder_2", "vae", "vision", "adapter"])
@pytest.mark.parametrize("harm", ["missing", "cut off", "another file"])
def test_unusable_weights_are_named(monkeypatch, tmp_path, part, harm):
    """With what to do."""
    for name in ("unet", "text_encoder", "text_encoder_2", "vae", "vision", "adapter"):
        (tmp_path / f"{name}.safetensors").symlink_to(FOLDER / f"{name}.safetensors")
    file = tmp_path / f"{part}.safetensors"
    file.unlink()
    if harm == "cut off":
        file.write_bytes((FOLDER / file.name).read_bytes()[:5000])
    if harm == "another file":
        shutil.copyfile(FOLDER / "detector.safetensors", file)
    monkeypatch.setattr(comfy_mini, "FOLDER", tmp_path)
    monkeypatch.setattr(comfy_mini, "load_part", functools.partial(load_part, folder=tmp_path))
    make = {
        "unet": comfy_mini.mini_model,
        "text_encoder_2": comfy_mini.mini_clip,
        "vae": comfy_mini.mini_vae,
        "vision": comfy_mini.mini_clip_vision,
        "adapter": comfy_mini.mini_adapter_patcher,
    }[part]
    with refused("miniature-weights-unusable", f"{part}.safetensors", "install it again"):
        make()


def test_a_missing_layer_is_not_left_to_chance(monkeypatch):
    def without_one(name):
        tensors = load_part(name)
        del tensors[next(key for key in tensors if key.endswith(".bias"))]
        return tensors

    monkeypatch.setattr(comfy_mini, "load_part", without_one)
    for make in (comfy_mini.mini_model, comfy_mini.mini_clip, comfy_mini.mini_vae, comfy_mini.mini_clip_vision):
        with refused("miniature-weights-unusable"):
            make()


# --- as a user has it ---------------------------------------------------------------------------------------------------


ALONE = """
import importlib.util, sys, time

sys.path.insert(0, {comfyui!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
sys.modules.update(dict.fromkeys(("diffusers", "insightface", "onnxruntime", "cv2")))  # None: as if not installed
spec = importlib.util.spec_from_file_location("pack", {init!r}, submodule_search_locations=[{root!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
from pack.nodes.miniature import DHDLoadMiniature
start = time.monotonic()
print(len(DHDLoadMiniature.execute().result), "outputs in", round(time.monotonic() - start, 2), "s")
"""


@pytest.mark.slow
def test_it_loads_where_nothing_but_comfyui_is_installed():
    code = ALONE.format(comfyui=str(COMFYUI), init=str(REPOSITORY / "__init__.py"), root=str(REPOSITORY))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert "6 outputs" in out.stdout, out.stderr[-2000:]


def test_the_shipped_workflow_makes_a_portrait_from_nothing(server):
    prompt = api_form(json.loads(WORKFLOW.read_text()))
    result = server.run(prompt)
    assert result["error"] is None
    kinds = {key: node["class_type"] for key, node in prompt.items()}
    shown = [
        server.base / "temp" / i["filename"]
        for k, o in result["outputs"].items()
        for i in o.get("images", ())
        if kinds[k] == "PreviewImage"
    ]
    assert (512, 384) in [Image.open(file).size for file in shown]


@pytest.mark.parametrize("number", [-1, 10**6, 1.5, None, "a"])
@pytest.mark.parametrize("gender", ["any", "woman"])
def test_a_linked_number_of_nobody_is_refused(number, gender):
    code = "no-such-drawn-person" if isinstance(number, int) else "input-of-another-kind"
    with refused(code, str(number)):
        DHDDrawPerson.execute(number, gender, 0, 384)


@pytest.mark.parametrize("size", [0, -5, 10**6])
def test_a_linked_size_of_no_photo_is_refused(size):
    with refused("photo-size", str(size)):
        DHDDrawPerson.execute(0, "any", 0, size)
