"""Prompts in diffusers: the stock encoding, ComfyUI's weights and chunks, and words mapped to faces."""

import json
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from support import comfyui
from support.layouts import random_reference, small_adapter
from support.refused import refused

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff import testing as tiny
from dhumandiff.hosts.diffusers.loading import load_pipeline
from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhumandiff.hosts.diffusers.text import bound_words, encode_prompt
from dhumandiff.prompts import Prompt, parse_prompt, split_weights

START, END = 49406, 49407

LONG = (
    "A man@1 and a woman@2 stand on the stone steps of an old library in the late afternoon, he in a dark green suit "
    "with a narrow tie, she in a long cream dress with lace sleeves and a small bouquet of white roses in her hands; "
    "behind them a tall wooden door, ivy on both sides, and warm light that falls from the left across the wall. The "
    "groom@1 looks at the bride@2 and smiles, while she laughs towards the camera, her hair moving a little in the wind, "
    "and a few petals lie on the ground in front of their shoes, sharp focus, shallow depth of field, film grain"
)

PROMPTS = [
    "a man@1 and a woman@2 on a bench",
    "a (man@1:1.3) and a ((woman@2)) (on a bench:0.6)",
    LONG,
    LONG.replace("stone steps", "(stone steps:1.4)").replace("sharp focus", "(sharp focus:0.8)"),
    # 70 tokens, then a short group that moves to the next chunk as a whole, then a long one that is split
    "flower " * 70 + "(a man@1 and a dog:1.2)" + " (and a woman@2 in a long white dress, a hat, and gloves:0.9)",
    "flower " * 75 + "man@1, woman@2",
    "",
    "naïve café, 東京, line\nbreak \\(brackets\\) 12:34 it's",
]


def plain(marked):
    return parse_prompt(marked) if "@" in marked else Prompt(marked, ())


@pytest.fixture(scope="module")
def parts():
    return (sdxl_tokenizer(), sdxl_tokenizer(second=True)), tiny.tiny_text_encoders()


@pytest.fixture(scope="module")
def adapter():
    return tiny.tiny_adapter()


@pytest.fixture(scope="module")
def references(adapter):
    return [random_reference(adapter.info, seed=seed, clip_tokens=50) for seed in (1, 2)]


def clip_l(encoder, embeddings, last):
    """CLIP-L from token embeddings [T, 64], written from its description: causal, pre-norm, one head, quick GELU."""
    weights = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = embeddings + weights["embeddings.position_embedding.weight"][: len(embeddings)]
    future = torch.full((len(x), len(x)), -math.inf).triu(1)
    for i in range(3 if last else 2):
        layer = f"encoder.layers.{i}"
        normed = norm(x, f"{layer}.layer_norm1")
        q, k, v = (linear(normed, f"{layer}.self_attn.{part}_proj") for part in "qkv")
        attended = ((q @ k.T) / math.sqrt(64) + future).softmax(dim=-1) @ v
        x = x + linear(attended, f"{layer}.self_attn.out_proj")
        between = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        x = x + linear(between * torch.sigmoid(1.702 * between), f"{layer}.mlp.fc2")
    return norm(x, "final_layer_norm") if last else x


