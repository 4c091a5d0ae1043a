"""Subject-augmented prompting inside ComfyUI's CLIP object.

ComfyUI takes a tensor in a token list as that token's embedding (its way of textual inversion), so a mapped word is put in
place of the word's id and everything else (weights, chunks of 77, hooks, schedules, offloading) stays ComfyUI's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as model_management
import torch
from torch import Tensor

from ...dhumandiff.errors import HostError
from ...dhumandiff.prompts.prompt import Prompt, SubjectToken, locate_tokens
from .patch import reference_on


class _LastLayerCLIPL:
    """SDXL's text model with CLIP-L read at its last layer after the final norm, as the adapter was trained.

    CLIP-G, the pooled output and the options of whoever owns the CLIP stay as they are.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_token_weights(self, tokens: dict[str, Any]) -> Any:
        self._model.clip_l.set_clip_options({"layer": None})
        try:
            return self._model.encode_token_weights(tokens)
        finally:
            self._model.clip_l.reset_clip_options()


def encode_subject_prompt(
    clip: Any, adapter: Any, references: Sequence[Any], prompt: Prompt
) -> tuple[list, tuple[SubjectToken, ...]]:
    """Encode a prompt with the persons' words mapped to their faces.

    Args:
        clip: CLIP of an SDXL checkpoint.
        adapter: ModelPatcher around an `Adapter` with a subject path.
        references: one `FaceReference` a person.
        prompt: from `parse_prompt`. Without a mention the stock encoding comes back.

    Returns:
        CONDITIONING, and which tokens were bound to whom.

    Raises:
        HostError: the CLIP is not SDXL's.
        AdapterError: the adapter has no subject path.
    """
    check_clip(clip, adapter.model.info.text_width)
    tokens = clip.tokenize(prompt.text, return_word_ids=True)
    flat = _real_tokens(tokens["l"])
    bound = locate_tokens(prompt, lambda text: _tokens_of(clip, text))
    words = {(chunk, index): list(tokens["l"][chunk][index]) for chunk, index in (flat[b.index] for b in bound)}
    embeddings = _word_embeddings(clip, [word[0] for word in words.values()])

    model_management.load_models_gpu([adapter])
    references = [reference_on(reference, adapter.load_device) for reference in references]
    with torch.no_grad():
        for token, embedding in zip(bound, embeddings, strict=True):
            mapped = adapter.model.subject_token(embedding.to(adapter.load_device), references[token.person - 1])
            words[flat[token.index]][0] = mapped[0].float().cpu()
    plain = {name: [[entry[:2] for entry in chunk] for chunk in chunks] for name, chunks in tokens.items()}
    for (chunk, index), word in words.items():
        plain["l"][chunk][index] = tuple(word[:2])

    if bound:
        clip = clip.clone()
        clip.cond_stage_model = _LastLayerCLIPL(clip.cond_stage_model)
    return clip.encode_from_tokens_scheduled(plain), bound


def check_clip(clip: Any, text_width: int | None) -> None:
    """Refuse a CLIP that is not SDXL's.

    Raises:
        HostError: see above.
    """
    model = clip.cond_stage_model
    towers = [getattr(model, name, None) for name in ("clip_l", "clip_g")]
    others = [name for name in ("t5xxl", "llama", "t5") if getattr(model, name, None) is not None]  # SD3, HiDream, ...
    if None in towers or others:
        raise HostError(
            f"The CLIP is {type(model).__name__}, but the adapter needs SDXL's two text encoders (CLIP-L and CLIP-G). "
            "Connect the CLIP of an SDXL checkpoint."
        )
    width = model.clip_l.transformer.get_input_embeddings().weight.shape[1]
    if text_width is not None and width != text_width:
        raise HostError(
            f"The CLIP's word embeddings are {width} wide, the adapter was trained with {text_width}. "
            "Connect the CLIP of a checkpoint of the adapter's base."
        )


def _real_tokens(chunks: Sequence[Sequence[tuple]]) -> list[tuple[int, int]]:
    """(chunk, index) of every token that comes from the text: ComfyUI gives start, end and padding the word id 0."""
    return [(c, i) for c, chunk in enumerate(chunks) for i, entry in enumerate(chunk) if entry[2] != 0]


def _tokens_of(clip: Any, text: str) -> list[Any]:
    chunks = clip.tokenize(text, return_word_ids=True)["l"]
    return [chunks[chunk][index][0] for chunk, index in _real_tokens(chunks)]


def _word_embeddings(clip: Any, tokens: Sequence[Any]) -> list[Tensor]:
    """CLIP-L's embedding of each token before positions are added, each [1, width] float32."""
    if not tokens:
        return []
    clip.load_model()
    device = clip.patcher.load_device
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings()
    return [
        token.reshape(1, -1).float()
        if torch.is_tensor(token)
        else table(torch.tensor([token], device=device), out_dtype=torch.float32)
        for token in tokens
    ]


def token_words(clip: Any, text: str) -> Callable[[int], str]:
    """Text of the tokens of a prompt by their flat index, for people."""
    tokens = _tokens_of(clip, text)
    vocabulary = clip.tokenizer.clip_l.inv_vocab

    def word(index: int) -> str:
        token = tokens[index]
        return "embedding" if torch.is_tensor(token) else vocabulary[token].removesuffix("</w>")

    return word
