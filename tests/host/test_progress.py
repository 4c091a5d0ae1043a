"""What a person sees while a run goes on: progress, previews and notes, as the page gets them over its websocket."""

import asyncio
import copy
import io
import json
import re
import struct
import uuid

import aiohttp
import pytest
from dhd_pack.nodes.comfy.schema import plain
from PIL import Image
from support.comfyui import REPOSITORY
from support.server import api_form, node_of, on_the_tiny_base, with_guider

PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # ComfyUI's protocol.py
STEPS = 4


@pytest.fixture(scope="module")
def portrait():
    return on_the_tiny_base(api_form(json.loads((REPOSITORY / "workflows" / "dual_portrait.json").read_text())))


def fresh(portrait, seed, **inputs):
    """The workflow, small, with a seed that no other test runs: the server remembers what it made."""
    prompt = copy.deepcopy(portrait)
    prompt[node_of(prompt, "EmptyLatentImage")]["inputs"].update(width=256, height=256)
    prompt[node_of(prompt, "DHDCascadeKSampler")]["inputs"].update(seed=seed, steps=STEPS, **inputs)
    return prompt


def watch(server, prompt, seconds=120):
    """Queue a prompt as the page does and listen until it is over: [(kind, content)] in order of arrival."""

    async def listen():
        me, heard = uuid.uuid4().hex, []
        address = f"{server.url.replace('http', 'ws')}ws?clientId={me}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            answer = await asyncio.to_thread(server.post, "prompt", {"prompt": prompt, "client_id": me})
            assert not answer.get("node_errors"), answer
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    (kind,) = struct.unpack(">I", message.data[:4])
                    heard.append((kind, message.data[4:]))
                    continue
                said = json.loads(message.data)
                heard.append((said["type"], said["data"]))
                if said["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                    assert said["data"]["prompt_id"] == answer["prompt_id"]
                    return heard
        raise AssertionError("the server hung up")

    return asyncio.run(asyncio.wait_for(listen(), seconds))


def preview(kind, content):
    """The picture of a preview message."""
    skip = 4
    if kind == PREVIEW_WITH_METADATA:
        skip += struct.unpack(">I", content[:4])[0]
    return Image.open(io.BytesIO(content[skip:]))


def note(content):
    """(node id, text) of a note on a node."""
    (length,) = struct.unpack(">I", content[:4])
    return content[4 : 4 + length].decode(), content[4 + length :].decode()


def said(heard, node):
    """All texts that were shown on a node, in order."""
    notes = [note(content) for kind, content in heard if kind == TEXT]
    return [text for where, text in notes if where == node]


BOTH = ["scene", "scene and faces"]


@pytest.mark.parametrize(
    ("mode", "seed", "total", "told"),
    [
        ("one_pass", 8100, STEPS, BOTH),
        ("two_strength", 8101, STEPS, BOTH),
        ("released", 8102, 2 * STEPS, ["scene", "faces"]),
    ],
)
def test_progress_and_previews_arrive_during_a_run(server, portrait, mode, seed, total, told):
    """Of the shipped workflow, in every mode."""
    prompt = fresh(portrait, seed, mode=mode)
    sampler = node_of(prompt, "DHDCascadeKSampler")
    heard = watch(server, prompt)
    kinds = [kind for kind, _ in heard]
    assert kinds[-1] == "execution_success"

    progress = [(at, body) for at, (kind, body) in enumerate(heard) if kind == "progress" and body["node"] == sampler]
    values = [body["value"] for _, body in progress]
    assert values == sorted(values)  # once from start to end, also where the cascade runs twice
    assert set(range(1, total + 1)) <= set(values)
    assert {body["max"] for _, body in progress if body["value"]} == {total}

    pictures = [(at, preview(*heard[at])) for at, kind in enumerate(kinds) if kind in (PREVIEW, PREVIEW_WITH_METADATA)]
    assert len(pictures) == total  # one a step
    for _, picture in pictures:
        assert picture.format == "JPEG"
        assert picture.width == picture.height
        assert len(picture.convert("RGB").resize((16, 16)).getcolors()) > 50  # no flat colour
    assert pictures[0][1].tobytes() != pictures[-1][1].tobytes()
    begun = next(at for at, (kind, body) in enumerate(heard) if kind == "executing" and body["node"] == sampler)
    assert all(at > begun for at, _ in pictures)

    assert said(heard, sampler) == [*told, "faces: 10% of the picture"]
    (shown,) = (body["output"]["images"] for kind, body in heard if kind == "executed" and body["node"] == sampler)
    assert len(shown) == 1
    focus = Image.open(server.base / "temp" / shown[0]["subfolder"] / shown[0]["filename"]).convert("L")
    assert focus.size == (256, 256)
    assert focus.histogram()[255] / 256**2 == pytest.approx(0.10, abs=0.01)


@pytest.mark.parametrize(
    ("mode", "told"), [("one_pass", BOTH), ("two_strength", BOTH), ("released", ["scene", "faces"])]
)
def test_the_stock_sampler_shows_what_the_guider_draws(server, portrait, mode, told):
    prompt = with_guider(fresh(portrait, 8110, mode=mode), steps=STEPS)
    heard = watch(server, prompt)
    assert heard[-1][0] == "execution_success"
    assert said(heard, node_of(prompt, "DHDCascadeGuider")) == [*told, "faces: 10% of the picture"]
    pictures = [preview(*one) for one in heard if one[0] in (PREVIEW, PREVIEW_WITH_METADATA)]
    assert len(pictures) == STEPS * (2 if mode == "released" else 1)
    assert pictures[0].tobytes() != pictures[-1].tobytes()


def test_a_given_focus_counts_from_the_first_step(server, portrait):
    prompt = fresh(portrait, 8111)
    sampler = node_of(prompt, "DHDCascadeKSampler")
    prompt["900"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 256, "height": 256}}
    prompt[sampler]["inputs"]["focus"] = ["900", 0]
    assert said(watch(server, prompt), sampler) == ["scene and faces", "faces: 100% of the picture"]


