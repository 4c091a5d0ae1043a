"""Subject-augmented prompting on SDXL's two text encoders, as transformers loads them.

    embeds, pooled, bound = encode_prompt(
        (pipeline.tokenizer, pipeline.tokenizer_2), (pipeline.text_encoder, pipeline.text_encoder_2),
        parse_prompt("A man@1 and a woman@2"), adapter, [reference_1, reference_2])

Weights in brackets and prompts of any length follow ComfyUI's rules, so that one prompt gives one conditioning in both
hosts: every weighted segment is a group of tokens, groups are laid into chunks of 77, and a weight scales a token's
hidden state away from the empty prompt's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...errors import HostError, PromptError
from ...prompts import Prompt, SubjectToken, describe_tokens, locate_tokens, split_weights

if TYPE_CHECKING:
    from ...methods.paired.adapter import Adapter
    from ...references.reference import FaceReference

__all__ = ["bound_words", "encode_prompt", "encode_words", "token_positions"]

LENGTH = 77
"""Tokens of a chunk, start and end included: the positions that CLIP's text models have."""

SPLIT_FROM = 8
"""Tokens from which a group may be split over two chunks; a shorter one moves to the next chunk as a whole."""


@dataclass(frozen=True)
class _Chunks:
    """A prompt laid out for one text encoder.

    Attributes:
        ids: [chunks, 77] token ids.
        weights: [chunks, 77].
        positions: (chunk, position) of every token of the text, in order.
    """

    ids: Tensor
    weights: Tensor
    positions: tuple[tuple[int, int], ...]


def encode_prompt(
    tokenizers: Sequence[Any],
    text_encoders: Sequence[nn.Module],
    prompt: Prompt | str,
    adapter: Adapter | None = None,
    references: Sequence[FaceReference] = (),
) -> tuple[Tensor, Tensor, tuple[SubjectToken, ...]]:
    """Encode a prompt, with the persons' words mapped to their faces where there are any.

    Without a mapped word this is SDXL's usual encoding: both encoders' hidden states before the last layer, without the
    final norm. With one, CLIP-L gives its last layer's after the final norm, as the adapter was trained; CLIP-G and
    the pooled embedding stay as they are (docs/method.md#subject-augmented-conditioning).

    Args:
        tokenizers: SDXL's two, (CLIP-L's, CLIP-G's).
        text_encoders: SDXL's two, (CLIP-L, CLIP-G with projection).
        prompt: from `parse_prompt`; a plain string has no marks and names nobody.
        adapter: weights with a subject path; None maps no word.
        references: one a person, in order.

    Returns:
        Embeddings [1, 77 * chunks, widths of both encoders] and pooled embedding [1, P] of the first chunk, both float32
        on the second encoder's device; and which tokens were bound to whom.

    Raises:
        HostError: the encoders are not SDXL's, or do not fit the adapter.
        AdapterError: a word is to be mapped, but the adapter has no subject path.
        PromptError: a mentioned word could not be found among the tokens, or names a person without a reference.
    """
    _check_encoders(tokenizers, text_encoders, adapter)
    prompt = Prompt(prompt, ()) if isinstance(prompt, str) else prompt
    first, second = text_encoders
    # CLIP-L fills a chunk up with its end token, CLIP-G with the id 0: so both were trained.
    chunks_l = _lay_out(tokenizers[0], prompt.text, padding=tokenizers[0].eos_token_id)
    chunks_g = _lay_out(tokenizers[1], prompt.text, padding=0)
    bound = () if adapter is None else _locate(tokenizers[0], prompt)
    _check_persons(bound, references)

    with torch.no_grad():
        if bound and adapter is not None:
            with _mapped_words(first, chunks_l, bound, adapter, references):
                states_l, _ = _run(first, chunks_l, tokenizers[0], tokenizers[0].eos_token_id, last=True)
        else:
            states_l, _ = _run(first, chunks_l, tokenizers[0], tokenizers[0].eos_token_id)
        states_g, pooled = _run(second, chunks_g, tokenizers[1], 0)
    # The tokenizers differ only when one of them was taught extra words; ComfyUI cuts likewise.
    tokens = min(states_l.shape[1], states_g.shape[1])
    embeds = torch.cat([states_l[:, :tokens].to(states_g.device), states_g[:, :tokens]], dim=-1)
    return embeds, pooled, bound


