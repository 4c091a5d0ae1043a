"""Bases in one file: loaded without a network, number by number what was put in."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support import checkpoints
from support.refused import refused

from dhumandiff import testing
from dhumandiff.formats.checkpoint import family_of
from dhumandiff.hosts.diffusers import single_file
from dhumandiff.hosts.diffusers.loading import check_base, load_encoders, load_pipeline
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("no_network")

MODELS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def base():
    """SDXL's kind of UNet, smaller in every way but the width of the context."""
    made = testing.tiny_pipeline()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel.from_config(UNET)
    return {**{part: getattr(made, part) for part in MODELS}, "unet": unet}


UNET = {
    **json.loads((single_file.CONFIGS / "sdxl" / "unet" / "config.json").read_text()),
    "block_out_channels": [32, 64, 64],
    "attention_head_dim": [1, 2, 2],
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64 + 6 * 8,
}


@pytest.fixture
def small_configs(base, tmp_path, monkeypatch):
    """The shipped configuration, but of the small models."""
    folder = tmp_path / "configs"
    for part in MODELS:
        (base[part].save_config if part in ("unet", "vae") else base[part].config.save_pretrained)(
            folder / "sdxl" / part
        )
        if part.startswith("text"):  # as transformers writes it only along with weights
            path = folder / "sdxl" / part / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": [type(base[part]).__name__]}))
    shipped = single_file.CONFIGS / "sdxl" / "scheduler" / "scheduler_config.json"
    (folder / "sdxl" / "scheduler").mkdir()
    (folder / "sdxl" / "scheduler" / shipped.name).write_text(shipped.read_text())
    monkeypatch.setattr(single_file, "CONFIGS", folder)


@pytest.fixture
def file(base, small_configs, tmp_path):
    """Write a checkpoint: all parts but those that are left out, more tensors, of a dtype."""

    def write(name="base.safetensors", without=(), more=None, dtype=torch.float32, metadata=None):
        parts = {part: None if part in without else base[part] for part in MODELS}
        tensors = checkpoints.checkpoint(parts["unet"], parts["vae"], parts["text_encoder"], parts["text_encoder_2"])
        tensors = {name: value.to(dtype) for name, value in tensors.items()}
        save_file({**tensors, **(more or {})}, tmp_path / name, metadata)
        return tmp_path / name

    return write


def test_every_part_comes_back_number_by_number(base, file):
    pipeline = load_pipeline(file(), torch.float32)
    for part in MODELS:
        checkpoints.same_numbers(getattr(pipeline, part), base[part])
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.tokenizer.pad_token != pipeline.tokenizer_2.pad_token == "!"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=["fp16", "bf16", "fp8"])
def test_any_precision_of_the_file_is_brought_to_the_one_asked_for(base, file, dtype):
    pipeline = load_pipeline(file(dtype=dtype), torch.float32)
    assert pipeline.unet.dtype == pipeline.text_encoder_2.dtype == torch.float32
    for part in MODELS:
        checkpoints.same_numbers(getattr(pipeline, part), base[part], dtype)


def test_what_community_files_have_besides_changes_nothing(base, file):
    """EMA weights, a noise schedule, positions."""
    more = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.ones(3),
        "alphas_cumprod": torch.ones(1000),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    pipeline = load_pipeline(file(more=more), torch.float32)
    checkpoints.same_numbers(pipeline.unet, base["unet"])
    checkpoints.same_numbers(pipeline.text_encoder, base["text_encoder"])