def test_reading_and_judging_say_which_of_how_many(server, portrait):
    """Photos that are read, pictures that are judged."""
    prompt = fresh(portrait, 8112)
    encode, photos = node_of(prompt, "DHDEncodeReference"), ("obama.jpg", "obama2.jpg")
    for number, photo in enumerate(photos):
        prompt[f"90{number}"] = {"class_type": "LoadImage", "inputs": {"image": photo}}
    prompt["902"] = {"class_type": "ImageBatch", "inputs": {"image1": ["900", 0], "image2": ["901", 0]}}
    prompt[encode]["inputs"] |= {"image": ["902", 0], "name": "heard"}
    judged = {
        "image": ["902", 0],
        "face_analysis": prompt[encode]["inputs"]["face_analysis"],
        "reference_1": [encode, 0],
    }
    prompt["903"] = {"class_type": "DHDPickBest", "inputs": judged}
    prompt["904"] = {
        "class_type": "DHDIdentityScore",
        "inputs": {**judged, "least_similarity": 0.4, "least_margin": 0.0},
    }
    prompt["905"] = {"class_type": "DHDFaceMasks", "inputs": {**judged, "grow": 0.3, "feather": 0.1}}
    for number, (node, slot) in enumerate((("903", 2), ("904", 4), ("905", 0)), 906):
        prompt[str(number)] = {"class_type": "PreviewAny", "inputs": {"source": [node, slot]}}
    heard = watch(server, prompt)
    assert heard[-1][0] == "execution_success"
    assert said(heard, encode) == [*(f"reading faces: photo {n} of 2" for n in (1, 2)), "nothing to improve"]
    looked = [f"looking at picture {n} of 2" for n in (1, 2)]
    picked, *_ = (body["output"] for kind, body in heard if kind == "executed" and body["node"] == "903")
    assert len(picked["images"]) == 1
    assert said(heard, "903")[:2] == said(heard, "904")[:2] == said(heard, "905")[:2] == looked
    assert said(heard, "903")[2:] in (["picture 1 of 2"], ["picture 2 of 2"])
    assert said(heard, "904")[2:] == ["2 of 2 passed"]
    assert said(heard, "905")[2:] == ["every face was found"]


def test_a_reloaded_page_gets_what_nodes_showed(server, portrait):
    """Although nothing runs again."""
    if "has_intermediate_output" not in server.get("object_info/DHDSubjectPrompt")["DHDSubjectPrompt"]:
        pytest.skip("this ComfyUI knows no has_intermediate_output")
    prompt = fresh(portrait, 8113)
    shown = []
    for _ in range(2):
        heard = watch(server, prompt)
        shown.append({body["node"]: body["output"] for kind, body in heard if kind == "executed"})
    for kind in ("DHDSubjectPrompt", "DHDEncodeReference", "DHDCascadeKSampler"):
        assert shown[1][node_of(prompt, kind)] == shown[0][node_of(prompt, kind)] is not None


