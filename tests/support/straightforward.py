"""A portrait with diffusers the long way, for tests: one call of the UNet a row, sigmas by hand, a new attachment each time."""

import numpy as np
import torch

from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.hosts.diffusers.pipeline import NEGATIVE
from dhumandiff.hosts.diffusers.text import encode_prompt
from dhumandiff.methods.paired.attention_store import FocusMap
from dhumandiff.methods.paired.cascade import released_focus_mask
from dhumandiff.prompts import parse_prompt
from support.tiny_pair import MARKED


def noise_at(share):
    """ComfyUI's percent_to_sigma for SDXL's schedule, by hand."""
    if share <= 0 or share >= 1:
        return np.inf if share <= 0 else 0.0
    left = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    return np.exp(np.interp((1 - share) * 999, np.arange(1000), np.log((1 - left) / left) / 2))


class Straightforward:
    """The same picture the long way: one call of the UNet for each row, sigmas by hand, a new attachment each time."""

    def __init__(
        self, portrait, adapter, people, marked=MARKED, negative=NEGATIVE, cfg=5.0, size=(64, 96), steps=3, share=(0, 1)
    ):
        self.first, self.last = map(noise_at, share)
        self.parts, self.adapter, self.people, self.cfg = portrait.pipeline, adapter, people, cfg
        tokenizers = (self.parts.tokenizer, self.parts.tokenizer_2)
        encoders = (self.parts.text_encoder, self.parts.text_encoder_2)
        self.positive = encode_prompt(tokenizers, encoders, parse_prompt(marked, len(people)), adapter, people)[:2]
        self.negative = encode_prompt(tokenizers, encoders, negative)[:2]
        width, height = size
        self.ids = torch.tensor([[float(height), width, 0, 0, height, width]])
        self.noise = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
        scheduler = sdxl_scheduler()
        scheduler.set_timesteps(steps)
        self.sigmas, self.times = scheduler.sigmas, scheduler.timesteps

    def rows(self, strength, x, sigma, t):
        """Predictions of the unconditional and the conditional row, and what the layers saw."""
        out, seen = [], ([], [])
        for role, (embeds, pooled) in enumerate((self.negative, self.positive)):
            with torch.no_grad(), attach(self.parts.unet, self.adapter, self.people, strength) as attached:
                if role == 0:  # a lone row counts as conditional: give it the unconditional tokens
                    made = attached.people.keys_values
                    attached.people.keys_values = lambda *at, made=made: [t[[0, 0]] for t in made(*at)]
                attached.record = seen[role].append
                added = {"text_embeds": pooled, "time_ids": self.ids}
                scaled = x / (sigma**2 + 1) ** 0.5
                out.append(self.parts.unet(scaled, t, embeds, added_cond_kwargs=added).sample)
        return *out, seen

    def guided(self, strength, x, sigma, t):
        strength = strength if self.last <= sigma <= self.first else 0.0
        unconditional, conditional, seen = self.rows(strength, x, sigma, t)
        return unconditional + self.cfg * (conditional - unconditional), seen

    def euler(self, predict):
        x = self.noise * (self.sigmas[0] ** 2 + 1) ** 0.5
        for i, t in enumerate(self.times):
            x = x + (self.sigmas[i + 1] - self.sigmas[i]) * predict(x, self.sigmas[i], t)
        return self.decode(x)

    def decode(self, x):
        with torch.no_grad():
            picture = self.parts.vae.decode(x / 0.13025).sample[0]
        return ((picture / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0)

    def hear(self, focus, seen):
        # The last layers of the tiny UNet's transformers: two of 1 layer, two of 2, three of 2, three of 1, one of 2.
        for layer in seen:
            if layer.layer in (0, 1, 3, 5, 7, 9, 11, 12, 13, 14, 16):
                focus.add(layer.probabilities, layer.shape, layer.tiles)

    def plain(self, strength):
        return self.euler(lambda *at: self.guided(strength, *at)[0])

    def two_strength(self, scene, face, share):
        focus = FocusMap(1, len(self.people), tuple(self.noise.shape[-2:]))
        masks = []

        def predict(x, sigma, t):
            at_scene, (_, seen) = self.guided(scene, x, sigma, t)
            at_face, (_, seen_at_face) = self.guided(face, x, sigma, t)
            self.hear(focus, seen or seen_at_face)
            if not focus.maps().any():
                return at_scene
            low, high = focus.maps()[0].amin((1, 2), keepdim=True), focus.maps()[0].amax((1, 2), keepdim=True)
            best = ((focus.maps()[0] - low) / (high - low)).amax(0)
            kept = best.flatten().sort(descending=True).values[round(share * best.numel()) - 1]
            masks.append(best >= kept)
            return torch.where(masks[-1], at_face, at_scene)

        return self.euler(predict), masks

    def one_pass(self, scene, face, share):
        focus = FocusMap(1, len(self.people), tuple(self.noise.shape[-2:]))

        def best():
            low, high = focus.maps()[0].amin((1, 2), keepdim=True), focus.maps()[0].amax((1, 2), keepdim=True)
            stretched = ((focus.maps()[0] - low) / (high - low)).amax(0)
            return stretched, stretched.flatten().sort(descending=True).values[round(share * stretched.numel()) - 1]

        def predict(x, sigma, t):
            strength = scene or face
            if focus.maps().any():
                stretched, kept = best()
                strength = (scene + (face - scene) * (stretched / kept).clamp(max=1) ** 2)[None, None]
            guided, (_, seen) = self.guided(strength, x, sigma, t)
            self.hear(focus, seen)
            return guided

        picture = self.euler(predict)
        stretched, kept = best()
        return picture, stretched >= kept

    def released(self, scene, face, share):
        last = []

        def first(x, sigma, t):
            guided, (seen, _) = self.guided(scene, x, sigma, t)
            last[:] = seen
            return guided

        self.euler(first)
        maps = []
        for layer in last:
            query = layer.query[0].unflatten(-1, (layer.heads, -1)).transpose(0, 1)
            key = layer.keys(0)[0].unflatten(-1, (layer.heads, -1)).permute(1, 2, 0)
            maps.append(query @ key.softmax(dim=-1))
        size = tuple(self.noise.shape[-2:])
        mask = released_focus_mask(maps, size, 100 * (1 - share), [layer.shape for layer in last])

        def second(x, sigma, t):
            return torch.where(mask, self.guided(face, x, sigma, t)[0], self.guided(scene, x, sigma, t)[0])

        return self.euler(second), mask