def one_chunk(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([START, *ids, *[END] * (76 - len(ids))])


def words_of(encoders, ids):
    """CLIP-L's token embeddings [T, 64], a copy."""
    return encoders[0].get_input_embeddings().weight[ids].clone()


def flat_ids(tokenizer, text):
    return [i for segment, _ in split_weights(text) for i in tokenizer(segment, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("text", ["a man and a woman on a bench", "", "portrait, 85mm, it's evening"])
def test_a_prompt_without_mentions_is_exactly_the_stock_encoding(parts, text, adapter, references):
    pipeline = load_pipeline("tiny", torch.float32)
    expected, _, pooled_expected, _ = pipeline.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
    for given in (text, Prompt(text, ())):
        embeds, pooled, bound = encode_prompt(*parts, given, adapter, references)
        assert torch.equal(embeds, expected)
        assert torch.equal(pooled, pooled_expected)
        assert bound == ()


def test_without_an_adapter_marked_words_stay_ordinary_words(parts):
    assert torch.equal(
        encode_prompt(*parts, parse_prompt("a man@1 and a woman@2"))[0], encode_prompt(*parts, "a man and a woman")[0]
    )


def test_mapped_words_are_clip_l_on_edited_embeddings(parts, adapter, references):
    """The rest is untouched."""
    tokenizers, encoders = parts
    prompt = parse_prompt("A man@1 and a woman@2 on a bench")
    embeds, pooled, bound = encode_prompt(*parts, prompt, adapter, references)
    assert [(token.person, token.index) for token in bound] == [(1, 1), (2, 4)]

    ids = one_chunk(tokenizers[0], prompt.text)
    edited = words_of(encoders, ids)
    for person, position in ((1, 2), (2, 5)):  # counted with the start token, as in docs/method.md
        edited[position] = adapter.subject_token(edited[position][None], references[person - 1])[0]
    assert torch.allclose(embeds[0, :, :64], clip_l(encoders[0], edited, last=True), atol=1e-5)

    stock, stock_pooled, _ = encode_prompt(*parts, prompt.text)
    assert torch.allclose(stock[0, :, :64], clip_l(encoders[0], words_of(encoders, ids), last=False), atol=1e-5)
    assert torch.equal(embeds[..., 64:], stock[..., 64:])
    assert torch.equal(pooled, stock_pooled)


def test_every_token_of_a_word_is_mapped_by_itself(parts, adapter, references):
    tokenizers, encoders = parts
    prompt = parse_prompt("the bridesmaidish@1 waves to a man@2")
    count = len(tokenizers[0]("bridesmaidish", add_special_tokens=False)["input_ids"])
    assert count > 1
    embeds, _, bound = encode_prompt(*parts, prompt, adapter, references)
    assert [token.index for token in bound if token.person == 1] == list(range(1, 1 + count))
    edited = words_of(encoders, one_chunk(tokenizers[0], prompt.text))
    for token in bound:
        word = edited[token.index + 1][None]
        edited[token.index + 1] = adapter.subject_token(word, references[token.person - 1])[0]
    assert torch.allclose(embeds[0, :, :64], clip_l(encoders[0], edited, last=True), atol=1e-5)


def test_a_word_in_the_second_chunk_is_mapped_there(parts, adapter, references):
    text = "flower, " * 40 + "a man@1"
    embeds, _, bound = encode_prompt(*parts, parse_prompt(text, persons=1), adapter, references[:1])
    mentioned = bound[0].index
    assert mentioned == 81
    ids = parts[0][0](text.replace("@1", ""), add_special_tokens=False)["input_ids"][75:]
    ids = torch.tensor([START, *ids, *[END] * (76 - len(ids))])
    edited = words_of(parts[1], ids)
    edited[7] = adapter.subject_token(edited[7][None], references[0])[0]
    assert embeds.shape == (1, 154, 192)
    assert torch.allclose(embeds[0, 77:, :64], clip_l(parts[1][0], edited, last=True), atol=1e-5)


def test_all_mentions_are_mapped_on_request(parts, adapter, references):
    marked = "a man@1 and a woman@2, the groom@1 smiles"
    first = encode_prompt(*parts, parse_prompt(marked), adapter, references)
    every = encode_prompt(*parts, parse_prompt(marked, mentions="all"), adapter, references)
    assert [token.word for token in first[2]] == ["man", "woman"]
    assert [token.word for token in every[2]] == ["man", "woman", "groom"]
    assert not torch.allclose(first[0], every[0])


def test_people_change_places_with_their_references(parts, adapter, references):
    prompt = parse_prompt("a man@1 and a woman@2")
    swapped = encode_prompt(*parts, parse_prompt("a man@2 and a woman@1"), adapter, references[::-1])
    assert torch.allclose(encode_prompt(*parts, prompt, adapter, references)[0], swapped[0], atol=1e-6)


def test_a_weight_scales_away_from_the_empty_prompt(parts):
    """Hidden states, as ComfyUI does."""
    embeds = encode_prompt(*parts, "a (man:1.5) on a bench")[0]
    stock, empty = encode_prompt(*parts, "a man on a bench")[0], encode_prompt(*parts, "")[0]
    expected = stock.clone()
    expected[:, 2] = (stock[:, 2] - empty[:, 2]) * 1.5 + empty[:, 2]
    assert torch.allclose(embeds, expected, atol=1e-6)
    untouched = [i for i in range(77) if i != 2]
    assert torch.allclose(embeds[:, untouched], stock[:, untouched], atol=1e-6)


def lengths(parts, text):
    """Where each chunk's text ends, read from the first encoder's input."""
    seen = []
    hook = parts[1][0].get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        embeds = encode_prompt(*parts, text)[0]
    finally:
        hook.remove()
    assert len(seen) == 1
    assert embeds.shape[1] % 77 == 0
    return [row.tolist().index(END) - 1 for row in seen[0][: embeds.shape[1] // 77]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flower " * 75, [75]),
        ("flower " * 76, [75, 1]),
        ("flower " * 160, [75, 75, 10]),
        ("flower " * 70 + "(" + "dog " * 7 + ":1.2)", [70, 7]),  # below 8 tokens: moved as a whole
        ("flower " * 70 + "(" + "dog " * 8 + ":1.2)", [75, 3]),  # from 8 on: split
        ("flower " * 75 + "(" + "dog " * 8 + ":1.2)", [75, 8]),
    ],
)
def test_groups_are_laid_into_chunks_as_comfyui_lays_them(parts, text, expected):
    assert lengths(parts, text) == expected


def test_the_pooled_embedding_is_the_first_chunk_s(parts):
    first = "flower " * 75
    assert torch.allclose(encode_prompt(*parts, first + "dog cat")[1], encode_prompt(*parts, first)[1], atol=1e-6)


def test_bound_words_are_told_with_their_tokens(parts):
    told = bound_words(parts[0][0], parse_prompt("a (man@1:1.2) and a woman@2"))
    assert "Person 1: a ([man]:1.2) and a woman, token 2 'man'" in told
    assert "token 5 'woman'" in told


def test_half_precision_encoders_stay_near_float32(parts, adapter, references):
    prompt = parse_prompt("a man@1 and a (woman@2:1.2) on a bench")
    exact = encode_prompt(*parts, prompt, adapter, references)[0]
    halved = tuple(encoder.to(torch.bfloat16) for encoder in tiny.tiny_text_encoders())
    near = encode_prompt(parts[0], halved, prompt, adapter, references)[0]
    assert near.dtype == torch.float32
    assert (near - exact).abs().mean() < 0.03 * exact.abs().mean()  # bfloat16 keeps 8 bits: 0.4 % a rounding


def test_no_hook_stays_behind_even_after_an_error(parts, adapter, references):
    embedding = parts[1][0].get_input_embeddings()
    prompt = parse_prompt("a man@1 and a woman@2")
    encode_prompt(*parts, prompt, adapter, references)
    assert not embedding._forward_hooks
    nobody = random_reference(adapter.info, clip_tokens=50)
    object.__setattr__(nobody, "identity", None)
    object.__setattr__(nobody, "identity_swapped", None)
    with refused("no-identity"):
        encode_prompt(*parts, prompt, adapter, [references[0], nobody])
    assert not embedding._forward_hooks


def test_mapping_needs_an_adapter_with_a_subject_path(parts, references):
    ip_adapter = small_adapter(names=("",), context_width=192, clip_width=64)
    with refused("no-subject-path"):
        encode_prompt(*parts, parse_prompt("a man@1 and a woman@2"), ip_adapter, references)
    encode_prompt(*parts, "a man and a woman", ip_adapter, references)


def test_text_encoders_of_another_width_are_refused(parts, references):
    wide = small_adapter(text_width=768, token_width=64)
    with refused("text-encoder-of-another-width", "64", "768"):
        encode_prompt(*parts, parse_prompt("a man@1 and a woman@2"), wide, references)


def test_a_base_without_its_first_text_encoder_is_refused(parts):
    tokenizers, encoders = parts
    with refused("text-encoder-missing"):
        encode_prompt((None, tokenizers[1]), (None, encoders[1]), "a man")
    with refused("text-encoders-in-wrong-order"):
        encode_prompt(tokenizers, encoders[::-1], "a man")


def test_a_person_without_a_reference_is_refused(parts, adapter, references):
    with refused("person-without-reference", "'woman'", "person 2"):
        encode_prompt(*parts, parse_prompt("a man@1 and a woman@2"), adapter, references[:1])


def test_textual_inversions_are_refused_rather_than_read_as_words(parts):
    for text in ("embedding:style a man", "a man, embedding:style", "a man (embedding:style)"):
        with refused("no-textual-inversion", "'embedding:style'"):
            encode_prompt(*parts, text)


COMFY_SIDE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import torch
from safetensors.torch import load_file, save_file
from comfy.sd1_clip import SDClipModel
from comfy.sdxl_clip import SDXLTokenizer

given, out = load_file(sys.argv[2] + "/given.safetensors"), {}
def tower(name, hidden, heads, act, **more):
    config = dict(hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=heads, hidden_act=act,
                  num_hidden_layers=3, max_position_embeddings=77, vocab_size=49408, eos_token_id=49407,
                  layer_norm_eps=1e-5, projection_dim=hidden)
    model = SDClipModel(textmodel_json_config=config, layer="hidden", layer_idx=-2, layer_norm_hidden_state=False,
                        dtype=torch.float32, **more)
    own = {key.split("/", 1)[1]: value for key, value in given.items() if key.startswith(name + "/")}
    lacking = model.transformer.load_state_dict(own, strict=False).missing_keys
    assert set(lacking) <= {"text_projection.weight"}, lacking
    return model
clip_l = tower("l", 64, 1, "quick_gelu")
clip_g = tower("g", 128, 2, "gelu", special_tokens={"start": 49406, "end": 49407, "pad": 0})
tokenizer = SDXLTokenizer()
for n, (text, edits) in enumerate(json.load(open(sys.argv[2] + "/prompts.json"))):
    tokens = tokenizer.tokenize_with_weights(text, return_word_ids=True)
    flat = [(c, i) for c, chunk in enumerate(tokens["l"]) for i, entry in enumerate(chunk) if entry[2] != 0]
    tokens = {name: [[entry[:2] for entry in chunk] for chunk in chunks] for name, chunks in tokens.items()}
    for index, key in edits:
        c, i = flat[index]
        tokens["l"][c][i] = (given[key], tokens["l"][c][i][1])
    clip_l.set_clip_options({"layer": None if edits else -2})
    with torch.no_grad():
        l, _ = clip_l.encode_token_weights(tokens["l"])
        g, pooled = clip_g.encode_token_weights(tokens["g"])
    clip_l.reset_clip_options()
    out[f"{n}/embeds"], out[f"{n}/pooled"] = torch.cat([l, g], dim=-1), pooled
save_file({name: tensor.contiguous() for name, tensor in out.items()}, sys.argv[2] + "/out.safetensors")
"""


@pytest.mark.host
@pytest.mark.skipif(comfyui.why_not() is not None, reason=str(comfyui.why_not()))
def test_every_prompt_is_encoded_as_comfyui_encodes_it(parts, adapter, references, tmp_path):
    from safetensors.torch import load_file, save_file

    given, cases, ours = {}, [], []
    for name, encoder in zip("lg", parts[1], strict=True):
        for key, tensor in encoder.state_dict().items():
            inside = key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"
            given[f"{name}/{inside}"] = tensor.contiguous()
    table = parts[1][0].get_input_embeddings().weight
    for marked in PROMPTS:
        prompt = plain(marked)
        for mapped in (False, True):
            embeds, pooled, bound = encode_prompt(*parts, prompt, adapter if mapped else None, references)
            ours.append((embeds, pooled))
            edits = []
            ids = flat_ids(parts[0][0], prompt.text)
            for token in bound:
                key = f"edit/{len(given)}"
                word = table[ids[token.index]][None]
                given[key] = adapter.subject_token(word, references[token.person - 1])[0].clone()
                edits.append((token.index, key))
            cases.append((prompt.text, edits))
    save_file(given, tmp_path / "given.safetensors")
    (tmp_path / "prompts.json").write_text(json.dumps(cases), encoding="utf-8")
    command = [sys.executable, "-c", COMFY_SIDE, str(comfyui.COMFYUI), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(tmp_path / "out.safetensors")
    for n, (embeds, pooled) in enumerate(ours):
        assert embeds.shape == theirs[f"{n}/embeds"].shape, cases[n]
        assert (embeds - theirs[f"{n}/embeds"]).abs().max() < 1e-4, cases[n]
        assert (pooled - theirs[f"{n}/pooled"]).abs().max() < 1e-4, cases[n]