def test_the_sentence_comes_in_pieces(server, portrait):
    """Each with who is named by it."""
    prompt = fresh(portrait, 8114)
    node = node_of(prompt, "DHDSubjectPrompt")
    prompt[node]["inputs"]["text"] = "A <b>man@1</b> and a 女人@2; the man@1 sits"
    result = server.run(prompt)
    assert result["error"] is None
    assert [
        (piece["text"], piece["person"], piece["is_subject"]) for piece in result["outputs"][node]["who_is_who"][0]
    ] == [
        ("A <b>", 0, False),
        ("man", 1, True),
        ("</b> and a ", 0, False),
        ("女人", 2, True),
        ("; the ", 0, False),
        ("man", 1, False),
        (" sits", 0, False),
    ]


def test_an_interrupted_run_ends(server, portrait):
    """And the next one is whole."""
    slow = fresh(portrait, 8103)
    slow[node_of(slow, "DHDCascadeKSampler")]["inputs"]["steps"] = 400

    async def stop_at_first_step():
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}ws?clientId=stopper") as socket:
            await asyncio.to_thread(server.post, "prompt", {"prompt": slow, "client_id": "stopper"})
            async for message in socket:
                said = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {"type": None}
                if said["type"] == "progress" and said["data"]["max"] == 400 and said["data"]["value"] == 1:
                    await (await session.post(f"{server.url}interrupt", json={})).read()
                if said["type"] in ("execution_interrupted", "execution_success", "execution_error"):
                    return said["type"]

    assert asyncio.run(asyncio.wait_for(stop_at_first_step(), 120)) == "execution_interrupted"
    assert watch(server, fresh(portrait, 8104))[-1][0] == "execution_success"


def test_a_provider_that_is_missing_is_told(server, portrait):
    """On the node; the CPU does it."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="install it with: pip install insightface onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    prompt = copy.deepcopy(portrait)
    loader, encoder = node_of(prompt, "DHDLoadFaceAnalysis"), node_of(prompt, "DHDEncodeReference")
    prompt[loader]["inputs"]["provider"] = "CUDA"
    wanted = [encoder, *(value[0] for value in prompt[encoder]["inputs"].values() if isinstance(value, list))]
    prompt = {key: prompt[key] for key in wanted}
    prompt["900"] = {"class_type": "PreviewAny", "inputs": {"source": [encoder, 2]}}
    heard = watch(server, prompt)
    assert heard[-1][0] == "execution_success"
    notes = [note(content) for kind, content in heard if kind == TEXT]
    assert any(node == loader and "CUDA was wanted for face analysis" in text and "CPU" in text for node, text in notes)
    assert "Load Face Analysis: CUDA was wanted for face analysis" in server.log.read_text()
    report = next(body["output"]["text"] for kind, body in heard if kind == "executed" and body["node"] == "900")
    assert "px" in str(report)


def test_the_same_person_twice_is_told_on_the_node(server, portrait):
    prompt = fresh(portrait, 8105)
    for key, name in zip(
        (key for key, node in prompt.items() if node["class_type"] == "LoadImage"),
        ("obama.jpg", "obama2.jpg"),
        strict=True,
    ):
        prompt[key]["inputs"]["image"] = name
    notes = [note(content) for kind, content in watch(server, prompt) if kind == TEXT]
    apply = node_of(prompt, "DHDApplyPair")
    assert any(node == apply and "look like the same person" in text for node, text in notes)


@pytest.mark.parametrize(
    "typed",
    [
        "[[Update now|https://evil.example]]",
        "[[[a|b]]]",
        "www.evil.example",
        "WWW.evil.example",
        "<a href=x>",
        "ftp://x",
    ],
)
def test_what_somebody_typed_becomes_neither_markup_nor_link(typed):
    """The page makes links of [[text|address]], of what has :// and of what begins with www., and markup of < and >."""
    shown = plain(f"The sentence {typed!r} names nobody.")
    assert not re.search(r"\[\[|://|www\.|[<>]", shown, re.IGNORECASE)
    assert shown.replace("\u2060", "").replace("‹", "<").replace("›", ">") == f"The sentence {typed!r} names nobody."
