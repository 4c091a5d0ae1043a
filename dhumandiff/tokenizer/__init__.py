"""The vocabulary of OpenAI's CLIP (MIT), which SDXL's two text encoders use."""

from pathlib import Path

__all__ = ["END", "START", "TOKENIZER", "VOCABULARY"]

TOKENIZER = Path(__file__).parent
VOCABULARY, START, END = 49408, 49406, 49407
