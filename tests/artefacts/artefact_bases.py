"""Bases of seeded noise for the artefacts, of the libraries' own classes."""

import torch


def filled(module, seed):
    """Seeded noise in every parameter; the module, frozen."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(module.named_parameters(), key=lambda one: one[0].replace("text_model.", "")):
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=random) * value[0].numel() ** -0.5)
            else:
                value.fill_(1.0 if name.endswith("weight") else 0.0)
    return module.requires_grad_(False).eval()


def small_unet(size_width=32):
    """SDXL's kind with four cross-attention layers, 32 wide; context 48, pooled text 32. size_width: of each size's embedding."""
    from diffusers import UNet2DConditionModel

    return filled(
        UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=1,
            attention_head_dim=2,
            use_linear_projection=True,
            cross_attention_dim=48,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=size_width,
            projection_class_embeddings_input_dim=32 + 6 * size_width,
        ),
        1,
    )


def write_base(folder, tokenizer):
    """A whole base in diffusers' layout, and beside it, in `vision`, a vision tower. tokenizer: folder of CLIP's vocabulary."""
    import diffusers
    import transformers

    def text(width, **more):
        return transformers.CLIPTextConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_attention_heads=2,
            num_hidden_layers=2,
            vocab_size=49408,
            max_position_embeddings=77,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
            **more,
        )

    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.13025,
    )
    second = transformers.CLIPTextModelWithProjection(text(32, hidden_act="gelu", projection_dim=32))
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=filled(vae, 2),
        text_encoder=filled(transformers.CLIPTextModel(text(16)), 3),
        text_encoder_2=filled(second, 4),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(tokenizer)),
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(str(tokenizer), pad_token="!"),
        unet=small_unet(),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder / "base")
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=96,
        patch_size=48,
        projection_dim=16,
    )
    filled(transformers.CLIPVisionModelWithProjection(vision), 5).save_pretrained(folder / "vision")


def vocabulary(repository):
    """The folder with CLIP's vocabulary, wherever it lies in the repository."""
    return next(path.parent for path in sorted(repository.glob("dhumandiff/**/merges.txt")))
