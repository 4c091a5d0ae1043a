"""From drawn pictures to shards: the contract, what is set aside and why, the reports."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from PIL import Image, ImageColor
from support.drawn import (
    CAPTION,
    couple,
    draw,
    encoders,
    prepared,
    reasons,
    samples,
    settings_for,
    skin,
    world,
)
from support.refused import refused
from support.shards import make_shards

from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhumandiff.hosts.diffusers.text import encode_prompt
from dhumandiff.layout.person_style import person_color
from training.data import report
from training.data.encode import load_faces
from training.data.pipeline import prepare
from training.data.settings import FaceSettings, PrepareSettings
from training.parsing import parse
from training.run.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world") / "world")


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    prepared(data, folder)
    return folder


def test_shards_hold_what_the_contract_says(out, tmp_path):
    """The hand-written shards that the trainer is tested with have the same fields, shapes and dtypes."""
    reference = make_shards(tmp_path / "by hand", samples=1, references=2)
    (wanted, wanted_tensors), *_ = samples(reference).values()
    for told, tensors in samples(out).values():
        assert set(wanted) <= set(told)
        assert set(wanted_tensors) == set(tensors)
        assert {name: one.dtype for name, one in tensors.items()} == {n: one.dtype for n, one in wanted_tensors.items()}
        height, width = (side // 8 for side in told["bucket"])
        chunks = len(tensors["ids_l"])
        shapes = {
            "latent_mean": (4, height, width),
            "latent_std": (4, height, width),
            "ids_l": (chunks, 77),
            "text": (77 * chunks, 192),
            "pooled": (128,),
            **{f"{kind}_{number}": (height, width) for kind in ("mask", "face") for number in (1, 2)},
        }
        assert len(told["persons"]) == 2
        for number, one in enumerate(told["persons"], 1):
            assert set(wanted["persons"][0]) <= set(one)
            rows = len(one["references"])
            shapes[f"ref_{number}.clip_hidden"] = (rows, 50, 64)
            shapes[f"ref_{number}.identity"] = shapes[f"ref_{number}.identity_swapped"] = (rows, 512)
            for row in one["references"]:
                assert set(wanted["persons"][0]["references"][0]["quality"]) <= set(row["quality"])
        assert {name: tuple(one.shape) for name, one in tensors.items()} == shapes


def test_the_data_set_says_what_the_contract_says(out, tmp_path):
    header, wanted = (
        json.loads((folder / "dataset.json").read_text()) for folder in (out, make_shards(tmp_path, samples=1))
    )
    assert set(wanted) <= set(header)
    for part in ("base", "vision", "recogniser"):
        assert set(wanted[part]) <= set(header[part])
    assert header["base"] == wanted["base"]
    assert header["recogniser"] == {"name": "drawn", "width": 512}
    assert header["sources"] == [{"name": "world", "weight": 1.0, "samples": 10}]
    assert [shard["samples"] for shard in header["shards"]] == [4, 4, 2]
    assert header["counts"] == {"pictures": 20, "samples": 10, "set_aside": 10, "paired_people": 1}


def test_person_1_is_who_the_caption_names_first(out):
    told = {sample["picture"]: sample for sample, _ in samples(out).values()}
    for picture, man_left in (("000.png", True), ("001.png", False)):
        man, woman = told[picture]["persons"]
        assert (man["gender"], woman["gender"]) == ("male", "female")
        assert (man["face_box"][0] < woman["face_box"][0]) is man_left
        assert [word["word"] for word in man["words"]] == ["man", "groom"]
        assert [word["word"] for word in woman["words"]] == ["woman", "bride"]


def test_tokens_are_those_of_the_words(out):
    tokenizer = sdxl_tokenizer()
    for told, tensors in samples(out).values():
        for one in told["persons"]:
            names = [tokenizer.decode(tensors["ids_l"][chunk, place].item()) for chunk, place in one["tokens_all"]]
            assert names == [word["word"] for word in one["words"]]
            assert one["tokens_first"] == one["tokens_all"][:1]


def test_text_is_the_stock_encoding(out):
    """Text is the stock encoding with brackets as plain ones."""
    _, tensors = samples(out)["00000000"]
    escaped = CAPTION.replace("(", "\\(").replace(")", "\\)")
    text, pooled, _ = encode_prompt(encoders().tokenizers, encoders().text_encoders, escaped)
    torch.testing.assert_close(tensors["text"].float(), text[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(tensors["pooled"], pooled[0])


def test_latents_are_the_scaled_posterior(data, out):
    told, tensors = samples(out)["00000000"]
    picture = np.asarray(Image.open(data / told["picture"]).convert("RGB"), np.float32)
    vae = encoders().vae
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
    torch.testing.assert_close(tensors["latent_mean"].float(), posterior.mean[0] * 0.13025, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(tensors["latent_std"].float(), posterior.std[0] * 0.13025, atol=2e-3, rtol=2e-3)


def test_masks_lie_on_their_person(out):
    """Masks lie on their person and leave the other out."""
    for told, tensors in samples(out).values():
        for number, one in enumerate(told["persons"], 1):
            x, y = (int((one["face_box"][i] + one["face_box"][i + 2]) / 16) for i in (0, 1))
            assert tensors[f"face_{number}"][y, x] == tensors[f"mask_{number}"][y, x] == 255
            assert tensors[f"face_{3 - number}"][y, x] == tensors[f"mask_{3 - number}"][y, x] == 0
            body = [int(edge / 8) for edge in one["person_box"]]
            assert tensors[f"mask_{number}"][-1, (body[0] + body[2]) // 2] == 255
        assert (tensors["mask_1"].int() + tensors["mask_2"].int()).max() <= 256


def test_references_are_the_face_its_variants_and_other_photos(out):
    told, tensors = samples(out)["00000000"]
    man, woman = told["persons"]
    assert [(row["origin"], row["augmented"]) for row in man["references"]] == [("target", False), ("target", True)]
    assert [row["origin"] for row in woman["references"]] == ["target", "target", "paired", "paired"]
    assert woman["identity"] == "anna"
    identity = tensors["ref_2.identity"]
    torch.testing.assert_close(identity.norm(dim=-1), torch.ones(4))
    assert (identity[1:] != identity[:1]).any(dim=-1).all()
    assert (tensors["ref_2.clip_hidden"][1] != tensors["ref_2.clip_hidden"][0]).any()
    assert "similarity" in woman["references"][2]["quality"]


def test_photos_of_somebody_else_are_left_out_when_asked(tmp_path):
    data, out = world(tmp_path / "data", good=1, refused=False), tmp_path / "out"
    prepared(data, out, references__min_similarity=1.0)
    told, _ = samples(out)["00000000"]
    assert [row["origin"] for row in told["persons"][1]["references"]] == ["target", "target"]
    noted = json.loads((out / "report.json").read_text())["noted_pictures"]
    assert any("too unlike the person" in note for one in noted for note in one["notes"])


def test_an_identity_elsewhere_is_a_paired_photo(tmp_path):
    """The same identity on another picture is a paired photo."""
    for number in (0, 1):
        path = couple(tmp_path / "data", number)
        told = json.loads(path.with_suffix(".json").read_text())
        told["people"][1]["identity"] = "ben"
        path.with_suffix(".json").write_text(json.dumps(told))
    prepared(tmp_path / "data", tmp_path / "out")
    for told, _ in samples(tmp_path / "out").values():
        man, woman = told["persons"]
        assert [row["origin"] for row in man["references"]] == ["target", "target", "paired"]
        assert [row["origin"] for row in woman["references"]] == ["target", "target"]


def test_variants_differ(tmp_path):
    """Variants differ from each other and can be switched off."""
    data = couple(tmp_path / "data", 0).parent
    prepared(data, tmp_path / "three", references__augmented=3, references__paired=0)
    hidden = samples(tmp_path / "three")["00000000"][1]["ref_1.clip_hidden"].float()
    assert len(hidden) == 4
    assert len({tuple(row.flatten().tolist()) for row in hidden}) == 4
    prepared(data, tmp_path / "none", references__augmented=0, references__paired=0)
    assert samples(tmp_path / "none")["00000000"][1]["ref_1.clip_hidden"].shape[0] == 1


def test_paired_photos_have_variants_where_asked(tmp_path):
    """Variants of a paired photo are made of it, and count as no further photo."""
    data, out = world(tmp_path / "data", good=1, refused=False), tmp_path / "out"
    prepared(data, out, references__augmented=0, references__augmented_paired=2, references__paired=1)
    told, tensors = samples(out)["00000000"]
    rows = told["persons"][1]["references"]
    assert [(row["origin"], row["augmented"]) for row in rows] == [
        ("target", False),
        ("paired", False),
        ("paired", True),
        ("paired", True),
    ]
    assert len({row["quality"]["face_size"] for row in rows[1:]}) == 1
    hidden = tensors["ref_2.clip_hidden"].float()
    assert len({tuple(row.flatten().tolist()) for row in hidden}) == 4
    assert "augmented_paired" not in PrepareSettings().fingerprint()["references"]  # plans from before stay the same


@pytest.mark.parametrize(
    ("picture", "reason", "message"),
    [
        ("900_corrupt.png", "corrupt", "is damaged"),
        ("901_tiny.png", "tiny", "36 x 32 px; the shorter side needs 48"),
        ("902_one.png", "one person", "1 face was found; two people are needed"),
        ("903_three.png", "three people", "there is a third face of 25 px"),
        ("904_nobody.png", "no face", "no face was found"),
        ("905.png", "three people", "3 people are annotated; 2 are needed"),
        ("906.png", "words", "names several people with one word"),
        ("907.png", "annotation", "the annotation cannot be read"),
        ("908_small.png", "small face", "9 px, less than faces.min_size"),
        ("909_twins.png", "same person", "the two faces look like one person"),
    ],
)
def test_unusable_pictures_are_set_aside(out, picture, reason, message):
    """What cannot be used is set aside with the reason."""
    assert reasons(out)[picture][0] == reason
    assert message in reasons(out)[picture][1]


def test_long_captions_take_several_chunks(tmp_path):
    """Long captions take several chunks and words are found in the later ones."""
    caption = CAPTION + " There are flowers," * 20 + " and the groom smiles."
    sentences = {caption: ["A man", "a woman", "the groom smiles"]}
    couple(tmp_path / "data", 0, caption=caption, words=sentences)
    prepared(tmp_path / "data", tmp_path / "out")
    ((told, tensors),) = samples(tmp_path / "out").values()
    assert len(tensors["ids_l"]) == 2
    assert tensors["text"].shape == (2 * 77, 192)
    assert [place[0] for place in told["persons"][0]["tokens_all"]] == [0, 1]


def test_a_caption_in_another_script_is_bound(tmp_path):
    caption = "一个男人和一个女人在公园"
    couple(tmp_path / "data", 0, caption=caption, words={caption: ["男人", "女人"]})
    prepared(tmp_path / "data", tmp_path / "out")
    ((told, _),) = samples(tmp_path / "out").values()
    assert [[word["word"] for word in one["words"]] for one in told["persons"]] == [["男人"], ["女人"]]
    assert told["named_by"] == "order"  # nouns of other languages say nothing to the rules
    assert all(one["tokens_first"] for one in told["persons"])


def test_a_caption_without_tokens_is_set_aside(tmp_path):
    """A caption that the tokenizer cannot serve is set aside."""
    caption = "A man and a woman, embedding:mystyle"
    couple(tmp_path / "data", 0, caption=caption, words={caption: ["A man", "a woman"]})
    prepared(tmp_path / "data", tmp_path / "out")
    assert reasons(tmp_path / "out")["000.png"][0] == "words"


def test_a_failing_detector_stops_no_run(data, tmp_path):
    """A detector that fails on a picture does not stop the run."""
    from support.drawn import DrawnFaces

    from training.data.pipeline import prepare

    class Moody(DrawnFaces):
        def detect(self, image):
            if image[0, 0, 0] == 10:
                raise RuntimeError("bad mood")
            return super().detect(image)

    couple(tmp_path / "data", 0)
    draw(tmp_path / "data" / "bad.png", [(32, 34, 12, skin(3))], paper=(10, 0, 0))
    prepare(settings_for(tmp_path / "data", tmp_path / "out"), encoders(), Moody())
    assert reasons(tmp_path / "out") == {"bad.png": ("failed", "RuntimeError: bad mood")}


def test_the_detectors_attributes_fill_gaps(tmp_path):
    """Attributes of the detector fill in what the annotation leaves open."""
    from support.drawn import DrawnFaces

    from training.data.pipeline import prepare

    class Knowing(DrawnFaces):
        def attributes(self, image, face):
            return ("female" if face.center[0] < 64 else "male"), "adult"

    path = tmp_path / "data" / "a.png"
    draw(path, [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))])
    path.with_suffix(".txt").write_text("A man with a woman")
    prepare(settings_for(tmp_path / "data", tmp_path / "out"), encoders(), Knowing())
    ((told, _),) = samples(tmp_path / "out").values()
    man, woman = told["persons"]
    assert man["face_box"][0] > woman["face_box"][0]
    assert (man["gender"], man["age_group"], told["named_by"]) == ("male", "adult", "noun")


def test_reports_tell_what_was_made(out):
    report = (out / "report.md").read_text()
    assert "20 pictures: 10 samples, 10 set aside." in report
    assert "| corrupt | 1 | the file is damaged or no picture |" in report
    told = json.loads((out / "report.json").read_text())
    assert told["histograms"]["gender"] == {"female": 10, "male": 10}
    assert sum(told["histograms"]["face_size"].values()) == 20
    for name in ("report.png", "contact_sheet.png"):
        assert np.asarray(Image.open(out / name).convert("RGB")).std() > 10


def test_the_contact_sheet_has_persons_colors(out):
    """The contact sheet has a box in the color of each persons word."""
    sheet = np.asarray(Image.open(out / "contact_sheet.png").convert("RGB")).reshape(-1, 3)
    for person in (0, 1):
        assert (sheet == ImageColor.getrgb(person_color(person))).all(axis=-1).sum() > 1000


def test_the_end_says_what_to_run_next(tmp_path):
    """The end says what to look at and what to run next."""
    couple(tmp_path / "data", 0)
    draw(tmp_path / "data" / "a.png", [])
    out = tmp_path / "out"
    told = prepared(tmp_path / "data", out)
    assert f"{out}: 1 sample from 2 pictures" in told
    assert "Set aside: 1 no face (no face was found)." in told
    assert "contact_sheet.png" in told
    line = next(line for line in told.splitlines() if line.startswith("Next: "))
    assert f"--data.folders+ '{{path: {out}}}' --run runs/out" in line
    words = shlex.split(line.removeprefix("Next: python -m training train "))
    config, _ = parse(TrainConfig, "train", words)  # it can be pasted
    assert config.base.path == "tiny"
    assert [folder.path for folder in config.data.folders] == [str(out)]


@pytest.mark.parametrize(("base", "path"), [("mini", "mini"), ("tiny", "tiny"), ("sdxl-base-1.0", "sdxl-base-1.0")])
def test_what_to_run_next_is_for_the_base_that_was_prepared_for(tmp_path, monkeypatch, base, path):
    monkeypatch.chdir(tmp_path)  # where no relative path leads to the settings
    (tmp_path / "dataset.json").write_text(json.dumps({"base": {"name": base}}))
    words = shlex.split(report.training_command(tmp_path).removeprefix("python -m training train "))
    assert parse(TrainConfig, "train", words)[0].base.path == path


def test_without_a_usable_picture_the_end_says_so(tmp_path):
    draw(tmp_path / "data" / "a.png", [])
    assert "There is nothing to train on" in prepared(tmp_path / "data", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_pictures_can_be_left_out_of_the_shards(tmp_path):
    couple(tmp_path / "data", 0)
    told = prepared(tmp_path / "data", tmp_path / "out", pictures=False)
    assert "contact_sheet" not in told
    assert samples(tmp_path / "out")


def test_a_face_pack_with_genderage_tells_gender_and_age(faces_root, face_photos, tmp_path):
    """With a stand-in for buffalo_l's genderage model, whose answer is always the same."""
    onnx = pytest.importorskip("onnx")
    import shutil

    from dhumandiff.faces import load_photo

    pack = tmp_path / "models" / "both"
    shutil.copytree(faces_root / "models" / "mini", pack)
    helper, numbers = onnx.helper, onnx.numpy_helper
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["data"], ["flat"]), helper.make_node("Gemm", ["flat", "w", "b"], ["fc1"])],
        "genderage",
        [helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, [1, 3, 96, 96])],
        [helper.make_tensor_value_info("fc1", onnx.TensorProto.FLOAT, [1, 3])],
        [
            numbers.from_array(np.zeros((3 * 96 * 96, 3), np.float32), "w"),
            numbers.from_array(np.float32([1.0, 0.0, 0.25]), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, pack / "genderage.onnx")
    faces = load_faces(FaceSettings(pack="both", root=str(tmp_path)))
    image = load_photo(face_photos / "obama.jpg").pixels
    assert faces.attributes(image, faces.detect(image)[0]) == ("female", "young adult")


def test_a_judge_prepares_nothing(data, tmp_path):
    """It only scores: nobody could train with its embeddings of 128 numbers."""
    judge = SimpleNamespace(name="sface", scores_only=True)
    with refused("judge-conditions-nothing", "sface", "training data"):
        prepare(settings_for(data, tmp_path / "out"), encoders(), judge)
    assert not (tmp_path / "out").exists()
