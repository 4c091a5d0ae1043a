"""A base in diffusers' layout that is even smaller than `dhumandiff.tiny`: four cross-attention layers, for tests that train.

    folder = make_base(tmp_path / "base")                    of SDXL's kind: pooled text and sizes beside the prompt
    folder = make_base(tmp_path / "base", kind="sd15")       of SD 1.5's: the prompt alone, one text encoder

Widths fit `shards_for_tests.TINY` (kind "sd15": with SD15 as its sizes). The real classes write the files, so loading them is
loading what a user has.
"""

import torch

SD15 = {"context_width": 64, "pooled_width": 0, "text_width": 64}
"""Sizes for `make_shards` that fit a base of kind "sd15": CLIP-L's states are the whole context."""

SIZES = {
    "face_width": 64,
    "face_depth": 1,
    "token_width": 64,
    "identity_depth": 1,
    "mapping_width": 64,
}
"""Of `init`, for an adapter as small."""


def make_base(folder, kind="sdxl", prediction="epsilon", vae=False, seed=0):
    """Write unet/, scheduler/, text_encoder/ (and vae/) of random weights into `folder`; gives it back."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    from dhumandiff import testing as tiny

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        extra = {}
        if kind == "sdxl":
            extra = {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 32,
                "projection_class_embeddings_input_dim": 128 + 6 * 32,
            }
        unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=1,
            attention_head_dim=2,
            use_linear_projection=True,
            cross_attention_dim=192 if kind == "sdxl" else 64,
            norm_num_groups=8,
            **extra,
        )
    unet.save_pretrained(folder / "unet")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    ).save_pretrained(folder / "scheduler")
    tiny.tiny_text_encoders()[0].save_pretrained(folder / "text_encoder")
    if vae:
        tiny.tiny_vae().save_pretrained(folder / "vae")
    return folder


def make_config(base, shards, run, /, **changes):
    """A TrainConfig for a quick run: no sample grids, no tensorboard; `changes` as nested dicts of fields."""
    from training.data.config import AugmentConfig, DataConfig, FolderConfig
    from training.objectives.config import (
        DiffusionConfig,
        FaceRegionConfig,
        IdentityConfig,
        LocalizationConfig,
        ObjectivesConfig,
        RoutingConfig,
        TextConsistencyConfig,
    )
    from training.run.config import (
        BaseConfig,
        CheckpointConfig,
        InitConfig,
        LoggingConfig,
        OptimizerConfig,
        TrainConfig,
    )
    from training.run.dual_config import DualConfig

    def folders(paths):
        return [FolderConfig(path=str(path)) for path in (paths if isinstance(paths, list) else [paths])]

    data = {"batch_size": 4, "micro_batch_size": 2, "shuffle_buffer": 4, **changes.pop("data", {})}
    data["validation"] = folders(data.get("validation", []))
    losses = changes.pop("objectives", {})
    return TrainConfig(
        run=str(run),
        base=BaseConfig(**{"path": str(base), **changes.pop("base", {})}),
        data=DataConfig(**{"folders": folders(shards), **data}),
        init=InitConfig(**{**SIZES, **changes.pop("init", {})}),
        dual=DualConfig(**changes.pop("dual", {})),
        augment=AugmentConfig(**changes.pop("augment", {})),
        objectives=ObjectivesConfig(
            diffusion=DiffusionConfig(**losses.get("diffusion", {})),
            localization=LocalizationConfig(**{"min_layer_size": 16, **losses.get("localization", {})}),
            face_region=FaceRegionConfig(**losses.get("face_region", {})),
            identity=IdentityConfig(**losses.get("identity", {})),
            text_consistency=TextConsistencyConfig(**losses.get("text_consistency", {})),
            routing=RoutingConfig(**losses.get("routing", {})),
        ),
        optimizer=OptimizerConfig(
            **{"learning_rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.9, **changes.pop("optimizer", {})}
        ),
        checkpoints=CheckpointConfig(**{"every": 1000, **changes.pop("checkpoints", {})}),
        logging=LoggingConfig(**{"every": 1, "tensorboard": False, "samples_every": 0, **changes.pop("logging", {})}),
        **{"precision": "no", **changes},
    )
