"""Real faces through every road of scoring outside of ComfyUI, and a recogniser as torch that sees what onnxruntime sees."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.refused import refused

for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.evaluation.metrics import cosines
from dhumandiff.evaluation.score import embed_faces, score_image
from dhumandiff.faces import ARCFACE_TEMPLATE, Face, InsightFaceAnalyzer, align, assess, crop_face
from dhumandiff.prompts import parse_prompt
from training import TrainingError
from training.__main__ import main as training_main
from training.objectives.config import IdentityConfig
from training.objectives.identity import build
from training.recognizers import ArcFace, align_faces, check_recognizer, probe_picture

SENTENCE = "A man@1 on the left and a man@2 on the right."


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def as_input(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.fixture(scope="module")
def photos(face_photos, tmp_path_factory):
    """obama.jpg and biden.jpg as references, and beside them both people on one picture, as said and exchanged."""
    folder = tmp_path_factory.mktemp("photos")
    half = {name: Image.open(face_photos / f"{name}.jpg").convert("RGB") for name in ("obama2", "biden")}
    for picture in half.values():
        picture.thumbnail((600, 600))
    for name, order in (("right", ("obama2", "biden")), ("swapped", ("biden", "obama2"))):
        both = Image.new("RGB", (1200, 600))
        for place, who in enumerate(order):
            both.paste(half[who], (600 * place, 0))
        both.save(folder / f"{name}.png")
    for name in ("obama", "biden"):
        Image.open(face_photos / f"{name}.jpg").save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def references(photos, face_analyzer):
    """[2, 512] of the two references."""
    return np.concatenate(
        [embed_faces(pixels(photos / f"{name}.png"), face_analyzer)[1] for name in ("obama", "biden")]
    )


def test_photos_of_one_person_are_alike(photos, references, face_analyzer):
    """One person's photos are alike and two people's are not."""
    _, found = embed_faces(pixels(photos / "right.png"), face_analyzer)
    similar = cosines(found, references)
    assert np.diag(similar).min() > 0.6
    assert similar[~np.eye(2, dtype=bool)].max() < 0.3


def test_exchanged_real_people_are_wrong(photos, references, face_analyzer):
    """Real people where the sentence has them are right and exchanged ones wrong."""
    prompt = parse_prompt(SENTENCE, mentions="all")
    for name, right in (("right", True), ("swapped", False)):
        judged = score_image(pixels(photos / f"{name}.png"), references, face_analyzer, prompt=prompt)
        assert [person.assigned_correctly for person in judged.score.persons] == [right, right]
        assert min(person.sim_ref for person in judged.score.persons) > 0.6
        assert judged.score.blending < 0.3


def warned(picture, analyzer):
    image = np.asarray(picture)
    face = max(analyzer.detect(image), key=lambda one: one.size)
    crop, moved, _ = crop_face(image, face)
    return " ".join(assess(image, face, crop, moved).warnings())


@pytest.mark.parametrize("name", ["obama.jpg", "biden.jpg"])
def test_stretched_and_enlarged_faces_are_reported(face_photos, face_analyzer, name):
    """Faces of which a recognizer knows nobody any more have something to improve, and the photos that they were made of do not."""
    photo = Image.open(face_photos / name).convert("RGB")
    width, height = photo.size
    assert not warned(photo, face_analyzer)
    assert "stretched or squeezed" in warned(photo.resize((2 * width, height)), face_analyzer)
    small = photo.resize((width // 10, height // 10))
    assert "not this one enlarged" in warned(small.resize((width, height)), face_analyzer)


def test_evaluate_scores_real_photos(photos, faces_root, tmp_path, capsys):
    pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    references = [str(photos / "obama.png"), str(photos / "biden.png")]
    lines = [{"id": name, "prompt": SENTENCE, "references": references} for name in ("right", "swapped")]
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(json.dumps(line) for line in lines))
    pack = ["--faces.pack", "mini", "--faces.root", str(faces_root), "--faces.provider", "CPU"]
    out = tmp_path / "scores"
    training_main(["evaluate", "--cases", str(cases), "--pictures", str(photos), "--out", str(out), *pack])
    assert "2 pictures scored" in capsys.readouterr().out
    records = {record["id"]: record for record in map(json.loads, (out / "scores.jsonl").read_text().splitlines())}
    assert [person["right"] for person in records["right"]["persons"]] == [True, True]
    assert [person["right"] for person in records["swapped"]["persons"]] == [False, False]
    for record in records.values():
        assert min(person["sim_ref"] for person in record["persons"]) > 0.6


def test_a_real_recogniser_as_torch_sees_what_insightface_sees(photos, faces_root, face_analyzer):
    """Recognition by itself, and alignment and recognition together."""
    pytest.importorskip("onnx2torch", reason="install it with: pip install --no-deps onnx2torch")
    recogniser = ArcFace.from_onnx(faces_root / "models" / "mini" / "rec_fr_512.onnx")
    for name in ("obama.png", "biden.png", "right.png"):
        picture = pixels(photos / name)
        faces, theirs = embed_faces(picture, face_analyzer)
        points = torch.from_numpy(np.stack([face.landmarks for face in faces]))
        aligned = [align(picture, face.landmarks) for face in faces]
        ours = recogniser(torch.cat([as_input(one) for one in aligned])).numpy()
        assert (ours * theirs).sum(axis=1).min() > 1 - 1e-3
        throughout = recogniser(align_faces(as_input(picture).expand(len(faces), -1, -1, -1), points, recogniser))
        assert (throughout.numpy() * theirs).sum(
            axis=1
        ).min() > 0.9  # large faces: theirs are sampled without averaging


def test_another_recognizer_is_refused(faces_root, face_analyzer):
    """The recognizer of the data is known again and another refused."""
    pytest.importorskip("onnx2torch", reason="install it with: pip install --no-deps onnx2torch")
    from types import SimpleNamespace

    path = faces_root / "models" / "mini" / "rec_fr_512.onnx"
    probe = face_analyzer.identity(probe_picture(), Face(np.float32([0, 0, 112, 112]), ARCFACE_TEMPLATE))
    data = SimpleNamespace(path="shards", header={"recogniser": {"name": "mini"}})
    data.common = {"recogniser_probe": torch.from_numpy(probe)}
    check_recognizer(ArcFace.from_onnx(path), [data])
    with refused("another-recognizer", "shards", "cosine", error=TrainingError):
        build(IdentityConfig(weight=0.1, recognizer="mini"), [data])
    data.common = {"recogniser_probe": torch.ones(128)}
    with refused("another-recognizer", "shards", "cosine", error=TrainingError):
        check_recognizer(ArcFace.from_onnx(path), [data])
    data.common = {}
    with pytest.warns(UserWarning, match="Prepare the data again to be sure"):
        check_recognizer(ArcFace.from_onnx(path), [data])


def test_a_detector_is_no_recognizer(faces_root):
    """A detector is not taken for a recognizer."""
    pytest.importorskip("onnx2torch", reason="install it with: pip install --no-deps onnx2torch")
    with refused("recognizer-not-converted", "det_blaze_256", error=TrainingError):
        ArcFace.from_onnx(faces_root / "models" / "mini" / "det_blaze_256.onnx")


def iresnet(path, blocks, widths, batch="None", raw=False, seed=0):
    """Write an ArcFace model as InsightFace exports it (w600k_r50: blocks 3, 4, 14, 3, widths 64 to 512), of random weights.

    Convolutions with their normalisation folded in, PReLU, residual sums, and at the end a normalisation, a matrix and another
    normalisation. batch: a number for a model of fixed size. raw: it takes 0..255, as those that came from MXNet.
    """
    random, nodes, weights = np.random.default_rng(seed), [], []
    count = iter(range(10_000))

    def value(array, name=None):
        name = name or f"w{next(count)}"
        weights.append(numpy_helper.from_array(np.asarray(array, dtype=np.float32), name))
        return name

    def node(kind, *inputs, **attributes):
        out = f"v{next(count)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}_{len(nodes)}", **attributes))
        return out

    def norm(x, width):
        parts = (1 + 0.2 * random.normal(size=width), 0.1 * random.normal(size=width))
        moments = (0.1 * random.normal(size=width), 1 + 0.5 * random.random(width))
        return node("BatchNormalization", x, *map(value, (*parts, *moments)), epsilon=1e-5)

    def conv(x, before, width, side, stride):
        kernel = random.normal(size=(width, before, side, side)) * (1.4 / (before * side * side)) ** 0.5
        pads, strides = [side // 2] * 4, [stride] * 2
        bias = value(0.05 * random.normal(size=width))
        return node("Conv", x, value(kernel), bias, kernel_shape=[side] * 2, pads=pads, strides=strides, group=1)

    def prelu(x, width):
        return node("PRelu", x, value(random.random((width, 1, 1)) * 0.5))

    given = "input.1"
    if raw:
        given = node(
            "Mul", node("Sub", given, value(np.full((1, 1, 1, 1), 127.5))), value(np.full((1, 1, 1, 1), 1 / 127.5))
        )
    before, x = widths[0], prelu(conv(given, 3, widths[0], 3, 1), widths[0])
    for number, width in zip(blocks, widths, strict=True):
        for step in range(number):
            stride = 2 if step == 0 else 1
            inner = prelu(conv(norm(x, before), before, width, 3, 1), width)
            skip = conv(x, before, width, 1, stride) if step == 0 else x
            x, before = node("Add", conv(inner, width, width, 3, stride), skip), width
    x = node("Flatten", norm(x, before), axis=1)
    matrix = value(random.normal(size=(512, before * 49)) * (1 / (before * 49)) ** 0.5)
    x = norm(node("Gemm", x, matrix, value(np.zeros(512)), alpha=1.0, beta=1.0, transB=1), 512)
    given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [batch, 3, 112, 112])
    made = helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch if batch == 1 else None, 512])
    graph = helper.make_graph(nodes, "iresnet", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def compare(photos, face_analyzer):
    """Cosines of a recogniser file as torch and in onnxruntime, on the aligned faces of the photos, and with noise."""
    import onnxruntime

    def cosines_of(path):
        recogniser = ArcFace.from_onnx(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        aligned = []
        for photo in ("obama.png", "biden.png", "right.png"):
            picture = pixels(photos / photo)
            aligned += [as_input(align(picture, face.landmarks)) for face in embed_faces(picture, face_analyzer)[0]]
        faces = torch.cat([*aligned, torch.rand(1, 3, 112, 112) * 2 - 1])
        theirs = np.concatenate([session.run(None, {name: one[None].numpy()})[0] for one in faces])
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        return (recogniser(faces).numpy() * theirs).sum(axis=1), recogniser

    return cosines_of


@pytest.mark.parametrize("batch", ["None", 1])
def test_an_arcface_converts_exactly(tmp_path, compare, batch):
    """An arcface of the released layout converts exactly and lets gradients through."""
    pytest.importorskip("onnx2torch", reason="install it with: pip install --no-deps onnx2torch")
    path = iresnet(tmp_path / "small.onnx", (1, 2, 1, 1), (8, 8, 16, 32), batch)
    found, recogniser = compare(path)
    assert found.min() > 1 - 1e-5
    faces = torch.rand(2, 3, 112, 112, requires_grad=True)
    recogniser(faces)[:, 0].sum().backward()
    assert torch.isfinite(faces.grad).all()
    assert (faces.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.slow
def test_an_arcface_of_full_size_converts_exactly(tmp_path, compare):
    """w600k_r50's layout: 43 million weights."""
    pytest.importorskip("onnx2torch", reason="install it with: pip install --no-deps onnx2torch")
    path = iresnet(tmp_path / "r50.onnx", (3, 4, 14, 3), (64, 128, 256, 512))
    assert path.stat().st_size > 170e6
    found, _ = compare(path)
    assert found.min() > 1 - 1e-3


@pytest.mark.parametrize("raw", [False, True])
def test_a_pack_equals_insightface(tmp_path, faces_root, photos, raw):
    """The whole road of a user: a pack's folder for prepare, its .onnx for the identity loss."""
    pytest.importorskip("onnx2torch", reason="install it with: pip install --no-deps onnx2torch")
    pack = tmp_path / "models" / "made"
    pack.mkdir(parents=True)
    (pack / "det.onnx").write_bytes((faces_root / "models" / "mini" / "det_blaze_256.onnx").read_bytes())
    path = iresnet(pack / "w600k_r50.onnx", (1, 1, 1, 1), (8, 8, 16, 32), raw=raw)
    analyzer = InsightFaceAnalyzer.from_pack("made", root=tmp_path, provider="CPU")
    recogniser = ArcFace.from_onnx(path)
    picture = pixels(photos / "obama.png")
    (face,), (theirs,) = embed_faces(picture, analyzer)
    ours = recogniser(as_input(align(picture, face.landmarks)))[0].numpy()
    assert float(ours @ theirs) > 1 - 1e-3