def test_words_are_encoded_as_by_the_models_that_were_put_in(base, file):
    pipeline = load_pipeline(file(), torch.float32)
    ids = pipeline.tokenizer(["A man and a woman"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    for part in ("text_encoder", "text_encoder_2"):
        ours = getattr(pipeline, part)(ids, output_hidden_states=True)
        theirs = base[part](ids, output_hidden_states=True)
        assert torch.equal(ours.hidden_states[-2], theirs.hidden_states[-2])


def test_a_portrait_pipeline_is_made_of_one_file(file, caplog):
    portrait = PortraitPipeline.from_base(file(), "cpu", "bf16")
    assert not [record for record in caplog.records if "float32" in record.getMessage()]
    assert portrait.dtype == torch.bfloat16
    embeds, _ = portrait.encode("A man")
    assert embeds.isfinite().all()


@pytest.mark.parametrize(
    ("more", "metadata"),
    [({"v_pred": torch.ones(0)}, None), ({}, {"modelspec.prediction_type": "v"})],
    ids=["key", "metadata"],
)
def test_a_file_that_predicts_velocity_is_sampled_so(file, more, metadata):
    scheduler = PortraitPipeline.from_base(file(more=more, metadata=metadata), "cpu").scheduler
    assert scheduler.config.prediction_type == "v_prediction"


def test_a_file_trained_down_to_pure_noise_is_sampled_so(file):
    more = {"v_pred": torch.ones(0), "ztsnr": torch.ones(0)}
    scheduler = PortraitPipeline.from_base(file(more=more), "cpu").scheduler
    assert scheduler.config.rescale_betas_zero_snr
    assert scheduler.config.timestep_spacing == "trailing"


def test_a_vae_of_its_own_takes_the_place_of_the_one_that_lacks(base, file, tmp_path):
    whole, bare = file(), file("no_vae.safetensors", without=["vae"])
    with refused("base-lacks-parts", "no_vae.safetensors", "no VAE", "stabilityai/sdxl-vae", "--vae"):
        check_base(bare)
    original, own = tmp_path / "vae.safetensors", tmp_path / "vae_diffusers.safetensors"
    other = testing.tiny_vae(seed=7)
    save_file({name: value.contiguous() for name, value in checkpoints.vae_tensors(other).items()}, original)
    save_file(other.state_dict(), own)
    for base_file, vae in ((bare, original), (bare, own), (whole, original)):
        checkpoints.same_numbers(load_pipeline(base_file, torch.float32, vae).vae, other)


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        (None, "vae-missing", "other.safetensors"),
        ({"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)}, "vae-of-another-family", "16 latent channels"),
        ({"lora_unet_x.lora_up.weight": torch.zeros(2)}, "vae-of-another-family", "a LoRA"),
        (b"x" * 99, "vae-damaged", "other.safetensors"),
    ],
    ids=["nothing", "flux", "lora", "damaged"],
)
def test_a_vae_that_is_none_is_refused(file, tmp_path, content, code, named):
    path = tmp_path / "other.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        save_file(content, path)
    with refused(code, "other.safetensors", named):
        check_base(file(), path)


def test_a_half_file_is_refused_before_anything_is_loaded(file):
    path = file()
    path.write_bytes(path.read_bytes()[:-1000])
    with refused("base-damaged", "base.safetensors", "cut off", "Get it again"):
        check_base(path)


def test_a_file_without_one_of_its_tensors_is_refused(base, small_configs, tmp_path):
    tensors = checkpoints.checkpoint(*(base[part] for part in MODELS))
    del tensors["model.diffusion_model.out.2.weight"]
    save_file(tensors, tmp_path / "less.safetensors")
    with refused("base-not-loaded", "unet", "less.safetensors", "tensors are missing"):
        load_pipeline(tmp_path / "less.safetensors", torch.float32)


ATTENTION = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
LATENT = "model.diffusion_model.input_blocks.0.0.weight"
DEEPEST = "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("shapes", "code", "named"),
    [
        ({ATTENTION: (4, 768)}, "base-of-another-family", "Stable Diffusion 1.5"),
        ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4, 4)}, "base-of-another-family", "FLUX"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "base-of-another-family", "FLUX"),
        ({"model.diffusion_model.joint_blocks.0.x.weight": (4, 4)}, "base-of-another-family", "Stable Diffusion 3"),
        ({ATTENTION: (4, 1024)}, "base-of-another-family", "Stable Diffusion 2"),
        ({ATTENTION: (4, 1280)}, "base-is-a-refiner", "refiner"),
        ({ATTENTION: (4, 2048), LATENT: (4, 9, 3, 3)}, "base-is-for-inpainting", "inpainting"),
        ({ATTENTION: (4, 2048), LATENT: (4, 8, 3, 3)}, "base-is-for-inpainting", "edit"),
        ({ATTENTION: (4, 2048), LATENT: (4, 4, 3, 3)}, "base-of-another-depth", "SSD-1B"),
        ({ATTENTION: (4, 2048), "edm_mean": (4,)}, "base-of-another-sampling", "Playground"),
        ({ATTENTION: (4, 2048), "x.scale_weight": (1,)}, "base-is-quantized", "fp8"),
        ({"lora_unet_mid_block.lora_up.weight": (4, 4)}, "base-is-a-lora", "LoRA"),
        ({"unet.down_blocks.0.x.lora.up.weight": (4, 4)}, "base-is-a-lora", "LoRA"),
        ({"down_blocks.0.resnets.0.conv1.weight": (4, 4)}, "base-is-a-unet", "model_index.json"),
        ({"image_proj.latents": (1, 4)}, "no-checkpoint", "an IP-Adapter Plus"),
        ({ATTENTION: (4, 2048), LATENT: (4, 4, 3, 3), DEEPEST: (4, 4)}, "base-lacks-parts", "text encoders"),
    ],
)
def test_what_is_no_sdxl_base_is_named(tmp_path, shapes, code, named):
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with refused(code, "file.safetensors", named):
        check_base(path)
    assert family_of(path) == ("sdxl" if code == "base-lacks-parts" else "sd15" if "1.5" in named else None)


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_the_shipped_configuration_has_the_published_sizes(family):
    """Numbers of parameters that the papers and model cards state, in millions."""
    folder = single_file.CONFIGS / family
    counted = {}
    with torch.device("meta"):
        for part, kind in (("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)):
            counted[part] = kind.from_config(kind.load_config(str(folder / part)))
        for part in sorted(path.name for path in folder.glob("text_encoder*")):
            counted[part] = single_file._empty_text_encoder(family, part)
    millions = {name: sum(p.numel() for p in model.parameters()) / 1e6 for name, model in counted.items()}
    known = {"unet": 2567.46, "vae": 83.65, "text_encoder": 123.06, "text_encoder_2": 694.66}
    known = known if family == "sdxl" else {"unet": 859.52, "vae": 83.65, "text_encoder": 123.06}
    assert millions == pytest.approx(known, abs=0.01)


def test_training_loads_what_it_asks_for(base, file):
    """A VAE that lacks is in nobody's way, when no pictures are drawn."""
    from training.run.base import load_base, meta_base

    path = file(without=["vae"])
    found = load_base(str(path), text_encoder=True, vae=False, dtype=torch.bfloat16)
    checkpoints.same_numbers(found.unet, base["unet"], torch.bfloat16)
    checkpoints.same_numbers(found.text_encoder, base["text_encoder"], torch.bfloat16)
    assert found.vae is None
    assert meta_base(str(path), text_encoder=True).sizes == found.sizes
    with refused("base-lacks-parts", "no VAE"):
        load_base(str(path), text_encoder=False, vae=True)
    checkpoints.same_numbers(load_base(str(file()), text_encoder=False, vae=True).vae, base["vae"])


def test_preparing_data_reads_all_but_the_unet(base, file):
    found = load_encoders(file(), torch.float32)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        checkpoints.same_numbers(found[part], base[part])
    assert set(found) == {"vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
    assert set(load_encoders("tiny", torch.float32)) == set(found)


def test_an_estimate_reads_no_number(file):
    """Not even those of a file whose numbers nobody could load."""
    from training.run.base import meta_base

    found = meta_base(str(file(without=["vae"])), text_encoder=True)
    assert {value.device.type for value in found.unet.parameters()} == {"meta"}


@pytest.fixture
def sd15(tmp_path, monkeypatch):
    """A small Stable Diffusion 1.5 as one file, and its parts; the shipped configuration is made as small."""
    config = {
        **json.loads((single_file.CONFIGS / "sd15" / "unet" / "config.json").read_text()),
        "block_out_channels": [32, 64, 64, 64],
        "attention_head_dim": 4,
    }
    text = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        parts = {
            "unet": diffusers.UNet2DConditionModel.from_config(config),
            "vae": testing.tiny_vae(),
            "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
        }
    folder = tmp_path / "configs" / "sd15"
    for part, model in parts.items():
        (model.config.save_pretrained if part == "text_encoder" else model.save_config)(folder / part)
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["CLIPTextModel"]}))
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    tensors = checkpoints.checkpoint(*parts.values(), family="sd15")
    save_file(tensors, tmp_path / "sd15.safetensors")
    return tmp_path / "sd15.safetensors", parts


