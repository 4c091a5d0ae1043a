"""The pair inside a UNet that is trained: every row of a batch has its own two people, and gradients reach the adapter.

Letters in shapes as in `dhumandiff.methods.paired.attention`: B rows, Q places of a layer, P persons, T face tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from dhumandiff import Adapter
from dhumandiff.hosts.diffusers.attention import PairedProcessor, check_fit, cross_attention_layers
from dhumandiff.methods.paired.attention import paired_attention

from ..data.batch import Batch, SubjectTokens
from .base import Base

__all__ = ["LayerMaps", "PairModel"]

LENGTH = 77
"""Tokens of a chunk of text."""


@dataclass
class LayerMaps:
    """What one cross-attention layer paid to each person, for objectives that look at it.

    faces: [B, P, Q] attention to the person's face tokens, each weighed by the length of its value. None where not asked for.
    words: [B, P, Q] attention to the person's mapped words, mean over the heads. None where not asked for.
    """

    faces: Tensor | None = None
    words: Tensor | None = None


class PairModel(nn.Module):
    """Base and adapter as one module whose only parameters are the adapter's.

    Args:
        base: frozen; its UNet gets the pair's attention processors.
        adapter: what learns.
        hidden_zero: [1, T, C] the vision tower's answer to a normalised tensor of zeros, for the unconditional tokens.
        watch: which attention `forward` hands out, of "faces" and "words".
        smallest: layers with fewer places hand out nothing.
    """

    def __init__(
        self, base: Base, adapter: Adapter, hidden_zero: Tensor, watch: frozenset[str] = frozenset(), smallest: int = 1
    ) -> None:
        super().__init__()
        self.adapter = adapter
        # In a tuple, so that the frozen base is no part of this module: nothing saves, counts or distributes it.
        self._frozen = (base,)
        self.register_buffer("hidden_zero", hidden_zero.float(), persistent=False)
        self.watch, self.smallest = watch, smallest
        self._tokens: Tensor | None = None
        self._columns: Tensor | None = None
        self._maps: dict[int, LayerMaps] | None = None
        layers = cross_attention_layers(base.unet)
        check_fit(layers, adapter.info)
        for number, (_, module) in enumerate(layers):
            module.processor = _TrainedProcessor(self, number)

    @property
    def base(self) -> Base:
        """The frozen base."""
        return self._frozen[0]

    def forward(self, batch: Batch, noisy: Tensor, times: Tensor) -> tuple[Tensor, list[LayerMaps]]:
        """The UNet's prediction for noisy latents [B, c, h, w] at times [B]; and the maps of the layers, if watched."""
        tokens = self.face_tokens(batch.hidden, batch.drop_face_tokens)
        text, columns = self.text(batch)
        self._columns = columns
        prediction = self.predict(noisy, times, text, batch.pooled, batch.time_ids, tokens, watching=bool(self.watch))
        # Gradient checkpointing runs the layers again and has to find the same work to do; what it notes then is lost.
        maps, self._maps = self._maps, {} if self.watch else None
        return prediction + self._untouched(batch), [maps[layer] for layer in sorted(maps or {})]

    def predict(
        self,
        noisy: Tensor,
        times: Tensor,
        text: Tensor,
        pooled: Tensor | None,
        time_ids: Tensor,
        tokens: Tensor,
        watching: bool = False,
    ) -> Tensor:
        """The UNet's prediction with face tokens [B, P, T, C] of every row, float32."""
        unet = self.base.unet
        added = None if pooled is None else {"text_embeds": pooled.to(unet.dtype), "time_ids": time_ids.to(unet.dtype)}
        self._tokens, self._maps = tokens, {} if watching else None
        return unet(noisy.to(unet.dtype), times, text.to(unet.dtype), added_cond_kwargs=added).sample.float()

    def face_tokens(self, hidden: Tensor, dropped: Tensor) -> Tensor:
        """hidden [B, P, T, C] -> face tokens [B, P, tokens, context]; the unconditional ones where dropped [B, P]."""
        persons = hidden.shape[1]
        projection = self.adapter.face_projection
        hidden = rearrange(hidden, "b p t c -> (b p) t c").to(self.hidden_zero)
        tokens = rearrange(projection(hidden), "(b p) t c -> b p t c", p=persons)
        nothing = projection(self.hidden_zero)[:, None]
        return torch.where(dropped[..., None, None], nothing, tokens)

    def text(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The text of every row with CLIP-L's channels made anew where words carry faces (docs/method.md#subject-augmented-conditioning).

        Returns the text [B, L, context], and which of its columns are the words of whom, [B, P, L]; None for no words.
        """
        text = batch.text.float()
        if not len(batch.subject_token_index) or not self.adapter.has_subject_path or self.base.text_encoder is None:
            return text, None
        rows, persons, chunks, places = SubjectTokens(*batch.subject_token_index.T.contiguous())
        columns = torch.zeros(*batch.drop_identity.shape, text.shape[1], device=text.device)
        columns[rows, persons, chunks * LENGTH + places] = 1
        mapped = rows.unique()  # rows without a word keep the stock encoding, as at inference
        encoder = self.base.text_encoder
        ids = batch.ids[mapped]
        words = encoder.get_input_embeddings()(batch.ids[rows, chunks, places]).float()
        subjects = self.subject_tokens(batch, rows, persons, words)
        where = (torch.searchsorted(mapped, rows) * ids.shape[1] + chunks, places)

        def edit(_: nn.Module, __: tuple, embeddings: Tensor) -> Tensor:
            return embeddings.index_put(where, subjects.to(embeddings.dtype))

        hook = encoder.get_input_embeddings().register_forward_hook(edit)
        try:
            states = encoder(rearrange(ids, "b n t -> (b n) t")).last_hidden_state.float()
        finally:
            hook.remove()
        states = rearrange(states, "(b n) t c -> b (n t) c", n=ids.shape[1])
        channels = text[mapped]
        channels = torch.cat([states, channels[..., states.shape[-1] :]], dim=-1)
        return text.index_copy(0, mapped, channels.to(text.dtype)), columns

    def subject_tokens(self, batch: Batch, rows: Tensor, persons: Tensor, words: Tensor) -> Tensor:
        """What stands in for the words [W, text_width] of the persons in these rows, [W, text_width]."""
        people = batch.drop_identity.shape[1]
        places, back = (rows * people + persons).unique(return_inverse=True)
        identity = rearrange(batch.identity, "b p c -> (b p) c")[places]
        hidden = rearrange(batch.hidden, "b p t c -> (b p) t c")[places].to(self.hidden_zero)
        token = self.adapter.identity_projection(identity, hidden)[back]
        return self.adapter.mapping(torch.cat([words, token.to(words.dtype)], dim=-1))

    def term(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the persons add to a layer, [B, Q, C]."""
        keys, values = self.adapter.keys_values(layer, self._tokens)
        keys, values = keys.to(query.dtype), values.to(query.dtype)
        term, probabilities = paired_attention(query, keys, values, heads)
        if self.watches("faces", query):
            lengths = rearrange(values.float(), "b p t (h d) -> b h p t d", h=heads).norm(dim=-1)
            self.layer_maps(layer).faces = torch.einsum("bhqpt,bhpt->bpq", probabilities, lengths)
        return term

    def see_text(self, layer: int, query: Tensor, key: Tensor, heads: int) -> None:
        """Note how much a layer looks at the mapped words, if that is watched."""
        if self._columns is None or not self.watches("words", query):
            return
        q, k = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (query, key))
        probabilities = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).float().softmax(dim=-1)
        self.layer_maps(layer).words = torch.einsum("bhql,bpl->bpq", probabilities, self._columns) / heads

    def watches(self, what: str, query: Tensor) -> bool:
        """Whether this attention is handed out."""
        return self._maps is not None and what in self.watch and query.shape[1] >= self.smallest

    def layer_maps(self, layer: int) -> LayerMaps:
        """The maps of a layer in this call."""
        return self._maps.setdefault(layer, LayerMaps())

    def _untouched(self, batch: Batch) -> Tensor | float:
        """Nothing, as a function of the subject path's weights: without words, processes would wait for its gradient."""
        learning = [
            parameter
            for part in (self.adapter.identity_projection, self.adapter.mapping)
            if part is not None
            for parameter in part.parameters()
            if parameter.requires_grad
        ]
        if not self.training or len(batch.subject_token_index) or not learning:
            return 0.0
        return 0.0 * torch.stack([parameter.sum() for parameter in learning]).sum()


class _TrainedProcessor(PairedProcessor):
    """`PairedProcessor` that also shows the text's attention."""

    pair: PairModel

    def attend_text(self, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Any) -> Tensor:
        self.pair.see_text(self.layer, query, key, heads)
        return super().attend_text(query, key, value, heads, mask)
