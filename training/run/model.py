"""Base and adapter as one module to train: every sample of a batch has its own two people, and gradients reach the adapter.

Letters in shapes as in `dhumandiff.methods.paired.attention`: B samples, Q spatial positions of a layer, P persons, T face
tokens, C channels; and W subject tokens, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from dhumandiff import Adapter
from dhumandiff.hosts.diffusers.attention import PairedProcessor, check_compatible, cross_attention_layers
from dhumandiff.methods.dual_pathway.adapter import DualPathway
from dhumandiff.methods.paired.attention import paired_attention

from ..data.batch import Batch, SubjectTokens
from ..data.dataset import PreparedDataset
from ..objectives.protocol import AttentionMaps, Objective
from .base import BaseModel
from .config import TrainConfig
from .weights import Weights

__all__ = ["TrainableModel", "build_model"]

CHUNK_LENGTH = 77
"""Tokens of a chunk of text."""


def build_model(
    config: TrainConfig, base: BaseModel, weights: Weights, data: PreparedDataset, objectives: Sequence[Objective]
) -> TrainableModel:
    """The model that training, validation and the estimate of memory run, on the device of the weights.

    Args:
        config: the settings; those of the objectives, and of a dual pathway.
        base: the frozen base; its UNet gets the attention processors.
        weights: what is trained.
        data: a prepared folder, whose unconditional hidden states are used.
        objectives: what is computed; they say which attention is recorded.
    """
    recorded = frozenset(kind for objective in objectives for kind in objective.required_attention)
    uncond_clip_hidden = data.common["clip_hidden_zero"].to(next(weights.parameters()).device)
    how = (uncond_clip_hidden, recorded, config.objectives.localization.min_layer_size)
    if isinstance(weights, DualPathway):
        from .dual_model import DualModel  # is a `TrainableModel`

        return DualModel(base, weights, config.dual, *how)
    return TrainableModel(base, weights, *how)


class TrainableModel(nn.Module):
    """Base and adapter as one module whose only parameters are the adapter's; a `conditioning.LayerConditioning`.

    Args:
        base: frozen; its UNet gets attention processors that add the persons' attention.
        adapter: what is trained.
        uncond_clip_hidden: [1, T, C], the image encoder's answer to a normalized picture of zeros, for the unconditional tokens.
        recorded: which attention `forward` hands out, of "faces" and "words".
        min_layer_size: attention of layers with fewer spatial positions is not recorded.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter,
        uncond_clip_hidden: Tensor,
        recorded: frozenset[str] = frozenset(),
        min_layer_size: int = 1,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        # In a tuple, so that the frozen base is no part of this module: nothing saves, counts or distributes it.
        self._frozen = (base,)
        self.register_buffer("uncond_clip_hidden", uncond_clip_hidden.float(), persistent=False)
        self.recorded, self.min_layer_size = recorded, min_layer_size
        self._face_tokens: Tensor | None = None
        self._subject_columns: Tensor | None = None
        self._maps: dict[int, AttentionMaps] | None = None
        layers = cross_attention_layers(base.unet)
        check_compatible(layers, adapter.info)
        for number, (_, module) in enumerate(layers):
            module.processor = _RecordingProcessor(self, number)

    @property
    def base(self) -> BaseModel:
        """The frozen base."""
        return self._frozen[0]

    @property
    def weights(self) -> Weights:
        """What is trained and saved."""
        return self.adapter

    def begin(self, batch: Batch) -> None:
        """Take what a batch's samples have besides tokens, before a prediction; a method's own."""

    def forward(self, batch: Batch, noisy_latents: Tensor, timesteps: Tensor) -> tuple[Tensor, list[AttentionMaps]]:
        """The UNet's prediction for noisy latents [B, c, h, w] at timesteps [B], and the recorded attention of the layers."""
        self.begin(batch)
        tokens = self.face_tokens(batch.hidden, batch.drop_face_tokens)
        text, self._subject_columns = self.encode_text(batch)
        prediction = self.predict(
            noisy_latents, timesteps, text, batch.pooled, batch.time_ids, tokens, record=bool(self.recorded)
        )
        # Gradient checkpointing runs the layers again and has to find the same work to do; what it records then is lost.
        maps, self._maps = self._maps, {} if self.recorded else None
        return prediction + self._zero_with_gradient(batch), [maps[layer] for layer in sorted(maps or {})]

    def run(self, work: Callable[[], Any]) -> Any:
        """Call `work`, which uses base and adapter otherwise than by `forward`; sharded weights are then found as in `forward`."""
        return work()

    @torch.no_grad()
    def words_alone(self, batch: Batch, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """What the base predicts of the sentences with nobody on the UNet, [B, c, h, w]; no gradients."""
        return self.predict(noisy_latents, timesteps, batch.text.float(), batch.pooled, batch.time_ids, None)

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        pooled: Tensor | None,
        time_ids: Tensor,
        face_tokens: Tensor | None,
        record: bool = False,
    ) -> Tensor:
        """The UNet's prediction [B, c, h, w], float32, with face tokens [B, P, T, C] of every sample; None: with nobody."""
        unet = self.base.unet
        added = None if pooled is None else {"text_embeds": pooled.to(unet.dtype), "time_ids": time_ids.to(unet.dtype)}
        self._face_tokens, self._maps = face_tokens, {} if record else None
        return unet(
            noisy_latents.to(unet.dtype), timesteps, text.to(unet.dtype), added_cond_kwargs=added
        ).sample.float()

    def face_tokens(self, clip_hidden: Tensor, dropped: Tensor) -> Tensor:
        """clip_hidden [B, P, T, C] -> face tokens [B, P, tokens, context]; the unconditional ones where dropped [B, P]."""
        persons = clip_hidden.shape[1]
        projection = self.adapter.face_projection
        clip_hidden = rearrange(clip_hidden, "b p t c -> (b p) t c").to(self.uncond_clip_hidden)
        tokens = rearrange(projection(clip_hidden), "(b p) t c -> b p t c", p=persons)
        unconditional = projection(self.uncond_clip_hidden)[:, None]
        return torch.where(dropped[..., None, None], unconditional, tokens)

    def encode_text(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The text of every sample, with CLIP-L's channels encoded anew where words carry faces (docs/method.md#subject-augmented-conditioning).

        Returns:
            The text [B, L, context], and which of its tokens are the subject words of whom, [B, P, L]; None without words.
        """
        text = batch.text.float()
        if not len(batch.subject_token_index) or not self.adapter.has_subject_path or self.base.text_encoder is None:
            return text, None
        samples, persons, chunks, positions = SubjectTokens(*batch.subject_token_index.T.contiguous())
        columns = torch.zeros(*batch.drop_identity.shape, text.shape[1], device=text.device)
        columns[samples, persons, chunks * CHUNK_LENGTH + positions] = 1
        mapped = samples.unique()  # samples without a word keep the stock encoding, as at inference
        encoder = self.base.text_encoder
        ids = batch.ids[mapped]
        words = encoder.get_input_embeddings()(batch.ids[samples, chunks, positions]).float()
        subjects = self.subject_tokens(batch, samples, persons, words)
        where = (torch.searchsorted(mapped, samples) * ids.shape[1] + chunks, positions)

        def insert_subjects(_: nn.Module, __: tuple, embeddings: Tensor) -> Tensor:
            return embeddings.index_put(where, subjects.to(embeddings.dtype))

        hook = encoder.get_input_embeddings().register_forward_hook(insert_subjects)
        try:
            states = encoder(rearrange(ids, "b n t -> (b n) t")).last_hidden_state.float()
        finally:
            hook.remove()
        states = rearrange(states, "(b n) t c -> b (n t) c", n=ids.shape[1])
        channels = text[mapped]
        channels = torch.cat([states, channels[..., states.shape[-1] :]], dim=-1)
        return text.index_copy(0, mapped, channels.to(text.dtype)), columns

    def subject_tokens(self, batch: Batch, samples: Tensor, persons: Tensor, words: Tensor) -> Tensor:
        """What replaces the words [W, text_width] of these persons [W] in these samples [W]: [W, text_width]."""
        people = batch.drop_identity.shape[1]
        used, back = (samples * people + persons).unique(return_inverse=True)
        identity = rearrange(batch.identity, "b p c -> (b p) c")[used]
        clip_hidden = rearrange(batch.hidden, "b p t c -> (b p) t c")[used].to(self.uncond_clip_hidden)
        token = self.adapter.identity_projection(identity, clip_hidden)[back]
        return self.adapter.mapping(torch.cat([words, token.to(words.dtype)], dim=-1))

    def residual(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the persons add to a layer's attention output, [B, Q, C]; None where nobody is on the UNet."""
        if self._face_tokens is None:
            return None
        keys, values = self.adapter.keys_values(layer, self._face_tokens)
        keys, values = keys.to(query.dtype), values.to(query.dtype)
        output, probabilities = paired_attention(query, keys, values, heads)
        if self._records("faces", query):
            lengths = rearrange(values.float(), "b p t (h d) -> b h p t d", h=heads).norm(dim=-1)
            self._maps_of(layer).faces = torch.einsum("bhqpt,bhpt->bpq", probabilities, lengths)
        return output

    def record_text(self, layer: int, query: Tensor, key: Tensor, heads: int) -> None:
        """Record the text attention of a layer to the subject words, if an objective reads it."""
        if self._subject_columns is None or not self._records("words", query):
            return
        q, k = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (query, key))
        probabilities = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).float().softmax(dim=-1)
        self._maps_of(layer).words = torch.einsum("bhql,bpl->bpq", probabilities, self._subject_columns) / heads

    def _records(self, kind: str, query: Tensor) -> bool:
        return self._maps is not None and kind in self.recorded and query.shape[1] >= self.min_layer_size

    def _maps_of(self, layer: int) -> AttentionMaps:
        return self._maps.setdefault(layer, AttentionMaps())

    def _zero_with_gradient(self, batch: Batch) -> Tensor | float:
        """0 as a function of the subject path's weights: in a batch without words, other processes would wait for their gradient."""
        trained = [
            parameter
            for part in (self.adapter.identity_projection, self.adapter.mapping)
            if part is not None
            for parameter in part.parameters()
            if parameter.requires_grad
        ]
        if not self.training or len(batch.subject_token_index) or not trained:
            return 0.0
        return 0.0 * torch.stack([parameter.sum() for parameter in trained]).sum()


class _RecordingProcessor(PairedProcessor):
    """`PairedProcessor` that also records the text's attention."""

    conditioning: TrainableModel

    def attend_text(self, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Any) -> Tensor:
        self.conditioning.record_text(self.layer, query, key, heads)
        return super().attend_text(query, key, value, heads, mask)
