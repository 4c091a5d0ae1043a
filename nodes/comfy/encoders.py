"""ComfyUI's CLIP as encoder of subject-augmented prompts, and how well a picture fits its words.

ComfyUI takes a tensor in a token list as that token's embedding (its way of textual inversion), so a mapped word is put in
place of the word's id and everything else (weights, chunks of 77, hooks, schedules, offloading) stays ComfyUI's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management
import torch
from torch import Tensor

from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.paired.adapter_checks import check_weights
from ...dhumandiff.prompts import Prompt, SubjectToken, locate_tokens
from .patch import reference_on

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

    from ...dhumandiff.references import FaceReference


# --- text ----------------------------------------------------------------------------------------------------------------


class _SubjectCLIP:
    """SDXL's text model with the persons' words mapped to their faces, and CLIP-L read at its last layer after the final norm, as
    the adapter was trained.

    Words are mapped when they are encoded, so that each part of a schedule (hooks on the CLIP) maps the embeddings that it has.
    CLIP-G, the pooled output and the options of whoever owns the CLIP stay as they are.

    Args:
        model: the text model.
        persons: (chunk, index) of a word among CLIP-L's tokens -> its person, from 1.
        map_words: embeddings [K, width] float32 and person -> what stands in their place, [K, width].
    """

    def __init__(
        self, model: Any, persons: Mapping[tuple[int, int], int], map_words: Callable[[Tensor, int], Tensor]
    ) -> None:
        self._model, self._persons, self._map_words = model, persons, map_words

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_token_weights(self, tokens: dict[str, Any]) -> Any:
        chunks = [list(chunk) for chunk in tokens["l"]]
        for (chunk, index), person in self._persons.items():
            word, *rest = chunks[chunk][index]
            chunks[chunk][index] = (self._map_words(self._embedding(word), person)[0].float().cpu(), *rest)
        self._model.clip_l.set_clip_options({"layer": None})
        try:
            return self._model.encode_token_weights({**tokens, "l": chunks})
        finally:
            self._model.clip_l.reset_clip_options()

    def _embedding(self, word: Any) -> Tensor:
        """CLIP-L's embedding of a token before positions are added, [1, width] float32."""
        if torch.is_tensor(word):
            return word.reshape(1, -1).float()
        clip_l = self._model.clip_l
        table = clip_l.transformer.get_input_embeddings()
        device = (
            getattr(clip_l, "execution_device", None) or table.weight.device
        )  # 0.3.64 computes where the weights are
        return table(torch.tensor([word], device=device), out_dtype=torch.float32)


def encode_subject_prompt(
    clip: CLIP, adapter: ModelPatcher, references: Sequence[FaceReference], prompt: Prompt
) -> tuple[list, tuple[SubjectToken, ...]]:
    """Encode a prompt with the persons' words mapped to their faces.

    Args:
        clip: of an SDXL checkpoint.
        adapter: around an `Adapter` with a subject branch.
        references: one a person.
        prompt: from `parse_prompt`. Without a mention the stock encoding comes back.

    Returns:
        CONDITIONING, and which tokens carry whose face.

    Raises:
        HostError: the CLIP is not SDXL's.
        AdapterError: the adapter has no subject branch.
        PromptError: a word cannot be found among the tokens.
    """
    check_clip(clip, adapter.model.info.text_width)
    tokens = clip.tokenize(prompt.text, return_word_ids=True)
    positions = _text_positions(tokens["l"])
    plain = [tokens["l"][chunk][index][0] for chunk, index in positions]
    subjects = locate_tokens(
        prompt, lambda text: plain if text == prompt.text else _tokens_of(clip, text), clip.tokenizer
    )
    entries = {name: [[entry[:2] for entry in chunk] for chunk in chunks] for name, chunks in tokens.items()}
    check_weights(adapter.model)
    if not subjects:
        return clip.encode_from_tokens_scheduled(entries), subjects

    model_management.load_models_gpu([adapter])
    references = [reference_on(reference, adapter.load_device) for reference in references]

    def map_words(embeddings: Tensor, person: int) -> Tensor:
        with torch.no_grad():
            return adapter.model.subject_token(embeddings.to(adapter.load_device), references[person - 1])

    persons = {positions[token.index]: token.person for token in subjects}
    for person in set(persons.values()):  # what cannot be mapped is refused here, not in the midst of a schedule
        map_words(torch.zeros(0, adapter.model.info.text_width or 0), person)
    clip = clip.clone()
    clip.cond_stage_model = _SubjectCLIP(clip.cond_stage_model, persons, map_words)
    return clip.encode_from_tokens_scheduled(entries), subjects


