"""What other packs put at a cross-attention layer, in the ways that they do."""

from comfy.ldm.modules.attention import optimized_attention


class Chaining:
    """An attn2 replace that adds something and asks whatever stood there before."""

    def __init__(self, previous=None):
        self.previous = previous

    def __call__(self, q, k, v, extra_options):
        before = self.previous or (lambda q, k, v, o: optimized_attention(q, k, v, o["n_heads"]))
        return before(q, k, v, extra_options) + 0.5 * q


def with_chain(model, keys):
    chained = model.clone()
    present = chained.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    for key in keys:
        chained.set_model_attn2_replace(Chaining(present.get(key)), *key)
    return chained


class Attn2Replace:
    """The protocol of ComfyUI_IPAdapter_plus: terms join by ``add``, and the sum goes to the text's attention."""

    def __init__(self, function, **options):
        self.terms = [(function, options)]

    def add(self, function, **options):
        self.terms.append((function, options))

    def __call__(self, q, k, v, extra_options):
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        for function, options in self.terms:
            out = out + function(out, q, k, v, extra_options, **options)
        return out


def ip_term(out, q, k, v, extra_options, sigma_start=None, sigma_end=None, size=0.0):
    return size * q


def with_ip_adapter(model, keys, size=0.5, term=ip_term):
    joined = model.clone()
    options = {"sigma_start": 1e9, "sigma_end": 0.0, "size": size}
    for key in keys:
        attn2 = joined.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn2", {})
        if key in attn2:
            attn2[key].add(term, **options)
        else:
            joined.set_model_attn2_replace(Attn2Replace(term, **options), *key)
    return joined