def encode_words(tokenizer: Any, text_encoder: nn.Module, text: str) -> Tensor:
    """Encode a text as Stable Diffusion 1.5 does: CLIP-L's last hidden states after its final norm, [1, 77 * chunks, C] float32.

    Raises:
        PromptError: the text asks for a textual inversion.
    """
    with torch.no_grad():
        chunks = _lay_out(tokenizer, text, padding=tokenizer.eos_token_id)
        return _run(text_encoder, chunks, tokenizer, tokenizer.eos_token_id, last=True)[0]


def bound_words(tokenizer: Any, prompt: Prompt) -> str:
    """Say for people which words of a prompt stand for whom; see `prompt.describe_tokens`. CLIP-L's tokenizer."""
    ids = _flat(tokenizer)(prompt.text)

    def word(index: int) -> str:
        return tokenizer.convert_ids_to_tokens(ids[index]).removesuffix("</w>")

    return describe_tokens(prompt, _locate(tokenizer, prompt), word)


def token_positions(tokenizer: Any, prompt: Prompt) -> tuple[Tensor, tuple[tuple[SubjectToken, tuple[int, int]], ...]]:
    """CLIP-L's token ids of a prompt [chunks, 77], as `encode_prompt` lays them out, and where its persons' words are:
    every bound token with its (chunk, position), positions counting the start token.

    Raises:
        PromptError: as `encode_prompt`.
    """
    chunks = _lay_out(tokenizer, prompt.text, padding=tokenizer.eos_token_id)
    return chunks.ids, tuple((token, chunks.positions[token.index]) for token in _locate(tokenizer, prompt))


def _locate(tokenizer: Any, prompt: Prompt) -> tuple[SubjectToken, ...]:
    return locate_tokens(prompt, _flat(tokenizer), tokenizer) if prompt.mentions else ()


def _groups(tokenizer: Any, text: str) -> list[tuple[list[int], float]]:
    """The tokens of every weighted segment, with its weight."""
    inversion = re.search(r"(?<!\w)embedding:[^\s()]+", text)
    if inversion:
        raise PromptError(
            f"{inversion[0]!r} asks for a textual inversion, which this host does not load. Take it out of the prompt, "
            "or use ComfyUI, where embeddings work.",
            code="no-textual-inversion",
        )
    # verbose: a segment may be longer than 77 tokens here, which the tokenizer would complain about.
    return [
        (tokenizer(segment, add_special_tokens=False, verbose=False)["input_ids"], weight)
        for segment, weight in split_weights(text)
    ]


def _flat(tokenizer: Any) -> Callable[[str], list[int]]:
    """text -> all its tokens, under this host's rules."""
    return lambda text: [token for tokens, _ in _groups(tokenizer, text) for token in tokens]


def _lay_out(tokenizer: Any, text: str, padding: int) -> _Chunks:
    """Lay a prompt into chunks of 77 tokens."""
    chunks: list[list[tuple[int, float]]] = [[]]
    positions: list[tuple[int, int]] = []
    room = LENGTH - 2  # without start and end
    for tokens, weight in _groups(tokenizer, text):
        splittable = len(tokens) >= SPLIT_FROM
        while tokens:
            free = room - len(chunks[-1])
            taken = len(tokens) if len(tokens) <= free else free if splittable else 0
            positions += [(len(chunks) - 1, 1 + len(chunks[-1]) + i) for i in range(taken)]
            chunks[-1] += [(token, weight) for token in tokens[:taken]]
            tokens = tokens[taken:]
            if tokens:
                chunks.append([])
    rows, weights = [], []
    for chunk in chunks:
        filling = [padding] * (room - len(chunk))
        rows.append([tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id, *filling])
        weights.append([1.0, *(weight for _, weight in chunk), 1.0, *[1.0] * len(filling)])
    return _Chunks(torch.tensor(rows), torch.tensor(weights), tuple(positions))


