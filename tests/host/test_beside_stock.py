"""The whole chain of nodes, and pair and cascade beside what a stock ComfyUI offers: the numbers, not only that it runs."""

import comfy.cldm.cldm
import comfy.cli_args
import comfy.controlnet
import comfy.ops
import comfy.samplers
import dhd_pack.dhumandiff.testing as tiny
import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from dhd_pack.dhumandiff.hosts.diffusers.attention import attach
from dhd_pack.dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhd_pack.dhumandiff.hosts.diffusers.text import encode_prompt
from dhd_pack.dhumandiff.methods.paired.attention import KVCache
from dhd_pack.dhumandiff.methods.paired.conditioning import PairedConditioning
from dhd_pack.dhumandiff.methods.paired.settings import MODES, CascadeSettings
from dhd_pack.dhumandiff.prompts import parse_prompt
from dhd_pack.dhumandiff.references.encode import encode_reference
from dhd_pack.nodes.adapter import DHDLoadAdapter
from dhd_pack.nodes.comfy.encoders import encode_subject_prompt
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people
from dhd_pack.nodes.comfy.vision import ClipVisionEncoder
from dhd_pack.nodes.conditioning import DHDApplyPair
from dhd_pack.nodes.prompt import DHDSubjectPrompt
from dhd_pack.nodes.references import DHDEncodeReference
from dhd_pack.nodes.sampling import DHDCascadeKSampler
from PIL import Image
from support import tiny_comfy
from support.sampling import guider, predict, sample, sigma_at

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)
PICTURE = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * 10
SENTENCE = "A man@1 and a (woman@2:1.2) on a bench in a garden"


def cascade(model, mode=MODES[0], scene=0.7, face=1.0, positive=POSITIVE, negative=NEGATIVE, cfg=5.0):
    made = CascadeGuider(model)
    made.set_cascade(CascadeSettings(mode, scene, face, 0.1))
    made.set_conds(positive, negative)
    made.set_cfg(cfg)
    return made


def near(got, expected, sigma, tolerance=1e-3):
    """Whether two clean pictures come from noise that differs by less than the tolerance."""
    return float((got - expected).abs().max() / sigma) < tolerance


def halves(height=16, width=16):
    left = (torch.arange(width) < width // 2).float().repeat(1, height, 1)
    return left, 1 - left


def photo(seed):
    """A picture [1, H, W, 3] for the tiny analyzer, which finds a face in anything."""
    return torch.rand(1, 320, 256, 3, generator=torch.Generator().manual_seed(seed))


# --- from photos and a sentence to a prediction -----------------------------------------------------------------------


def test_from_photos_and_a_sentence_both_hosts_predict_the_same(monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "fp32_text_enc", True)  # CLIP_VISION goes by it; fp16 would be the default
    unet, plain, clip = tiny.tiny_unet(), tiny.tiny_adapter(), tiny_comfy.clip()
    model, adapter = tiny_comfy.model_patcher(unet), tiny_comfy.adapter_patcher()
    towers = (ClipVisionEncoder(tiny_comfy.clip_vision()), tiny.tiny_vision())
    here, there = ([encode_reference(photo(seed), t, tiny.tiny_faces())[0] for seed in (1, 2)] for t in towers)
    for ours, theirs in zip(here, there, strict=True):
        assert torch.allclose(ours.clip_hidden, theirs.clip_hidden, atol=1e-5)
        assert torch.allclose(ours.clip_hidden_zero, theirs.clip_hidden_zero, atol=1e-5)

    prompt, negative = parse_prompt(SENTENCE, 2), "monochrome, lowres"
    conditionings, bound = [], encode_subject_prompt(clip, adapter, here, prompt)
    assert len(bound[1]) == 2
    for ((context, options),) in (bound[0], clip.encode_from_tokens_scheduled(clip.tokenize(negative))):
        conditionings.append([[context, {**options, "width": 512, "height": 512}]])

    tokenizers, encoders = (sdxl_tokenizer(), sdxl_tokenizer(second=True)), tiny.tiny_text_encoders()
    positive_there = encode_prompt(tokenizers, encoders, prompt, plain, there)
    negative_there = encode_prompt(tokenizers, encoders, negative)
    sigma = sigma_at(model, 601)
    with attach(unet, plain, there, strength=0.9), torch.no_grad():
        noise = unet(
            (PICTURE / (sigma**2 + 1) ** 0.5).expand(2, -1, -1, -1),
            601,
            encoder_hidden_states=torch.cat([negative_there[0], positive_there[0]]),
            added_cond_kwargs={
                "text_embeds": torch.cat([negative_there[1], positive_there[1]]),
                "time_ids": torch.tensor([[512, 512, 0, 0, 512, 512]] * 2),
            },
        ).sample
    patched = apply_people(model, adapter, here, 0.9)
    for cfg, expected in ((0.0, noise[:1]), (1.0, noise[1:])):
        got = predict(guider(patched, *conditionings, cfg), PICTURE, sigma)
        assert near(got, PICTURE - expected * sigma, sigma, 1e-4)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Model, temporary and output folders of this test's own."""
    for name in ("dhumandiff", "temp"):
        (tmp_path / name).mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "dhumandiff", ([str(tmp_path / "dhumandiff")], set()))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path


