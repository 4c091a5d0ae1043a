"""A portrait without ComfyUI on a pretended card: what is on it at most while words are read, steps are made, and the picture is decoded.

    python -m support.pretended_portrait                    bytes, as JSON

SDXL and the adapter at their own sizes in fp16, 1024 x 1024 px, models taking turns. The text encoders' own work is not run.
"""

import json
from pathlib import Path

import diffusers
import torch
import transformers

import dhumandiff.testing as tiny
from dhumandiff.hosts.diffusers import attach
from dhumandiff.hosts.diffusers.memory import Turns
from dhumandiff.hosts.diffusers.vae import _decoded
from dhumandiff.methods.paired import projections
from dhumandiff.methods.paired.adapter import Adapter
from dhumandiff.references.reference import FaceReference
from support.pretended_card import CARD, PretendedCard, to_card
from support.released_sizes import released_tensors

CONFIGS = Path(tiny.__file__).parents[1] / "hosts" / "diffusers" / "configs" / "sdxl"


def read(part):
    return json.loads((CONFIGS / part / "config.json").read_text())


def main():
    """Print the peaks."""
    card = PretendedCard(ours=f"{Path(tiny.__file__).parents[2]}/")
    adapter = to_card(Adapter.from_tensors(released_tensors(projections), tiny.METADATA), card)
    hidden = torch.ones(1, 257, 1280)
    people = [FaceReference(identity=torch.ones(1, 512) / 512**0.5, clip_hidden=hidden, clip_hidden_zero=hidden)] * 2
    peaks, half, turns = {}, torch.float16, Turns(CARD, one_at_a_time=True)
    with card, torch.no_grad():
        texts = [
            transformers.CLIPTextModel(transformers.CLIPTextConfig(**read("text_encoder"))),
            transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**read("text_encoder_2"))),
        ]
        unet = diffusers.UNet2DConditionModel.from_config(read("unet")).to(half)
        vae = diffusers.AutoencoderKL.from_config(read("vae"))
        card.begin()
        with turns.of(*[text.to(half) for text in texts], adapter):
            attached = attach(unet, adapter, people)
            attached.people.finish(attached.layers, CARD, half)
        peaks["words and people"] = card.peak
        card.begin()
        with turns.of(unet):
            more = {"text_embeds": (2, 1280), "time_ids": (2, 6)}
            unet(
                torch.empty(2, 4, 128, 128, dtype=half, device=CARD),
                torch.ones((), dtype=torch.int64, device=CARD),
                torch.empty(2, 77, 2048, dtype=half, device=CARD),
                added_cond_kwargs={name: torch.empty(size, dtype=half, device=CARD) for name, size in more.items()},
            )
        peaks["a step"] = card.peak
        attached.detach()
        card.begin()
        with turns.of(vae):
            vae.decode(torch.empty(1, 4, 128, 128, device=CARD))
        peaks["decoding"] = card.peak
        card.begin()
        real, tries = vae.decode, []

        def short(latent):
            tries.append(latent)
            if len(tries) == 1:
                raise torch.OutOfMemoryError
            return real(latent)

        vae.decode = short
        with turns.of(vae):
            _decoded(vae, torch.empty(1, 4, 128, 128, device=CARD))
        peaks["decoding in tiles"] = card.peak
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
