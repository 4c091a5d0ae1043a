"""Recording attention while sampling: what the cascade makes its focus mask from.

Both hosts use the same two stores, one for each way of making the mask (cascade.py): `AttentionStore`, which lies in
`conditioning/` since other methods find faces with it too, and the one of the released script.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...conditioning.attention_store import AttentionRecord, AttentionStore, FocusMap, last_layers, token_contrast
from ...conditioning.identity import IdentityConditioning
from ...errors import HostError
from .attention import released_attention_map
from .cascade import released_layer_map, released_threshold
from .settings import released_without_mask

__all__ = ["AttentionRecord", "AttentionStore", "FocusMap", "ReleasedAttentionStore", "last_layers", "token_contrast"]


class ReleasedAttentionStore:
    """Gathers what the released script makes its mask from: person 1's maps of the unconditional half, last step."""

    def __init__(self) -> None:
        self._layers: dict[tuple[bool, int], dict[tuple[IdentityConditioning, int], Tensor]] = {}

    def __call__(self, record: AttentionRecord) -> None:
        """Take in one layer of one call; later calls replace earlier ones, several conditionings count alike."""
        for number, (sample, tile) in enumerate(zip(record.layout.samples, record.tiles, strict=True)):
            if tile is not None and (tile.height, tile.width) == record.layout.size:
                query, keys = record.query[number : number + 1], record.keys(number)[:1]
                attention = released_attention_map(query, keys, record.heads)[0]
                layers = self._layers.setdefault((sample.is_cond, tile.image), {})
                layers[record.conditioning, record.layer] = released_layer_map(
                    attention, record.shape, record.layout.size
                )

    def resize(self, size: tuple[int, int]) -> None:
        """Nothing to resize: what counts is the last step, which comes in the size that it has."""

    def discard_pending(self) -> None:
        """Nothing to forget: the call that is made again replaces what was recorded."""

    def mask(self, images: int, percentile: float) -> Tensor:
        """The released focus mask of each picture, bool [images, H, W].

        Raises:
            HostError: nobody acted in the last step, or no prompt covers the whole picture.
        """
        # Without guidance (CFG 1) there is no unconditional half; the script's first chunk is then the conditional one.
        is_cond = (False, 0) not in self._layers
        if (is_cond, 0) not in self._layers:
            reason = (
                "It needs people who act to the end, a prompt that covers the whole picture (no area, no tiles), and a "
                "last step that no cache skips."
            )
            raise HostError(released_without_mask(reason), code="released-without-mask")
        masks = []
        for image in range(images):
            layers = self._layers[(is_cond, image)]
            # In the adapter's order, since a sum of floats depends on it; ComfyUI runs the middle block before the upper ones.
            mean = torch.stack([layers[key] for key in sorted(layers, key=lambda key: key[1])]).mean(dim=0)
            masks.append(released_threshold(mean[0], percentile))
        return torch.stack(masks)