def test_the_chain_of_nodes_runs_on_all_seventy_layers_with_an_adapter_from_a_file(folders, monkeypatch):
    tiny.tiny_adapter(depth="sdxl").save_pretrained(folders / "dhumandiff" / "deep.safetensors")
    clip, model = tiny_comfy.clip(), tiny_comfy.model_patcher(depth="sdxl")
    (adapter,) = DHDLoadAdapter.execute("deep.safetensors").args
    vision, faces = tiny_comfy.clip_vision(), tiny.tiny_faces()
    people = [DHDEncodeReference.execute(photo(n), vision, faces, "largest", 0, False).args[0] for n in (1, 2)]
    reached, residual = [], PairedConditioning.residual
    monkeypatch.setattr(
        PairedConditioning, "residual", lambda self, *args: reached.append(args[0]) or residual(self, *args)
    )

    def portrait(adapter, people):
        (patched,) = DHDApplyPair.execute(model, adapter, people[0], 1.0, 1.0, 1.0, 0.0, 1.0, people[1]).args
        positive, words = DHDSubjectPrompt.execute(clip, adapter, people[0], SENTENCE, "first", people[1]).args
        assert "[man]" in words
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        sampling = (7, 2, 5.0, "euler", "normal", positive, NEGATIVE, latent, 1.0, 0.7, 1.0, 0.1, "two_strength")
        return DHDCascadeKSampler.execute(patched, *sampling).args

    latent, focus = portrait(adapter, people)
    assert sorted(reached) == sorted(list(range(70)) * 2)  # two steps, both strengths in one call
    assert torch.isfinite(latent["samples"]).all()
    assert focus.shape == (1, 64, 64)
    assert 0 < focus.mean() < 0.2
    in_memory = portrait(tiny_comfy.adapter_patcher("sdxl"), people)  # a mapped file lies otherwise in memory, hence:
    assert torch.allclose(latent["samples"], in_memory[0]["samples"], atol=1e-2)
    assert not torch.allclose(latent["samples"], portrait(adapter, people[::-1])[0]["samples"], atol=1e-1)


# --- InsightFace objects of other packs ---------------------------------------------------------------------------------


def test_an_insightface_object_of_another_pack_encodes_a_face(folders, faces_root, face_photos):
    pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    from dhd_pack.dhumandiff.faces import InsightFaceAnalyzer
    from insightface.app import FaceAnalysis

    # As the loaders of IPAdapter_plus, InstantID and PuLID make it.
    app = FaceAnalysis(name="mini", root=str(faces_root), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=0, det_size=(640, 640))
    image = torch.from_numpy(np.asarray(Image.open(face_photos / "obama.jpg").convert("RGB")).copy())[None] / 255
    own = InsightFaceAnalyzer.from_pack("mini", root=faces_root, provider="CPU")
    vision = tiny_comfy.clip_vision()
    (theirs, crop, report), (ours, *_) = (
        DHDEncodeReference.execute(image, vision, made, "largest", 0, False, "Barack").args for made in (app, own)
    )
    assert torch.allclose(theirs.identity, ours.identity, atol=1e-6)
    assert torch.equal(theirs.crop, ours.crop)
    assert crop.shape == theirs.crop.shape
    assert "Barack" in report
    assert any((folders / "temp").iterdir())  # the preview on the node