def test_parts2whole_draws_with_a_stable_diffusion_in_one_file(sd15, tower, tmp_path, monkeypatch):
    from dhumandiff.hosts.diffusers.parts2whole_pipeline import load_base

    path, parts = sd15
    encoder = tmp_path / "clip_l.safetensors"
    save_file(tower.state_dict(), encoder)
    with refused("image-encoder-of-another-kind", "clip_l.safetensors", "CLIP ViT-L/14"):
        load_base(path, encoder, torch.float32)
    monkeypatch.setattr("dhumandiff.hosts.diffusers.parts2whole_pipeline.SD15_CONTEXT", tower.config.projection_dim)
    found = load_base(path, encoder, torch.float32)
    for part, model in parts.items():
        checkpoints.same_numbers(getattr(found, part), model)
    checkpoints.same_numbers(found.image_encoder, tower)
    assert found.tokenizer("a").input_ids
    with refused("parts-base-incomplete", "sd15.safetensors", "--image-encoder"):
        load_base(path, None, torch.float32)


def test_parts2whole_refuses_sdxl_in_one_file(file, tower, tmp_path):
    from dhumandiff.hosts.diffusers.parts2whole_pipeline import load_base

    encoder = tmp_path / "clip_l.safetensors"
    save_file(tower.state_dict(), encoder)
    with refused("base-of-another-family", "base.safetensors", "SDXL", "Stable Diffusion 1.5"):
        load_base(file(), encoder, torch.float32)
