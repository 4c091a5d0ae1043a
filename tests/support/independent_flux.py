"""FLUX.1 once more, in plain tensors, with a door after every block: what ComfyUI's patches are measured against.

    velocity = walk(weights, latent, sigma, text, pooled, guidance, after=lambda block, tokens: tokens + ...)

Written from the layout of the published weights. In float32, without batches of several guidances and without tricks.
"""

import math

import torch
import torch.nn.functional as F

AXES = (16, 56, 56)
"""How many of a head's 128 numbers turn with the image's index, the row and the column."""


def walk(weights, latent, sigma, text, pooled, guidance=None, after=None, references=()):
    """The velocity that FLUX predicts, of the latent's shape.

    Args:
        weights: FLUX's tensors under ComfyUI's names.
        latent: [B, 16, H, W], even sides. sigma: noise level 0..1. text: [B, T, C]. pooled: [B, P].
        after: (block 0.., picture tokens [B, L, D] without the references') -> what they become.
        references: latents [1, 16, h, w] that are looked at (Kontext), placed as ComfyUI's `offset` does.
    """
    net = _Layers(weights)
    batch = len(latent)
    level = torch.full((batch,), float(sigma))
    vec = net.mlp("time_in", _waves(level))
    if guidance is not None:
        vec = vec + net.mlp("guidance_in", _waves(torch.full((batch,), float(guidance))))
    vec = F.silu(vec + net.mlp("vector_in", pooled.expand(batch, -1)))

    own, places = _patches(latent), [_grid(latent, 0, 0, 0)]
    pictures, tall, wide = [own], 0, 0
    for reference in references:
        down, across = (0, wide) if reference.shape[-2] + tall > reference.shape[-1] + wide else (tall, 0)
        tall, wide = max(tall, reference.shape[-2] + down), max(wide, reference.shape[-1] + across)
        pictures.append(_patches(reference).expand(batch, -1, -1))
        places.append(_grid(reference, 1, down // 2, across // 2))
    image = net.linear("img_in", torch.cat(pictures, dim=1))
    text = net.linear("txt_in", text.expand(batch, -1, -1))
    words, tokens = text.shape[1], own.shape[1]
    turns = _turns(torch.cat([torch.zeros(words, 3), *places]))

    def opened(block, joined, start):
        if after is None:
            return joined
        end = start + tokens
        return torch.cat([joined[:, :start], after(block, joined[:, start:end]), joined[:, end:]], dim=1)

    double = net.count("double_blocks")
    for number in range(double):
        image, text = net.double(f"double_blocks.{number}", image, text, vec, turns)
        image = opened(number, image, 0)
    joined = torch.cat([text, image], dim=1)
    for number in range(net.count("single_blocks")):
        joined = opened(double + number, net.single(f"single_blocks.{number}", joined, vec, turns), words)

    shift, scale = net.linear("final_layer.adaLN_modulation.1", vec)[:, None].chunk(2, dim=-1)
    out = net.linear("final_layer.linear", _norm(joined[:, words : words + tokens]) * (1 + scale) + shift)
    high, across = latent.shape[-2] // 2, latent.shape[-1] // 2
    out = out.reshape(batch, high, across, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return out.reshape(latent.shape)


class _Layers:
    def __init__(self, weights):
        self.weights = {name: tensor.float() for name, tensor in weights.items()}

    def count(self, kind):
        return len({name.split(".")[1] for name in self.weights if name.startswith(kind)})

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def mlp(self, name, x):
        return self.linear(f"{name}.out_layer", F.silu(self.linear(f"{name}.in_layer", x)))

    def root_mean_square(self, name, x):
        scale = self.weights.get(f"{name}.weight", self.weights.get(f"{name}.scale"))
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale

    def heads(self, norm, qkv):
        """[B, L, 3 D] -> queries, keys, values [B, heads, L, 128], the first two normed."""
        q, k, v = qkv.unflatten(-1, (3, -1, sum(AXES))).permute(2, 0, 3, 1, 4)
        return self.root_mean_square(f"{norm}.query_norm", q), self.root_mean_square(f"{norm}.key_norm", k), v

    def double(self, name, image, text, vec, turns):
        sides = {"txt": text, "img": image}
        mods = {side: self.linear(f"{name}.{side}_mod.lin", vec)[:, None].chunk(6, dim=-1) for side in sides}
        each = []
        for side, x in sides.items():
            shift, scale = mods[side][:2]
            qkv = self.linear(f"{name}.{side}_attn.qkv", _norm(x) * (1 + scale) + shift)
            each.append(self.heads(f"{name}.{side}_attn.norm", qkv))
        attended = _attention(*(torch.cat(pair, dim=2) for pair in zip(*each, strict=True)), turns)
        parts = {"txt": attended[:, : text.shape[1]], "img": attended[:, text.shape[1] :]}
        for side in sides:
            _, _, gate, shift, scale, gate_mlp = mods[side]
            sides[side] = sides[side] + gate * self.linear(f"{name}.{side}_attn.proj", parts[side])
            inner = self.linear(f"{name}.{side}_mlp.0", _norm(sides[side]) * (1 + scale) + shift)
            inner = F.gelu(inner, approximate="tanh")
            sides[side] = sides[side] + gate_mlp * self.linear(f"{name}.{side}_mlp.2", inner)
        return sides["img"], sides["txt"]

    def single(self, name, joined, vec, turns):
        shift, scale, gate = self.linear(f"{name}.modulation.lin", vec)[:, None].chunk(3, dim=-1)
        width = joined.shape[-1]
        first = self.linear(f"{name}.linear1", _norm(joined) * (1 + scale) + shift)
        attended = _attention(*self.heads(f"{name}.norm", first[..., : 3 * width]), turns)
        inner = F.gelu(first[..., 3 * width :], approximate="tanh")
        return joined + gate * self.linear(f"{name}.linear2", torch.cat([attended, inner], dim=-1))


def _norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _waves(number, width=256):
    rates = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = 1000 * number[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _patches(latent):
    """[B, 16, H, W] -> tokens [B, H/2 * W/2, 64], row by row."""
    return F.unfold(latent, 2, stride=2).transpose(1, 2)


def _grid(latent, index, down, across):
    rows, columns = latent.shape[-2] // 2, latent.shape[-1] // 2
    places = torch.cartesian_prod(torch.arange(rows) + down, torch.arange(columns) + across).float()
    return torch.cat([torch.full((len(places), 1), float(index)), places], dim=1)


def _turns(places):
    """Each token's place -> its head's 64 angles as complex numbers, [L, 64]."""
    angles = []
    for axis, width in enumerate(AXES):
        rates = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles.append(places[:, axis, None].double() * rates)
    angles = torch.cat(angles, dim=1)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def _attention(q, k, v, turns):
    """Softmax attention with turned queries and keys, [B, heads, L, 128] -> [B, L, heads * 128]."""
    q, k = (torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2) for x in (q, k))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)
