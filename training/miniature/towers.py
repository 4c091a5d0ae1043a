"""The two text towers, before the UNet meets them: they learn what a sentence says, as CLIP's know it before SDXL.

The hard part is whose: "the man on the left a green sweater" binds three words over half a sentence. Asked only at a
sentence's end, towers of this size name both colors and stay at chance about which is on the left (measured: 1,400 steps
beside the UNet, cross entropy at ln 2). Asked at the words themselves, too, they know it after 300 steps. So heads read
- off the pooled state: scene and the two colors,
- off the layer before the last, which is what the UNet reads, and off CLIP-L's last, which subject prompting reads: at every garment its wearer's side; at every garment and every
  "left" and "right" who that is: color of clothes, gender, whether the sentence named them first, and all that it says of
  their looks. Garments come after all that is said of a face, and are where the UNet looks for a person's color: what they know,
  it finds.
The heads are thrown away with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhumandiff.miniature.base import TEXT_WIDTHS, build_text_encoders, compact_vocabulary
from dhumandiff.miniature.weights import save_part
from dhumandiff.miniature.world import COLORS, GARMENTS, SCENES
from dhumandiff.miniature.world.looks import LOOKS
from dhumandiff.tokenizer import END

from .fit import fit

__all__ = ["Sentences", "TextEncoders", "hide_words", "save_text_encoders", "train_text_encoders"]

BATCH = 64
NOTHING = -100
"""Where cross entropy asks nothing."""
ENDS = (len(SCENES), len(COLORS), len(COLORS))
SIDES, GENDERS = ("left", "right"), ("woman", "man")
ABOUT = (len(COLORS), len(GENDERS), 2, *map(len, LOOKS.values()))
"""How many answers there are to what is asked about a person: clothes, gender, whether named first, and looks."""
AT_WORDS = 2.0
"""Weight of what is asked at the words."""
UNKNOWN = 0.02
"""Share of words replaced by the row for words that the world does not use."""


@dataclass(frozen=True)
class Sentences:
    """What all captions say, and the empty one at the end: token ids [N + 1, 77] for either tower, and the answers.

    ends [N + 1] is the place of the end token. At the end: scene, color on the left, color on the right [N + 1, 3].
    At the words, `NOTHING` elsewhere: the wearer's side at a garment [N + 1, 77]; at garments and sides, for each of `ABOUT`,
    what holds for that person [11, N + 1, 77]. placed [N + 1, 77]: the side that a word is about, at sides, garments and their
    colors.
    """

    low: Tensor
    big: Tensor
    ends: Tensor
    answers: Tensor
    side: Tensor
    there: Tensor
    placed: Tensor

    @classmethod
    def of(cls, descriptions: Sequence[Mapping[str, Any]]) -> Sentences:
        """Of what the renders' told.json says."""
        captions = [one["caption"] for one in descriptions] + [""]
        low, big = (
            torch.tensor(tokenizer(captions, padding="max_length", max_length=77, truncation=True)["input_ids"])
            for tokenizer in (sdxl_tokenizer(), sdxl_tokenizer(second=True))
        )  # they differ in padding
        colors, scenes = list(COLORS), list(SCENES)
        word = {name: _token(name) for name in (*colors, *SIDES)}
        garments = torch.tensor([_token(name) for name in sorted(set(chain.from_iterable(GARMENTS.values())))])
        side, there = torch.full_like(low, NOTHING), torch.full((len(ABOUT), *low.shape), NOTHING)
        answers = torch.full((len(captions), 3), NOTHING)
        for n, one in enumerate(descriptions):
            who = [one["sides"].index(name) for name in SIDES]
            worn = [one["colours"][k] for k in who]
            answers[n] = torch.tensor([scenes.index(one["scene"]), *(colors.index(name) for name in worn)])
            garment = torch.isin(low[n], garments) & (worn[0] != worn[1])  # else it is not clear whose it is
            for place, (k, name) in enumerate(zip(who, SIDES, strict=True)):
                own = garment & (low[n].roll(1) == word[worn[place]])
                side[n, own] = place
                described = one["looks"][k]
                looks = (
                    words.index(described[name]) if name in described else NOTHING for name, words in LOOKS.items()
                )
                known = (int(answers[n, 1 + place]), GENDERS.index(one["genders"][k]), k, *looks)
                there[:, n, own | (low[n] == word[name])] = torch.tensor(known)[:, None]
        placed = torch.where(side.roll(-1) == NOTHING, side, side.roll(-1))  # a color comes before its garment
        for place, name in enumerate(SIDES):
            placed[low == word[name]] = place
        ends = (low == END).int().argmax(dim=1)
        return cls(low, big, ends, answers, side, there, placed)

    def vocabulary(self) -> Tensor:
        """The token ids that occur."""
        return torch.unique(torch.cat([self.low, self.big]))


