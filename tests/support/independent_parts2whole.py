"""Parts2Whole once more, from the description of the method alone: no class or function of the project is used.

Plain loops over samples, heads and parts; slow, and easy to read. UNets are diffusers' own, with their modules called one by one.
"""

import math

import torch
import torch.nn.functional as F

BLOCKS = [
    *(("down_blocks", i, j) for i in range(3) for j in range(2)),
    ("mid_block", None, 0),
    *(("up_blocks", i, j) for i in range(1, 4) for j in range(3)),
]
"""The 16 layers, in the order down, mid, up."""


def blocks_of(unet):
    found = []
    for name, i, j in BLOCKS:
        owner = getattr(unet, name) if i is None else getattr(unet, name)[i]
        found.append(owner.attentions[j].transformer_blocks[0])
    return found


def softmax_attention(q, k, v, heads):
    """[Q, C], [M, C], [M, C] -> [Q, C], one head after the other."""
    width = q.shape[1] // heads
    out = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[:, part] @ k[:, part].T / math.sqrt(width)
        out.append(torch.softmax(logits, dim=1) @ v[:, part])
    return torch.cat(out, dim=1)


def growth(mask, positions):
    """g of a mask [H, W] at a layer, [positions]."""
    height, width = mask.shape
    s = 2 ** math.ceil(math.log2(height * width / positions) / 2)
    h, w = math.ceil(height / s), math.ceil(width / s)
    assert h * w == positions
    small = [[float(mask[i * height // h, j * width // w]) for j in range(w)] for i in range(h)]
    g = []
    for i in range(h):
        for j in range(w):
            total = sum(
                small[a][b] for a in range(max(0, i - 1), min(h, i + 2)) for b in range(max(0, j - 1), min(w, j + 2))
            )
            g.append(min(1.0, max(0.0, total)))
    return torch.tensor(g)


def run_blocks(unet, sample, time, text, self_attention, cross_attention, pose=None):
    """The UNet with every transformer block computed here; the attentions are functions (layer, block, normed) -> output."""
    numbers = {id(block): number for number, block in enumerate(blocks_of(unet))}
    saved = []

    def forward(block):
        number = numbers[id(block)]

        def run(hidden, *_, **__):
            normed = block.norm1(hidden)
            hidden = hidden + block.attn1.to_out[0](self_attention(number, block.attn1, normed))
            normed = block.norm2(hidden)
            hidden = hidden + block.attn2.to_out[0](cross_attention(number, block.attn2, normed))
            return hidden + block.ff(block.norm3(hidden))

        return run

    for block in blocks_of(unet):
        saved.append((block, block.forward))
        block.forward = forward(block)
    before = unet.conv_in.forward
    if pose is not None:
        unet.conv_in.forward = lambda x: before(x) + pose
    try:
        with torch.no_grad():
            return unet(sample, time, encoder_hidden_states=text).sample
    finally:
        for block, plain in saved:
            block.forward = plain
        unet.conv_in.forward = before


def bank(encoder, parts):
    """For each layer the features [N, L, C] of (latent, label embedding) pairs."""
    rows = []
    for latent, label in parts:
        kept = {}

        def self_attention(number, attn, normed, kept=kept):
            kept[number] = normed[0]
            q, k, v = attn.to_q(normed[0]), attn.to_k(normed[0]), attn.to_v(normed[0])
            return softmax_attention(q, k, v, attn.heads)[None]

        def cross_attention(number, attn, normed, label=label):
            q, k, v = attn.to_q(normed[0]), attn.to_k(label[0]), attn.to_v(label[0])
            return softmax_attention(q, k, v, attn.heads)[None]

        run_blocks(encoder, latent, 0, label, self_attention, cross_attention)
        rows.append(kept)
    return [torch.stack([row[number] for row in rows]) for number in range(len(BLOCKS))]


def pose_features(tensors, pose):
    """The pose net from its tensors' names."""
    x = F.silu(F.conv2d(pose, tensors["conv_in.weight"], tensors["conv_in.bias"], padding=1))
    for i in range(6):
        weight, bias = tensors[f"blocks.{i}.weight"], tensors[f"blocks.{i}.bias"]
        x = F.silu(F.conv2d(x, weight, bias, padding=1, stride=2 if i in (1, 3, 5) else 1))
    return F.conv2d(x, tensors["conv_out.weight"], tensors["conv_out.bias"], padding=1)


def self_attention_layer(attn, normed, features, masks):
    """One sample's shared self-attention [L, C], before to_out: normed [L, C], features [N, L, C], masks [H, W] or None each."""
    every = [normed]
    for own, mask in zip(features, masks, strict=True):
        every.append(own if mask is None else own * growth(mask, len(own))[:, None])
    keys = torch.cat(every)
    return softmax_attention(attn.to_q(normed), attn.to_k(keys), attn.to_v(keys), attn.heads)


def cross_attention_layer(attn, normed, text, images, key_weight, value_weight, scale):
    """One sample's decoupled cross-attention [L, C], before to_out: text [77, C], images [n, E] of n <= 6 parts."""
    rows = torch.zeros(6, images.shape[1])
    rows[: len(images)] = images
    q = attn.to_q(normed)
    words = softmax_attention(q, attn.to_k(text), attn.to_v(text), attn.heads)
    return words + scale * softmax_attention(q, rows @ key_weight.T, rows @ value_weight.T, attn.heads)


def predict(unet, encoder, decoupled, sample, time, text, parts, pose=None, scale=1.0):
    """The noise of [unconditional; conditional] samples (two rows).

    Args:
        decoupled: tensors of decoupled_attn.pth.
        parts: dicts of latent, label, image, mask ([H, W] or None).
        pose: features, for both rows.
    """
    features = bank(encoder, [(part["latent"], part["label"]) for part in parts])
    masks = [part["mask"] for part in parts]
    images = torch.cat([part["image"] for part in parts])

    def self_attention(number, attn, normed):
        plain = softmax_attention(attn.to_q(normed[0]), attn.to_k(normed[0]), attn.to_v(normed[0]), attn.heads)
        return torch.stack([plain, self_attention_layer(attn, normed[1], features[number], masks)])

    def cross_attention(number, attn, normed):
        name, i, j = BLOCKS[number]
        layer = f"{name}.{'' if i is None else f'{i}.'}attentions.{j}.transformer_blocks.0.attn2.processor"
        weights = decoupled[f"{layer}.to_k_dc.weight"], decoupled[f"{layer}.to_v_dc.weight"]
        nothing = torch.zeros(0, images.shape[1])
        return torch.stack(
            [
                cross_attention_layer(attn, normed[row], text[row], shown, *weights, scale)
                for row, shown in ((0, nothing), (1, images))
            ]
        )

    return run_blocks(unet, sample, time, text, self_attention, cross_attention, pose)
