"""Parts of SDXL that need no weights file: its noise schedule, its tokenizers, and text encoders of any width."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...optional import require
from ...tokenizer import END, START, TOKENIZER, VOCABULARY

__all__ = ["sdxl_scheduler", "sdxl_tokenizer", "untrained_text_encoders"]


def sdxl_scheduler() -> Any:
    """Euler with SDXL's noise schedule."""
    return require("diffusers").EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        steps_offset=1,
        timestep_spacing="leading",
    )


def sdxl_tokenizer(second: bool = False) -> Any:
    """SDXL's tokenizer; the second one differs in padding with "!", whose id is 0."""
    transformers = require("transformers")
    return transformers.CLIPTokenizer.from_pretrained(str(TOKENIZER), **({"pad_token": "!"} if second else {}))


def untrained_text_encoders(widths: tuple[int, int], heads: tuple[int, int]) -> tuple[nn.Module, nn.Module]:
    """(CLIP-L, CLIP-G with a projection) of these widths, three layers each, SDXL's vocabulary; the library's own weights."""
    transformers = require("transformers")

    def config(width: int, heads: int, activation: str, **more: Any) -> Any:
        return transformers.CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=heads,
            hidden_act=activation,
            num_hidden_layers=3,
            vocab_size=VOCABULARY,
            max_position_embeddings=77,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=END,
            **more,
        )

    first = config(widths[0], heads[0], "quick_gelu")
    second = config(widths[1], heads[1], "gelu", projection_dim=widths[1])
    return transformers.CLIPTextModel(first), transformers.CLIPTextModelWithProjection(second)