# --- ControlNet ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def controlled():
    """A real ControlNet of ComfyUI's, random, and prompts that it applies to, as Apply ControlNet makes them."""
    config = {name: value for name, value in tiny_comfy.unet_config().items() if name != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    random = torch.Generator().manual_seed(11)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) / max(1, parameter[0].numel()) ** 0.5
    loaded = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    control = loaded.copy().set_cond_hint(torch.rand(1, 3, 128, 128, generator=random), 0.5, (0.0, 1.0))
    options = {"control": control, "control_apply_to_uncond": False}
    return [[[p[0][0], {**p[0][1], **options}]] for p in (POSITIVE, NEGATIVE)]


def test_a_real_controlnet_guides_the_pair_and_never_reads_it(model, adapter, people, controlled):
    said = []
    network = controlled[0][0][1]["control"].control_model
    hook = network.register_forward_hook(lambda _, __, out: said.append([t.clone() for t in out["output"]]))
    sigma = sigma_at(model, 500)
    paired, muted = (apply_people(model, adapter, people, strength) for strength in (1.0, 0.0))
    try:
        both, control_only, plain = (predict(guider(m, *controlled), PICTURE, sigma) for m in (paired, muted, model))
    finally:
        hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(said[0], said[-1], strict=True))
    assert torch.equal(control_only, plain)
    assert not torch.allclose(both, control_only, atol=1e-2)
    assert not torch.allclose(both, predict(guider(paired, POSITIVE, NEGATIVE), PICTURE, sigma), atol=1e-2)


# --- mask prompts -------------------------------------------------------------------------------------------------------


def masked(conditioning, mask, bounds=False):
    """What Conditioning (Set Mask) makes of a prompt."""
    values = {"mask": mask, "set_area_to_bounds": bounds, "mask_strength": 1.0}
    return [[context, {**options, **values}] for context, options in conditioning]


@pytest.mark.parametrize("bounds", [False, True], ids=["default", "mask bounds"])
def test_mask_prompts_each_draw_the_pair_in_their_own_half(model, adapter, people, bounds):
    other, sigma = tiny_comfy.conditioning(5), sigma_at(model, 500)
    left, right = halves(128, 128)
    patched = apply_people(model, adapter, people, masks=(left, right))
    prompts = [*masked(POSITIVE, left, bounds), *masked(other, right, bounds)]
    joined = predict(guider(patched, prompts, NEGATIVE, 1.0), PICTURE, sigma)
    if bounds:  # each prompt sees only its half of the picture, in which one person may be
        ones, zeros = torch.ones(1, 128, 64), torch.zeros(1, 128, 64)
        alone = [
            predict(guider(apply_people(model, adapter, people, masks=m), p, NEGATIVE, 1.0), half, sigma)
            for p, half, m in zip((POSITIVE, other), PICTURE.chunk(2, -1), ((ones, zeros), (zeros, ones)), strict=True)
        ]
    else:
        whole = [predict(guider(patched, p, NEGATIVE, 1.0), PICTURE, sigma) for p in (POSITIVE, other)]
        alone = [whole[0][..., :8], whole[1][..., 8:]]
    assert near(joined, torch.cat(alone, -1), sigma)


def test_the_cascade_blends_mask_prompts_as_plain_guiders_predict_them(model, adapter, people):
    left, right = halves(128, 128)
    prompts, sigma = [*masked(POSITIVE, left), *masked(tiny_comfy.conditioning(5), right, True)], sigma_at(model, 500)
    scene, face = (
        predict(guider(apply_people(model, adapter, people, s), prompts, NEGATIVE), PICTURE, sigma) for s in (0.7, 1.0)
    )
    made = cascade(apply_people(model, adapter, people), "two_strength", positive=prompts)
    joined = predict(made, PICTURE, sigma)
    assert near(joined, torch.where(made.focus[:, None], face, scene), sigma)
    only_left = cascade(apply_people(model, adapter, people), positive=masked(POSITIVE, left, True))
    predict(only_left, PICTURE, sigma)
    assert only_left.focus[..., :8].any()
    assert not only_left.focus[..., 8:].any()


