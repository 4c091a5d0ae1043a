"""Any number of people on diffusers' UNet, written from the formula alone: what both hosts are compared with.

    h = Attn(Q, K_text, V_text) + s * sum over persons p of  s_p * M_p * Attn(Q, f_p K_p, f_p V_p)

The face tokens f_p come from the adapter; nothing else of the pack takes part. M_p is a mask of the picture, averaged over the
pixels of each position of the layer.
"""

import contextlib
import math

import torch


def adapter_for(plain, persons, seed=0, **options):
    """An adapter like `plain` with K/V of their own for so many persons, or with persons=None one for everybody and no subject path,
    as IP-Adapter files are."""
    random = torch.Generator().manual_seed(seed)
    suffixes = [""] if persons is None else [str(n + 1) for n in range(persons)]
    tensors = {}
    for name, tensor in plain.state_dict().items():
        part, _, rest = name.partition(".")
        if part != "attention":
            if persons is not None or part == "face_projection":
                tensors[name] = tensor.clone()
        elif rest.endswith("ip1.weight"):
            for suffix in suffixes:
                values = torch.randn(tensor.shape, generator=random) * tensor.float().std()
                tensors[name.replace("ip1.", f"ip{suffix}.")] = values
    return type(plain).from_tensors(tensors, plain.info.metadata, **options)


def heads_of(tensor, heads):
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def read(query, keys, values, heads):
    """Attention as the textbook has it, [B, Q, C]."""
    q, k, v = (heads_of(tensor, heads) for tensor in (query, keys, values))
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class ByFormula:
    """The processor of one cross-attention layer. `people`: (Wk, Wv, tokens [B, T, C], strength, mask [H, W] or None) of each."""

    def __init__(self, people):
        self.people = people

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *_, **__):
        query = attn.to_q(hidden_states)
        out = read(query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attn.heads)
        for keys, values, tokens, strength, mask in self.people:
            face = read(query, tokens @ keys.T, tokens @ values.T, attn.heads)
            out = out + strength * face * (1 if mask is None else positions(mask, query.shape[1])[:, None])
        return attn.to_out[1](attn.to_out[0](out))


def positions(mask, count):
    """The mean of a mask over the pixels of each position of a layer, [count]."""
    side = math.isqrt(mask.numel() // count)
    height, width = mask.shape
    return mask.reshape(height // side, side, width // side, side).mean((1, 3)).flatten()


@contextlib.contextmanager
def people_by_formula(unet, adapter, references, is_cond, strength=1.0, person_strengths=None, masks=None):
    """While this is open the UNet draws these people. `is_cond`: of each row of its batches; `masks`: [H, W] or None of each."""
    conditional = [adapter.face_tokens(reference) for reference in references]
    unconditional = [adapter.unconditional_tokens(reference) for reference in references]
    tensors, processors = adapter.state_dict(), dict(unet.attn_processors)
    before = dict(processors)
    for layer, name in enumerate(name for name in processors if name.endswith("attn2.processor")):
        people = []
        for person in range(len(references)):
            suffix = "" if adapter.info.shared else str(person + 1)
            weights = [tensors[f"attention.{layer}.to_{kind}_ip{suffix}.weight"].float() for kind in "kv"]
            tokens = torch.cat([(conditional if cond else unconditional)[person] for cond in is_cond])
            own = strength * (1.0 if person_strengths is None else person_strengths[person])
            people.append((*weights, tokens.float(), own, None if masks is None else masks[person]))
        processors[name] = ByFormula(people)
    unet.set_attn_processor(processors)
    try:
        with torch.no_grad():
            yield
    finally:
        unet.set_attn_processor(before)