class TokenTable(nn.Module):
    """A token table of the words that occur: `lookup` takes CLIP's token ids to its rows, row 0 stands for all others."""

    def __init__(self, ids: Tensor, vocabulary: int, width: int) -> None:
        super().__init__()
        lookup = torch.zeros(vocabulary, dtype=torch.long)
        lookup[ids] = torch.arange(1, len(ids) + 1)
        self.register_buffer("lookup", lookup)
        self.weight = nn.Parameter(torch.randn(len(ids) + 1, width) * 0.05)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, width]."""
        return F.embedding(self.lookup[ids], self.weight)


class TextEncoders(nn.Module):
    """CLIP-L and CLIP-G with the heads that ask them."""

    def __init__(self, words: Tensor) -> None:
        super().__init__()
        self.towers = nn.ModuleList(build_text_encoders())
        for tower, width in zip(self.towers, TEXT_WIDTHS, strict=True):
            tower.set_input_embeddings(TokenTable(words, tower.config.vocab_size, width))
        self.end_heads = nn.ModuleList(nn.Linear(width, sum(ENDS)) for width in TEXT_WIDTHS)
        self.word_heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, len(SIDES) + sum(ABOUT)))
            for width in (*TEXT_WIDTHS, TEXT_WIDTHS[0])
        )

    def forward(
        self, sentences: Sentences, rows: Tensor, last: Tensor, unknown: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """rows [B]: sentences; last [B] bool: read CLIP-L after its last layer; unknown [B, 77] bool: words to hide.

        Returns context [B, 77, 160], pooled [B, 96], and the loss of the heads.
        """
        outs = [
            self._run(tower, ids[rows], unknown)
            for tower, ids in zip(self.towers, (sentences.low, sentences.big), strict=True)
        ]
        low, big = outs
        asked = sum(
            self._ask_ends(k, pooled, sentences, rows) for k, pooled in enumerate((low.pooler_output, big.text_embeds))
        )
        read = (low.hidden_states[-2], big.hidden_states[-2], low.last_hidden_state)
        asked = asked + AT_WORDS * sum(self._ask_words(k, states, sentences, rows) for k, states in enumerate(read))
        states = torch.where(last[:, None, None], low.last_hidden_state, low.hidden_states[-2])
        return torch.cat([states, big.hidden_states[-2]], dim=-1), big.text_embeds, asked

    def _run(self, tower: nn.Module, ids: Tensor, unknown: Tensor | None) -> Any:
        if unknown is None:
            return tower(ids, output_hidden_states=True)
        table = tower.get_input_embeddings()
        hook = table.register_forward_hook(lambda _, __, found: torch.where(unknown[..., None], table.weight[0], found))
        try:
            return tower(ids, output_hidden_states=True)
        finally:
            hook.remove()

    def _ask_ends(self, k: int, pooled: Tensor, sentences: Sentences, rows: Tensor) -> Tensor:
        parts = self.end_heads[k](pooled).split(ENDS, dim=-1)
        return sum(_entropy(logits, sentences.answers[rows, part]) for part, logits in enumerate(parts))

    def _ask_words(self, k: int, states: Tensor, sentences: Sentences, rows: Tensor) -> Tensor:
        side, *there = self.word_heads[k](states).split((len(SIDES), *ABOUT), dim=-1)
        about = zip(there, sentences.there[:, rows], strict=True)
        return _entropy(side, sentences.side[rows]) + sum(_entropy(logits, wanted) for logits, wanted in about)


def train_text_encoders(folder: Path, sentences: Sentences, steps: int) -> TextEncoders:
    """The towers with their heads; a run that is finished is only loaded."""
    torch.manual_seed(6)
    model = TextEncoders(sentences.vocabulary())
    captions = len(sentences.low) - 1

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        rows = torch.randint(captions, (BATCH,), generator=random)
        hidden = hide_words(sentences, rows, random)
        return {"heads": model(sentences, rows, torch.zeros(BATCH, dtype=torch.bool), hidden)[2]}

    # Muon lets the towers' attention grow without bounds; AdamW does not.
    fit(folder, "towers", model, losses, steps=steps, adamw=list(model.parameters()), seed=6)
    return model


def hide_words(sentences: Sentences, rows: Tensor, random: torch.Generator) -> Tensor:
    """Which tokens of sentences [B] are to be unknown words, [B, 77] bool; never the start, the end or what follows it."""
    places = torch.arange(sentences.low.shape[1])
    inside = (places[None] > 0) & (places[None] < sentences.ends[rows][:, None])
    return inside & (torch.rand(inside.shape, generator=random) < UNKNOWN)


def save_text_encoders(model: TextEncoders, folder: Path) -> None:
    """Write text_encoder and text_encoder_2 as they ship, their tables cut down to the words that occur."""
    for part, tower in zip(("text_encoder", "text_encoder_2"), model.towers, strict=True):
        table = tower.get_input_embeddings()
        kept = {
            name: value
            for name, value in tower.state_dict().items()
            if "token_embedding" not in name and not name.endswith("position_ids")
        }
        ids = (table.lookup > 0).nonzero()[:, 0]
        save_part(part, compact_vocabulary(kept, ids, table.weight.data), folder)


def _entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross entropy of [..., classes] where something is asked; 0 where nothing is, as in a batch of empty sentences."""
    total = F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), ignore_index=NOTHING, reduction="sum")
    return total / (wanted != NOTHING).sum().clamp(min=1)


def _token(word: str) -> int:
    ids = sdxl_tokenizer()(word)["input_ids"]
    if len(ids) != 3:
        raise ValueError(f"{word!r} is not one token, but {len(ids) - 2}.")
    return ids[1]