# --- other guidance, with person masks ----------------------------------------------------------------------------------


@pytest.fixture
def split(model, adapter, people):
    """The pair with person 1 on the left and person 2 on the right."""
    return apply_people(model, adapter, people, masks=halves())


@pytest.mark.parametrize("nested", [False, True])
def test_dual_guidance_joins_what_single_prompts_give_with_masks(model, split, nested):
    middle, sigma = tiny_comfy.conditioning(6), sigma_at(model, 500)
    made = Guider_DualCFG(split)
    made.set_conds(POSITIVE, middle, NEGATIVE)
    made.set_cfg(4.0, 3.0, nested=nested)
    got = predict(made, PICTURE, sigma)
    positive = predict(guider(split, POSITIVE, NEGATIVE, 1.0), PICTURE, sigma)
    between, negative = (predict(guider(split, POSITIVE, p, 0.0), PICTURE, sigma) for p in (middle, NEGATIVE))
    to_positive = 4.0 * (positive - between)
    expected = negative + 3.0 * (between - negative) + (3.0 if nested else 1.0) * to_positive
    assert near(got, expected, sigma, 5e-3)


GUIDANCE = {
    "pag": lambda model: PerturbedAttentionGuidance.execute(model, scale=3.0).args[0],
    "sag": lambda model: SelfAttentionGuidance.execute(model, scale=0.5, blur_sigma=2.0).args[0],
}


def test_perturbed_attention_guidance_reads_the_people_inside_their_masks(model, split):
    sigma, perturbed = sigma_at(model, 500), split.clone()
    for index in range(2):
        perturbed.set_model_attn1_replace(lambda q, k, v, options: v, "middle", 0, index)
    got, plain = (predict(guider(m, POSITIVE, NEGATIVE), PICTURE, sigma) for m in (GUIDANCE["pag"](split), split))
    positive, lost = (predict(guider(m, POSITIVE, NEGATIVE, 1.0), PICTURE, sigma) for m in (split, perturbed))
    assert not torch.allclose(positive, lost, atol=1e-2)
    assert near(got, plain + (positive - lost) * 3.0, sigma)


def test_self_attention_guidance_keeps_the_masks_in_its_extra_call(model, split, monkeypatch):
    seen, real = [], KVCache.attend
    monkeypatch.setattr(KVCache, "attend", lambda *args: seen.append(args[-1]) or real(*args))
    predict(guider(GUIDANCE["sag"](split), POSITIVE, NEGATIVE), PICTURE, sigma_at(model, 500))
    assert len(seen) == 17 * 2
    for weights in seen:
        side = int(weights.shape[-1] ** 0.5)
        first, second = weights[0].reshape(2, side, side)
        assert (first[:, 0] == 1).all()
        assert (first[:, -1] == 0).all()
        assert (second == 1 - first).all()


# --- the cascade beside all of them ------------------------------------------------------------------------------


@pytest.fixture
def beside(model, adapter, people, controlled):
    """(what is beside the pair, the pair's strength) -> MODEL, positive, negative."""

    def make(name, strength):
        paired, left, right = apply_people(model, adapter, people, strength, masks=halves()), *halves(128, 128)
        if name in GUIDANCE:
            return GUIDANCE[name](paired), POSITIVE, NEGATIVE
        if name == "second pair":
            others = [tiny_comfy.reference(3), tiny_comfy.reference(4)]
            return apply_people(paired, adapter, others, max(strength, 0.6)), POSITIVE, NEGATIVE
        prompts = [*masked(POSITIVE, left), *masked(tiny_comfy.conditioning(5), right)], NEGATIVE
        return paired, *(controlled if name == "ControlNet" else prompts)

    return make


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["ControlNet", "mask prompts", "second pair", *GUIDANCE])
def test_equal_strengths_are_a_plain_run_and_unlike_ones_are_not(beside, name, mode):
    (paired, *prompts), (strong, *_) = beside(name, 0.3), beside(name, 0.7)
    plain = sample(guider(strong, *prompts), (1, 4, 16, 16), 3)
    even = sample(cascade(paired, mode, 0.7, 0.7, *prompts), (1, 4, 16, 16), 3)
    assert torch.allclose(even, plain, atol=1e-2 if name in GUIDANCE else 1e-3)
    made = cascade(paired, mode, 0.7, 1.0, *prompts)
    assert not torch.allclose(sample(made, (1, 4, 16, 16), 3), plain, atol=5e-2)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_pass_over_an_enlarged_latent_starts_afresh(model, adapter, people, mode):
    patched = apply_people(model, adapter, people, masks=(halves(64, 64)[0], None))
    made = cascade(patched, mode)
    small = sample(made, (1, 4, 8, 8), 2)
    large = torch.nn.functional.interpolate(small, scale_factor=2)
    again = sample(made, (1, 4, 16, 16), 2, latent=large)
    assert made.focus.shape == (1, 16, 16)
    assert torch.equal(again, sample(cascade(patched, mode), (1, 4, 16, 16), 2, latent=large))