def _run(encoder: Any, chunks: _Chunks, tokenizer: Any, padding: int, last: bool = False) -> tuple[Tensor, Any]:
    """Hidden states [1, 77 * chunks, C] in float32, weighted; and CLIP-G's projected pooled embedding [1, P], else None."""
    ids = chunks.ids
    weighted = bool((chunks.weights != 1).any())
    if weighted:
        empty = [tokenizer.bos_token_id, tokenizer.eos_token_id] + [padding] * (LENGTH - 2)
        ids = torch.cat([ids, torch.tensor([empty])])
    out = encoder(ids.to(_device(encoder)), output_hidden_states=True)
    states = (out.last_hidden_state if last else out.hidden_states[-2]).float()
    if weighted:
        weights = chunks.weights.to(states.device)[..., None]
        nothing = states[-1]
        # Where the weight is 1, the state stays the very number it was.
        states = torch.where(weights == 1, states[:-1], (states[:-1] - nothing) * weights + nothing)
    pooled = getattr(out, "text_embeds", None)
    return rearrange(states, "n t c -> 1 (n t) c"), None if pooled is None else pooled[:1].float()


@contextlib.contextmanager
def _mapped_words(
    encoder: Any,
    chunks: _Chunks,
    bound: Sequence[SubjectToken],
    adapter: Adapter,
    references: Sequence[FaceReference],
) -> Iterator[None]:
    """While this is open, the encoder reads subject tokens in place of the bound words' embeddings."""

    def edit(_: nn.Module, __: tuple, embeddings: Tensor) -> Tensor:
        edited = embeddings.clone()
        for token in bound:
            position = chunks.positions[token.index]
            word = embeddings[position][None].float()
            edited[position] = adapter.subject_token(word, references[token.person - 1])[0].to(edited)
        return edited

    # The hook sits on the token embedding, so positions are added afterwards, as in training; and it is where versions
    # 4 and 5 of transformers agree.
    hook = encoder.get_input_embeddings().register_forward_hook(edit)
    try:
        yield
    finally:
        hook.remove()


def _device(encoder: Any) -> torch.device:
    return encoder.get_input_embeddings().weight.device


def _check_encoders(tokenizers: Sequence[Any], text_encoders: Sequence[Any], adapter: Adapter | None) -> None:
    if len(text_encoders) != 2 or len(tokenizers) != 2 or None in (*text_encoders, *tokenizers):
        raise HostError(
            "SDXL has two text encoders, CLIP-L and CLIP-G, with a tokenizer each, but the base lacks one of them. "
            "Load the whole SDXL base (the refiner and other models cannot be used).",
            code="text-encoder-missing",
        )
    if not hasattr(text_encoders[1], "text_projection"):
        raise HostError(
            f"The second text encoder is a {type(text_encoders[1]).__name__} without a projection; SDXL's is a "
            "CLIPTextModelWithProjection. Give the encoders in the order CLIP-L, CLIP-G.",
            code="text-encoders-in-wrong-order",
        )
    wanted = adapter.info.text_width if adapter is not None and adapter.has_subject_path else None
    width = text_encoders[0].get_input_embeddings().weight.shape[1]
    if wanted is not None and width != wanted:
        raise HostError(
            f"The first text encoder's word embeddings are {width} wide, the adapter was trained with {wanted}. "
            "Load a base of the adapter's family.",
            code="text-encoder-of-another-width",
        )


def _check_persons(bound: Sequence[SubjectToken], references: Sequence[FaceReference]) -> None:
    for token in bound:
        if token.person > len(references):
            raise PromptError(
                f"The word {token.word!r} names person {token.person}, but there are {len(references)} references. "
                "Give that person's reference, or take the mark away.",
                code="person-without-reference",
            )
