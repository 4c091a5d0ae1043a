"""Subject-augmented prompts in ComfyUI: CLIP-L on edited embeddings, everything else as ComfyUI does it."""

import comfy.hooks
import dhd_pack.dhumandiff.testing as tiny
import pytest
import torch
from comfy_extras.nodes_hooks import SetClipHooks
from dhd_pack.dhumandiff.prompts import describe_tokens, parse_prompt
from dhd_pack.nodes.comfy.encoders import encode_subject_prompt, token_words
from support import tiny_comfy
from support.refused import refused

SENTENCE = "A man@1 and a woman@2 on a bench in a garden. The man@1 wears a black tuxedo, the woman@2 a white dress"


@pytest.fixture(scope="module")
def clip():
    return tiny_comfy.clip()


def stock(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def encode(clip, adapter, people, text, **options):
    return encode_subject_prompt(clip, adapter, people, parse_prompt(text, len(people), **options))


def edited_clip_l(people, ids, positions):
    """CLIP-L by transformers on edited embeddings, last layer after the final norm."""
    encoder, _ = tiny.tiny_text_encoders()
    adapter = tiny.tiny_adapter()
    table = encoder.get_input_embeddings()
    edits = {
        at: adapter.subject_token(table.weight[ids[at]][None], people[person])[0] for at, person in positions.items()
    }

    def edit(_, __, out):
        out = out.clone()
        for at, embedding in edits.items():
            out[0, at] = embedding
        return out

    hook = table.register_forward_hook(edit)
    try:
        with torch.no_grad():
            return encoder(torch.tensor([ids])).last_hidden_state
    finally:
        hook.remove()


def test_mapped_words_are_clip_l_s_last_layer(clip, adapter, people):
    ((mapped, options),), bound = encode(clip, adapter, people, SENTENCE)
    ((plain, plain_options),) = stock(clip, SENTENCE.replace("@1", "").replace("@2", ""))
    assert [(token.person, token.index) for token in bound] == [(1, 1), (2, 4)]
    tokens = clip.tokenize(SENTENCE.replace("@1", "").replace("@2", ""))
    ids = [entry[0] for entry in tokens["l"][0]]
    expected = edited_clip_l(people, ids, {2: 0, 5: 1})  # as in docs/method.md: man is index 2, woman index 5
    assert (mapped[..., :64] - expected).abs().max() < 1e-5
    assert torch.equal(mapped[..., 64:], plain[..., 64:])
    assert torch.equal(options["pooled_output"], plain_options["pooled_output"])


def test_a_prompt_without_subjects_is_the_stock_encoding(clip, adapter, people):
    for text in ("a garden at night", "a (garden:1.3) at night, " * 20):
        ((mapped, options),), bound = encode(clip, adapter, people, text)
        ((plain, plain_options),) = stock(clip, text)
        assert bound == ()
        assert torch.equal(mapped, plain)
        assert torch.equal(options["pooled_output"], plain_options["pooled_output"])


def test_the_clip_that_was_given_stays_as_it_was(clip, adapter, people):
    before = stock(clip, "a man and a woman")[0][0]
    encode(clip, adapter, people, "a man@1 and a woman@2")
    assert torch.equal(stock(clip, "a man and a woman")[0][0], before)


def test_all_mentions_are_mapped_on_request(clip, adapter, people):
    _, bound = encode(clip, adapter, people, SENTENCE, mentions="all")
    assert [token.person for token in bound] == [1, 2, 1, 2]


def test_words_in_the_second_chunk_are_mapped_there(clip, adapter, people):
    text = "roses and lilies, " * 25 + "a man@1 and a woman@2"
    ((mapped, _),), bound = encode(clip, adapter, people, text)
    plain = stock(clip, text.replace("@1", "").replace("@2", ""))[0][0]
    assert mapped.shape == plain.shape == (1, 154, 192)
    assert all(token.index >= 75 for token in bound)
    last = edited_clip_l(people, [e[0] for e in clip.tokenize(text.replace("@1", "").replace("@2", ""))["l"][0]], {})
    assert (mapped[:, :77, :64] - last).abs().max() < 1e-5  # the first chunk holds no person


def test_weights_and_line_breaks_keep_the_word(clip, adapter, people):
    ((weighted, _),), bound = encode(clip, adapter, people, "A (man@1:1.5) and\n\na (woman@2)")
    assert [token.word for token in bound] == ["man", "woman"]
    plain = encode(clip, adapter, people, "A man@1 and\n\na woman@2")[0][0][0]
    assert not torch.allclose(weighted[0, 2], plain[0, 2])
    assert torch.allclose(weighted[0, 1], plain[0, 1], atol=1e-5)


def test_a_word_of_several_tokens_maps_each_of_them(clip, adapter, people):
    _, bound = encode(clip, adapter, people, "a bridegroomish@1 and a woman@2")
    assert sum(token.person == 1 for token in bound) > 1


def test_an_embedding_can_be_a_person(tmp_path, adapter, people):
    import safetensors.torch

    folder = tmp_path / "embeddings"
    folder.mkdir()
    vectors = {"clip_l": torch.randn(2, 64), "clip_g": torch.randn(2, 128)}
    safetensors.torch.save_file(vectors, folder / "anna.safetensors")
    clip = tiny_comfy.clip(str(folder))
    for encoder, width in (("clip_l", 64), ("clip_g", 128)):
        getattr(clip.tokenizer, encoder).embedding_size = width
    prompt = parse_prompt("a portrait of embedding:anna@1 and a man@2", 2)
    conditioning, bound = encode_subject_prompt(clip, adapter, people, prompt)
    assert [token.person for token in bound] == [1, 1, 2]
    assert torch.isfinite(conditioning[0][0]).all()
    assert "embedding" in describe_tokens(prompt, bound, token_words(clip, prompt.text))


def test_the_bound_words_are_told_with_their_tokens(clip, adapter, people):
    prompt = parse_prompt(SENTENCE, 2)
    _, bound = encode_subject_prompt(clip, adapter, people, prompt)
    text = describe_tokens(prompt, bound, token_words(clip, prompt.text))
    assert "Person 1" in text
    assert "2 'man'" in text or "token 2" in text


def test_the_next_prompt_asks_the_tokenizer_little(clip, adapter, people, monkeypatch):
    asked = []
    tokenize = clip.tokenize
    encode(clip, adapter, people, SENTENCE)
    monkeypatch.setattr(clip, "tokenize", lambda *args, **kwargs: asked.append(args) or tokenize(*args, **kwargs))
    encode(clip, adapter, people, SENTENCE)
    assert len(asked) == 2  # the prompt, and the same with everybody's word between sentinels


def test_a_thousand_mentions_cost_two_askings_as_well(clip, adapter, people, monkeypatch):
    asked = []
    tokenize = clip.tokenize
    monkeypatch.setattr(clip, "tokenize", lambda *args, **kwargs: asked.append(args) or tokenize(*args, **kwargs))
    prompt = parse_prompt("a man@1 and a woman@2, " * 700, 2, "all")
    _, bound = encode_subject_prompt(clip, adapter, people, prompt)
    assert len(bound) == 1400
    assert len(asked) <= 3  # the text, a sentinel where it is new, the text with all sentinels


def test_each_part_of_a_schedule_maps_the_words_that_it_has(clip, adapter, people):
    """A LoRA on the token table that counts from the middle of sampling on (Create Hook LoRA, Hook Keyframes, Set CLIP Hooks)."""
    name = "clip_l.transformer.text_model.embeddings.token_embedding.weight"
    change = 0.1 * torch.randn(clip.patcher.model.state_dict()[name].shape, generator=torch.Generator().manual_seed(4))
    text = "A man@1 and a woman@2 on a bench"

    def hooked(*keyframes, schedule):
        group = comfy.hooks.HookKeyframeGroup()
        for start, strength in keyframes:
            group.add(comfy.hooks.HookKeyframe(strength, start))
        hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
        hooks.hooks[0].weights_clip = {name: ("diff", (change,))}
        hooks.hooks[0].need_weight_init = False
        hooks.set_keyframes_on_hooks(group)
        return SetClipHooks().apply_hooks(clip, schedule, False, hooks)[0]

    with_lora = tiny_comfy.clip()
    assert with_lora.add_patches({name: ("diff", (change,))}, 1.0)
    wanted = [encode(made, adapter, people, text)[0][0][0] for made in (clip, with_lora)]
    assert (wanted[0] - wanted[1]).abs().max() > 0.1
    parts = encode(hooked((0.0, 0.0), (0.5, 1.0), schedule=True), adapter, people, text)[0]
    assert [options["clip_start_percent"] for _, options in parts] == [0.0, 0.5]
    for (made, _), expected in zip(parts, wanted, strict=True):
        assert torch.allclose(made, expected, atol=1e-5)
    ((always, _),) = encode(hooked((0.0, 1.0), schedule=False), adapter, people, text)[0]
    assert torch.allclose(always, wanted[1], atol=1e-5)
    assert torch.allclose(encode(clip, adapter, people, text)[0][0][0], wanted[0], atol=1e-5)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_clip_without_two_encoders_is_refused(adapter, people):
    class SD1:
        cond_stage_model = torch.nn.Module()

    with refused("clip-of-another-base", "SDXL's two text encoders"):
        encode_subject_prompt(SD1(), adapter, people, parse_prompt("a man@1 and a woman@2", 2))


def test_a_clip_of_another_width_is_refused(clip, people):
    import comfy.ops
    from dhd_pack.dhumandiff.methods.paired.adapter import Adapter
    from support import layouts

    plain = layouts.small_adapter(text_width=32)
    wide = Adapter.from_tensors(plain.state_dict(), plain.info.metadata, operations=comfy.ops.manual_cast)
    with refused("clip-of-another-width", "64 wide, the adapter was trained with 32"):
        encode_subject_prompt(clip, tiny_comfy.adapter_patcher(adapter=wide), people, parse_prompt("a man@1", 2))


def test_an_adapter_without_a_subject_branch_says_so(clip, people, tmp_path):
    import comfy.ops
    from dhd_pack.dhumandiff.methods.paired.adapter import Adapter
    from support import layouts

    path = layouts.ip_adapter_file(tmp_path / "plus.safetensors", clip_width=64, context_width=192) or (
        tmp_path / "plus.safetensors"
    )
    adapter = Adapter.from_pretrained(path, operations=comfy.ops.manual_cast)
    with refused("no-subject-path"):
        encode_subject_prompt(clip, tiny_comfy.adapter_patcher(adapter=adapter), people, parse_prompt("a man@1", 2))


def test_a_clip_with_more_encoders_is_refused(clip, adapter, people):
    class SD3:
        cond_stage_model = torch.nn.Module()

    SD3.cond_stage_model.clip_l = SD3.cond_stage_model.clip_g = clip.cond_stage_model.clip_l
    SD3.cond_stage_model.t5xxl = torch.nn.Linear(1, 1)
    with refused("clip-of-another-base", "SDXL's two text encoders"):
        encode_subject_prompt(SD3(), adapter, people, parse_prompt("a man@1 and a woman@2", 2))