def test_the_focus_holds_faces_of_both_pairs(model, adapter, people):
    (left, right), others = halves(), [tiny_comfy.reference(3), tiny_comfy.reference(4)]
    first = apply_people(model, adapter, people, masks=(left, left))
    made = cascade(apply_people(first, adapter, others, masks=(right, right)))
    predict(made, PICTURE, sigma_at(model, 500))
    assert made.focus[..., :8].any()
    assert made.focus[..., 8:].any()


# --- every sampler and scheduler ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(model, adapter, people):
    """The pair at a strength of its own, at the scene's and at the face's."""
    return [apply_people(model, adapter, people, strength) for strength in (0.3, 0.7, 1.0)]


def between(made, sampler, first, last):
    """Sample from one noise level to another."""
    sigmas = torch.stack([sigma_at(made.model_patcher, timestep) for timestep in (first, last)])
    noise, function = PICTURE[..., :8, :8] / 10, comfy.samplers.sampler_object(sampler)
    return made.sample(noise, torch.zeros_like(noise), function, sigmas, disable_pbar=True, seed=0)


@pytest.mark.parametrize("name", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_runs_the_cascade(pairs, name):
    def run(made):
        if name == "dpm_adaptive":  # takes some 80 steps of its own from start to end, whatever it is asked for
            return between(made, name, 300, 280)
        return sample(made, (1, 4, 8, 8), 2, sampler=name)

    plain = run(guider(pairs[1], POSITIVE, NEGATIVE))
    assert torch.allclose(run(cascade(pairs[0], scene=0.7, face=0.7)), plain, atol=1e-3)
    made = cascade(pairs[0])
    two = run(made)
    assert torch.isfinite(two).all()
    assert not torch.allclose(two, plain, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", comfy.samplers.KSampler.SCHEDULERS)
def test_every_scheduler_runs_the_cascade(pairs, name, mode):
    made = cascade(pairs[0], mode)
    assert torch.isfinite(sample(made, (1, 4, 8, 8), 2, scheduler=name)).all()
    assert made.focus.any()


@pytest.mark.parametrize("name", ["euler", "euler_cfg_pp"])
def test_one_step_is_the_face_s_in_the_focus_and_the_scene_s_elsewhere(pairs, name):
    made = cascade(pairs[0], "two_strength")
    joined = between(made, name, 700, 400)
    scene, face = (between(guider(m, POSITIVE, NEGATIVE), name, 700, 400) for m in pairs[1:])
    # Values go up to 40, and rows of four and of two prompts are rounded otherwise.
    assert torch.allclose(joined, torch.where(made.focus[:, None], face, scene), atol=1e-3)
    assert (face - scene).abs().max() > 1


@pytest.mark.parametrize(("name", "mode"), [("pag", "two_strength"), ("sag", "released")])
def test_what_other_guidance_predicts_besides_does_not_count_for_the_focus(pairs, name, mode):
    plain, guided = cascade(pairs[0], mode), cascade(GUIDANCE[name](pairs[0]), mode)
    for made in (plain, guided):
        sample(made, (1, 4, 32, 32), 1)
    assert torch.equal(plain.focus, guided.focus)