def check_clip(clip: CLIP, text_width: int | None) -> None:
    """Refuse a CLIP that is not SDXL's.

    Args:
        clip: whatever is connected.
        text_width: of the word embeddings that the adapter was trained with; None takes any.

    Raises:
        HostError: other text encoders than SDXL's two, or another width.
    """
    model = clip.cond_stage_model
    encoders = [getattr(model, name, None) for name in ("clip_l", "clip_g")]
    others = [name for name in ("t5xxl", "llama", "t5") if getattr(model, name, None) is not None]  # SD3, HiDream, ...
    if None in encoders or others:
        raise HostError(
            f"The CLIP is {type(model).__name__}, but the adapter needs SDXL's two text encoders (CLIP-L and CLIP-G). "
            "Connect the CLIP of an SDXL checkpoint. With WithAnyone on FLUX the sentence goes through CLIP Text Encode.",
            code="clip-of-another-base",
        )
    width = model.clip_l.transformer.get_input_embeddings().weight.shape[1]
    if text_width is not None and width != text_width:
        raise HostError(
            f"The CLIP's word embeddings are {width} wide, the adapter was trained with {text_width}. "
            "Connect the CLIP of a checkpoint of the adapter's base.",
            code="clip-of-another-width",
        )


def token_words(clip: CLIP, text: str) -> Callable[[int], str]:
    """Text of the tokens of a prompt by their flat index, for people."""
    tokens = _tokens_of(clip, text)
    vocabulary = clip.tokenizer.clip_l.inv_vocab

    def word(index: int) -> str:
        token = tokens[index]
        return "embedding" if torch.is_tensor(token) else vocabulary[token].removesuffix("</w>")

    return word


def _text_positions(chunks: Sequence[Sequence[tuple]]) -> list[tuple[int, int]]:
    """(chunk, index) of every token that comes from the text: ComfyUI gives start, end and padding the word id 0."""
    return [(c, i) for c, chunk in enumerate(chunks) for i, entry in enumerate(chunk) if entry[2] != 0]


def _tokens_of(clip: CLIP, text: str) -> list[Any]:
    chunks = clip.tokenize(text, return_word_ids=True)["l"]
    return [chunks[chunk][index][0] for chunk, index in _text_positions(chunks)]


# --- text and image ------------------------------------------------------------------------------------------------------


def text_alignment(clip: CLIP, clip_vision: Any, image: Tensor, text: str) -> list[float]:
    """How well each picture fits a text.

    Args:
        clip: text encoder.
        clip_vision: image encoder of the same CLIP.
        image: pictures [N, H, W, 3] float 0..1.
        text: plain, without @-tags.

    Returns:
        The cosine of CLIP's two embeddings, one a picture.

    Raises:
        HostError: the two are of different CLIPs.
    """
    text_embedding = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[1]
    image_embeddings = clip_vision.encode_image(image[..., :3])["image_embeds"]
    text_embedding = text_embedding.float().cpu().reshape(1, -1)
    image_embeddings = image_embeddings.float().cpu()
    if text_embedding.shape[1] != image_embeddings.shape[1]:
        raise HostError(
            f"clip and clip_vision are of two CLIPs: {text_embedding.shape[1]} and {image_embeddings.shape[1]} numbers. "
            "SDXL's words (1280) go with CLIP ViT-bigG's vision tower.",
            code="text-and-vision-of-two-clips",
        )
    return torch.nn.functional.cosine_similarity(image_embeddings, text_embedding).tolist()
