"""The dual pathway once more, from the description of the method alone: no class or function of the project's method is used.

    H = W_o [ M (A_t + s_v A_v) + (1 - M) (A_t + s_t A_c) ]

Plain loops over samples, heads and people, in double precision. Of the project come only the people's face tokens and the tensors of
the weights, by their names in files. UNets are diffusers' own.
"""

import contextlib
import math

import torch


def attention(query, keys, values):
    """[Q, d], [T, d], [T, d] -> [Q, d] of one head."""
    return torch.softmax(query @ keys.T / math.sqrt(query.shape[1]), dim=1) @ values


def ramps(mask, radius):
    """A mask [H, W] of which each place is the mean of what lies around it in the picture."""
    height, width = mask.shape
    out = torch.empty_like(mask)
    for i in range(height):
        for j in range(width):
            out[i, j] = mask[max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1].mean()
    return out


def at_layer(mask, positions):
    """The mean of a mask over the places that each position of a layer covers, [positions]; sides are whole multiples."""
    step = math.isqrt(mask.numel() // positions)
    rows = [
        mask[i : i + step, j : j + step].mean()
        for i in range(0, len(mask), step)
        for j in range(0, mask.shape[1], step)
    ]
    return torch.stack(rows)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


class Layer:
    """The processor of cross-attention layer `number`.

    tensors: of all weights, double. tokens: of each sample those of its people, [P, T, C]. regions: of each person [H, W]; None: the
    router says. routing: what it compares with, [P + 1, W].
    """

    def __init__(self, number, tensors, tokens, regions, routing, strengths, own, hard):
        self.number, self.tensors, self.tokens, self.regions = number, tensors, tokens, regions
        self.routing, self.strengths, self.own, self.hard = routing, strengths, own, hard

    def weight(self, name):
        return self.tensors.get(name.format(self.number))

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *_, **__):
        rows = []
        for sample, hidden in enumerate(hidden_states.double()):
            rows.append(self.sample(attn, hidden, encoder_hidden_states[sample].double(), self.tokens[sample]))
        return attn.to_out[0](torch.stack(rows).to(hidden_states))

    def sample(self, attn, hidden, text, tokens):
        query = hidden @ attn.to_q.weight.double().T
        of_text = text @ attn.to_k.weight.double().T, text @ attn.to_v.weight.double().T
        identity = [
            [face @ self.weight(f"identity.attention.{{}}.to_{kind}_ip{person}.weight").T for kind in "kv"]
            for person, face in enumerate(tokens, 1)
        ]
        words = (
            identity
            if self.weight("tca.layers.{}.to_k.up.weight") is None
            else [self.low_rank(face) for face in tokens]
        )
        places = self.places(query)
        gates = self.weight("gates.layers.{}")
        width = query.shape[1] // attn.heads
        out = []
        for head in range(attn.heads):
            part = slice(head * width, (head + 1) * width)

            def read(keys, values, part=part):
                return attention(query[:, part], keys[:, part], values[:, part])

            a_t = read(*of_text)
            factor = 1.0 if gates is None else 2 * sigmoid(float(gates[head * len(gates) // attn.heads]))
            result = torch.empty_like(a_t)
            a_v = [own * read(*pair) for own, pair in zip(self.own, identity, strict=True)]
            a_c = sum(own * read(*pair) for own, pair in zip(self.own, words, strict=True))
            for q in range(len(query)):
                inside = min(1.0, float(sum(place[q] for place in places)))
                seen = torch.zeros_like(a_t[q])
                if inside > 0:
                    seen = sum(place[q] / inside * of_person[q] for place, of_person in zip(places, a_v, strict=True))
                mask = min(1.0, inside * factor)
                h_v = a_t[q] + self.strengths[0] * seen
                h_t = a_t[q] + self.strengths[1] * a_c[q]
                result[q] = mask * h_v + (1 - mask) * h_t
            out.append(result)
        return torch.cat(out, dim=1)

    def low_rank(self, face):
        return [
            face
            @ self.weight(f"tca.layers.{{}}.to_{kind}.down.weight").T
            @ self.weight(f"tca.layers.{{}}.to_{kind}.up.weight").T
            for kind in "kv"
        ]

    def places(self, query):
        """How much of each position is each person's."""
        given = None if self.regions is None else [at_layer(region, len(query)) for region in self.regions]
        if self.routing is None:
            return given
        keys, queries = self.routing, query
        for side in ("in", "out"):
            keys = keys @ self.weight(f"router.layers.{{}}.key_{side}.weight").T + self.weight(
                f"router.layers.{{}}.key_{side}.bias"
            )
            queries = queries @ self.weight(f"router.layers.{{}}.query_{side}.weight").T
            queries = queries + self.weight(f"router.layers.{{}}.query_{side}.bias")
            if side == "in":
                keys, queries = gelu(keys), gelu(queries)
        logits = queries @ keys.T / math.sqrt(keys.shape[1])
        found = torch.nn.functional.one_hot(logits.argmax(1), len(keys)).double() if self.hard else logits.softmax(1)
        people = list(found.T[:-1])
        return people if given is None else [one * other for one, other in zip(people, given, strict=True)]


def routing_token(tensors, clip_hidden):
    """[T, width] of one picture -> [W]."""
    x = clip_hidden.double()
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    x = x * tensors["router.norm.weight"] + tensors["router.norm.bias"]
    weights = torch.softmax(x @ tensors["router.pool.weight"][0], dim=0)
    return weights @ gelu(x @ tensors["router.proj.weight"].T + tensors["router.proj.bias"])


@contextlib.contextmanager
def dual_by_formula(
    unet,
    dual,
    references,
    is_cond,
    identity_strength,
    text_strength,
    regions=None,
    own=None,
    feather=0,
    route=False,
    hard=False,
):
    """While this is open the UNet draws these people. `is_cond`: of each row; `regions`: [H, W] of each person, at the latent's size;
    `feather`: its radius there."""
    tensors = {name: tensor.double() for name, tensor in dual.state_dict().items()}
    halves = [
        torch.cat([of(reference) for reference in references]).double()
        for of in (dual.identity.unconditional_tokens, dual.identity.face_tokens)
    ]
    tokens = [halves[bool(cond)] for cond in is_cond]
    if regions is not None:
        regions = [ramps(region.double(), feather) for region in regions]
    routing = None
    if route:
        routing = [
            sum(routing_token(tensors, photo) for photo in r.clip_hidden) / len(r.clip_hidden) for r in references
        ]
        routing = torch.stack([*routing, routing_token(tensors, references[0].clip_hidden_zero[0])])
    before = dict(unet.attn_processors)
    processors = dict(before)
    strengths, own = (identity_strength, text_strength), own or [1.0] * len(references)
    for number, name in enumerate(name for name in before if name.endswith("attn2.processor")):
        processors[name] = Layer(number, tensors, tokens, regions, routing, strengths, own, hard)
    unet.set_attn_processor(processors)
    try:
        with torch.no_grad():
            yield
    finally:
        unet.set_attn_processor(before)
