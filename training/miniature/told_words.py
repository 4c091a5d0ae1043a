"""The words for expressions and turns of heads, taught to the text towers that ship, which never heard them.

Only the rows of these words in the token tables learn; all else of the towers stays. CLIP's towers read from left to right and
sentences say faces last, so whatever is read of the words before stays as it was, to the bit, and so does what an adapter
learned of them. As in towers.py heads ask at the words themselves, and are thrown away: whose face is spoken of (the side), and at the end of what
is said of somebody, the expression and the turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhumandiff.io import atomic_write
from dhumandiff.miniature.base import TABLE, TEXT_WIDTHS, compact_vocabulary, mini_text_encoders
from dhumandiff.miniature.weights import load_part, save_part
from dhumandiff.miniature.world import EXPRESSIONS

from .fit import fit
from .told_data import HEADS
from .towers import NOTHING, SIDES

__all__ = ["Asked", "FaceWords", "new_words", "save_told_towers", "teach_face_words", "train_face_words"]

BATCH, STEPS = 64, 400
PICTURES, HELD_OUT = 4_000, 400
"""The first of the pictures, whose sentences are learned from, but for those of the last that say faces."""
ASKED = (len(SIDES), len(EXPRESSIONS), len(HEADS))
PARTS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class FaceWords:
    """Sentences that say faces: token ids [N, 77] for either tower, and the answers [3, N, 77], `NOTHING` where nothing is asked.

    Asked is the side of whom is spoken of, at every new word; at the last one that is said of somebody, expression and turn.
    """

    low: Tensor
    big: Tensor
    answers: Tensor

    def part(self, first: int, end: int) -> FaceWords:
        """Some of the sentences."""
        return FaceWords(self.low[first:end], self.big[first:end], self.answers[:, first:end])

    @classmethod
    def of(cls, descriptions: Sequence[Mapping[str, Any]], new: Tensor) -> FaceWords:
        """Of what `told_data.draw_told` says of pictures; new: token ids of the new words."""
        told = [one for one in descriptions if "faces" in one]
        low, big = (
            torch.tensor(
                tokenizer([one["caption"] for one in told], padding="max_length", max_length=77, truncation=True)[
                    "input_ids"
                ]
            )
            for tokenizer in (sdxl_tokenizer(), sdxl_tokenizer(second=True))
        )
        comma = sdxl_tokenizer()(",")["input_ids"][1]
        answers = torch.full((len(ASKED), *low.shape), NOTHING)
        for n, (one, row) in enumerate(zip(told, low, strict=True)):
            places = torch.isin(row, new).nonzero()[:, 0].tolist()
            person = 0
            for place, after in zip(places, [*places[1:], None], strict=True):
                expression, head = one["faces"][person]
                answers[0, n, place] = SIDES.index(one["sides"][person])
                if after is None or (row[place:after] == comma).any():
                    answers[1, n, place], answers[2, n, place] = EXPRESSIONS.index(expression), HEADS.index(head)
                    person += 1
        return cls(low, big, answers)


def new_words(descriptions: Sequence[Mapping[str, Any]]) -> Tensor:
    """The token ids of words that the towers that ship do not know."""
    known = set(load_part(PARTS[0])["token_ids"].tolist())
    said = sdxl_tokenizer()([one["caption"] for one in descriptions if "faces" in one], truncation=True, max_length=77)
    return torch.tensor(sorted({token for ids in said["input_ids"] for token in ids} - known))


class Asked(nn.Module):
    """The towers with rows of their own for new words, and the heads that ask."""

    def __init__(self, new: Tensor) -> None:
        super().__init__()
        self.towers = nn.ModuleList(mini_text_encoders())
        self.rows = nn.ParameterList()
        vocabulary = self.towers[0].config.vocab_size
        lookup = torch.full((vocabulary,), -1)
        lookup[new] = torch.arange(len(new))
        self.register_buffer("lookup", lookup)
        for tower, width in zip(self.towers, TEXT_WIDTHS, strict=True):
            table = tower.get_input_embeddings()
            self.rows.append(nn.Parameter(table.weight[new] + 0.02 * torch.randn(len(new), width)))
            table.register_forward_hook(self._with_rows(len(self.rows) - 1))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, sum(ASKED)))
            for width in (*TEXT_WIDTHS, TEXT_WIDTHS[0])
        )

    def _with_rows(self, number: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor], found: Tensor) -> Tensor:
            at = self.lookup[inputs[0]]
            return torch.where((at >= 0)[..., None], self.rows[number][at.clamp(min=0)], found)

        return hook

    def forward(self, low: Tensor, big: Tensor) -> list[Tensor]:
        """Token ids [B, 77] -> logits [B, 77, 9] of what the UNet reads: CLIP-L's before its last layer, CLIP-G's, CLIP-L's last."""
        first, second = (
            tower(ids, output_hidden_states=True) for tower, ids in zip(self.towers, (low, big), strict=True)
        )
        read = (first.hidden_states[-2], second.hidden_states[-2], first.last_hidden_state)
        return [head(states) for head, states in zip(self.heads, read, strict=True)]


