"""The miniature that ships: everything loads under its name, fits together, and says what is wrong where it does not."""

import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from support.known_faces import detect
from support.refused import refused

from dhumandiff.faces import FaceAnalyzer
from dhumandiff.hosts.diffusers.attention import attach, check_compatible, cross_attention_layers
from dhumandiff.hosts.diffusers.loading import BUILT_IN, check_base, load_pipeline
from dhumandiff.miniature import base, mini_adapter, weights
from dhumandiff.miniature.design import DESIGN, FIRST, SECOND
from dhumandiff.miniature.faces import MiniFaces, mini_faces, mini_judge
from dhumandiff.miniature.world import draw_reference, sample_identity, sample_pair
from dhumandiff.prompts import parse_prompt
from dhumandiff.references.encode import encode_reference


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("mini", torch.float32)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of the weights that may be damaged."""
    folder = tmp_path / "weights"
    folder.mkdir()
    load = weights.load_part
    for module in ("dhumandiff.miniature.base", "dhumandiff.miniature.faces"):
        monkeypatch.setattr(f"{module}.load_part", lambda name, _=None: load(name, folder))
    return folder


def test_all_weights_together_are_small_enough_to_ship():
    sizes = {path.name: path.stat().st_size for path in weights.FOLDER.glob("*.safetensors")}
    assert len(sizes) == 9
    assert sum(sizes.values()) <= {FIRST.name: 25_000_000, SECOND.name: 48_000_000}[DESIGN.name]


def test_the_base_is_an_sdxl_in_small(pipeline):
    assert type(pipeline).__name__ == "StableDiffusionXLPipeline"
    config = pipeline.unet.config
    assert config.addition_embed_type == "text_time"
    assert config.cross_attention_dim == sum(base.TEXT_WIDTHS)
    assert pipeline.text_encoder_2.config.projection_dim == base.TEXT_WIDTHS[1]
    assert 2 ** (len(pipeline.vae.config.block_out_channels) - 1) == 8
    assert pipeline.vae.config.latent_channels == config.in_channels == DESIGN.latents
    assert pipeline.tokenizer("a").input_ids == pipeline.tokenizer_2("a").input_ids
    assert not any(parameter.requires_grad for parameter in (*pipeline.unet.parameters(), *pipeline.vae.parameters()))


def test_the_adapter_fits_the_base_and_holds_two_people(pipeline):
    info = mini_adapter().info
    layers = cross_attention_layers(pipeline.unet)
    check_compatible(layers, info)
    assert (info.layers, info.persons, info.shared) == (len(layers), 2, False)
    assert info.clip_width == base.VISION_WIDTH
    assert info.text_width == base.TEXT_WIDTHS[0]
    assert mini_adapter().has_subject_path


def test_two_drawn_people_reach_the_unet(pipeline, monkeypatch):
    monkeypatch.setattr(MiniFaces, "detect", detect)
    vision, faces = base.mini_vision(), mini_faces()
    assert isinstance(faces, FaceAnalyzer)
    photos = [draw_reference(sample_identity(seed), 0).picture for seed in (1, 2)]
    references = [encode_reference(photo, vision, faces, min_size=32)[0] for photo in photos]
    assert references[0].clip_hidden.shape == (1, 65, base.VISION_WIDTH)
    assert references[0].identity.shape == (1, 512)
    width, height = base.SIZE
    latents = torch.randn(1, DESIGN.latents, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 77, sum(base.TEXT_WIDTHS))
    added = {"text_embeds": torch.zeros(1, base.TEXT_WIDTHS[1]), "time_ids": torch.zeros(1, 6)}

    def predict():
        with torch.no_grad():
            return pipeline.unet(latents, 500, encoder_hidden_states=text, added_cond_kwargs=added).sample

    alone = predict()
    with attach(pipeline.unet, mini_adapter(), references):
        together = predict()
    assert together.shape == latents.shape
    assert together.isfinite().all()
    assert not torch.equal(together, alone)
    assert torch.equal(predict(), alone)


def test_every_word_of_the_world_has_its_own_row(pipeline):
    """All other words share one."""
    table = pipeline.text_encoder.get_input_embeddings().weight
    assert table.shape == (base.VOCABULARY, base.TEXT_WIDTHS[0])
    known = pipeline.tokenizer(parse_prompt(sample_pair(0).caption_marked, mentions="all").text).input_ids
    rows = table[sorted(set(known))]
    assert len(rows.unique(dim=0)) == len(rows)
    strange = pipeline.tokenizer("archipelago quasar", add_special_tokens=False).input_ids
    assert len(table[strange].unique(dim=0)) == 1


def test_the_judge_is_another_recogniser_behind_the_same_detector():
    faces, judge = mini_faces(), mini_judge()
    assert (faces.name, judge.name) == ("mini", "mini judge")
    first, second = (dict(one.detector.named_parameters()) for one in (faces, judge))
    assert all(torch.equal(first[name], second[name]) for name in first)
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    seen, judged = faces.identities(crops), judge.identities(crops)
    assert np.linalg.norm(seen, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(judged, axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(seen, judged, atol=0.01)


def test_a_face_in_other_colours_has_another_identity(monkeypatch):
    photo = draw_reference(sample_identity(3), 0).picture
    faces = mini_faces()
    (face,) = detect(faces, photo)
    plain, swapped = faces.identity(photo, face), faces.identity(photo, face, swap_channels=True)
    assert np.array_equal(faces.identity(np.ascontiguousarray(photo[..., ::-1]), face), swapped)
    assert not np.array_equal(plain, swapped)


@pytest.mark.parametrize("size", [(96, 96), (96, 128), (50, 300), (500, 333)])
def test_the_detector_takes_pictures_of_any_size(size):
    empty = np.full((*size, 3), 127, dtype=np.uint8)
    faces = mini_faces()
    alone = len(faces.detect(empty))
    assert [len(found) for found in faces.detect_all([empty, empty])] == [alone, alone]


def test_the_built_in_names_are_taken_before_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in BUILT_IN:
        (tmp_path / name).mkdir()
        check_base(name)
        with refused("no-base-in-folder"):
            check_base(f"./{name}/../{name}")


def test_the_base_comes_in_the_dtype_asked_for():
    made = load_pipeline("mini", torch.bfloat16)
    assert {made.unet.dtype, made.vae.dtype, made.text_encoder.dtype} == {torch.bfloat16}


def test_training_finds_the_miniature_under_its_name():
    from training.data.encode import load_faces, load_vision
    from training.data.settings import FaceSettings
    from training.run.base import load_base, meta_base

    outline = meta_base("mini", text_encoder=True)
    assert {parameter.device.type for parameter in outline.unet.parameters()} == {"meta"}
    found = load_base("mini", text_encoder=True, vae=True)
    assert found.sizes == outline.sizes
    assert found.sizes["hidden"] == list(mini_adapter().info.hidden)
    assert found.sizes["pooled_width"] == base.TEXT_WIDTHS[1]
    assert type(found.scheduler).__name__ == "DDPMScheduler"
    assert load_vision("mini", "cpu", torch.float32).image_size == 96
    assert load_faces(FaceSettings(pack="mini")).name == "mini"


def test_a_pack_called_mini_may_be_somebody_s_own(tmp_path):
    """Where a root is given."""
    pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    from training.data.encode import load_faces
    from training.data.settings import FaceSettings

    with refused("pack-missing", str(tmp_path)):
        load_faces(FaceSettings(pack="mini", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("unet", base.mini_pipeline),
        ("vision", base.mini_vision),
        ("detector", mini_faces),
        ("judge", mini_judge),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_missing_or_damaged_weights_are_named(elsewhere, part, load, damage):
    """With what to do."""
    for path in weights.FOLDER.glob("*.safetensors"):
        if path.stem != part:
            shutil.copy(path, elsewhere)
    if damage == "cut off":
        (elsewhere / f"{part}.safetensors").write_bytes((weights.FOLDER / f"{part}.safetensors").read_bytes()[:5000])
    with refused("miniature-weights-unusable", f"{part}.safetensors", "install it again"):
        load()