def teach_face_words(folder: Path, descriptions: Sequence[Mapping[str, Any]], into: Path) -> dict[str, list[float]]:
    """Train the rows, save the towers, and write told_words.json of how often what is asked is right.

    Args:
        folder: of the run.
        descriptions: what is said of the pictures.
        into: folder of the towers.

    Returns:
        That: of each of three readings the shares for side, expression and turn, on sentences that nothing learned from.
    """
    some = descriptions[:PICTURES]
    new = new_words(some)
    words = FaceWords.of(some, new)
    learned, held = words.part(0, len(words.low) - HELD_OUT), words.part(len(words.low) - HELD_OUT, len(words.low))
    model = train_face_words(folder, learned, new, STEPS)
    save_told_towers(model, new, into)
    with torch.no_grad():
        readings = model(held.low, held.big)
    right = {
        name: [_share(part, answer) for part, answer in zip(reading.split(ASKED, dim=-1), held.answers, strict=True)]
        for name, reading in zip(("clip_l", "clip_g", "clip_l_last"), readings, strict=True)
    }
    with atomic_write(folder / "told_words.json") as part:
        part.write_text(json.dumps(right, indent=1) + "\n", encoding="utf-8")
    return right


def train_face_words(folder: Path, words: FaceWords, new: Tensor, steps: int) -> Asked:
    """The rows of the new words; a run that is finished is only loaded."""
    torch.manual_seed(8)
    model = Asked(new)

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        rows = torch.randint(len(words.low), (BATCH,), generator=random)
        found = _entropies(model(words.low[rows], words.big[rows]), words.answers[:, rows])
        return dict(zip(("side", "expression", "head"), found, strict=True))

    learning = list(filter(lambda parameter: parameter.requires_grad, model.parameters()))
    fit(folder, "told_words", model, losses, steps=steps, learning_rate=1e-2, adamw=learning, seed=8)
    return model


def save_told_towers(model: Asked, new: Tensor, folder: Path) -> None:
    """Write text_encoder and text_encoder_2 with the new rows behind those that ship."""
    for part, rows in zip(PARTS, model.rows, strict=True):
        kept = load_part(part)
        ids, table = kept.pop("token_ids").long(), kept.pop(TABLE)
        every = torch.cat([ids, new])
        order = every.argsort()
        table = torch.cat([table[:1], torch.cat([table[1:], rows.data])[order]])
        save_part(part, compact_vocabulary(kept, every[order], table), folder)


def _share(logits: Tensor, answer: Tensor) -> float:
    """Of the places where something is asked, where it is right."""
    there = answer != NOTHING
    return round(float((logits.argmax(dim=-1) == answer)[there].float().mean()), 4)


def _entropies(logits: Sequence[Tensor], answers: Tensor) -> list[Tensor]:
    """Of each of `ASKED` the mean cross entropy, over all readings."""
    found = []
    for number, answer in enumerate(answers):
        there = answer != NOTHING
        parts = [reading.split(ASKED, dim=-1)[number][there] for reading in logits]
        found.append(sum(F.cross_entropy(part, answer[there]) for part in parts))
    return found
