"""WithAnyone's losses: aligned and recognised as outside of training, gradients where they belong, negatives who they should be."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.refused import refused
from test_objectives import scheduler
from torch import nn

for package in ("accelerate", "diffusers", "jsonargparse", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.faces import align
from dhumandiff.miniature.faces import mini_faces
from dhumandiff.miniature.world import draw_reference, draw_script, sample_identity, sample_script
from training.data.dataset import open_dataset
from training.objectives.config import IdentityConfig
from training.objectives.identity import FaceEmbeddings, build, info_nce, negative_bank
from training.objectives.protocol import ForwardOutput
from training.recognizers import ArcFace, align_faces, face_windows, load_recognizer


def pixels_of(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


class Nothing(nn.Module):
    """A recogniser of 112 px whose embedding is the mean colour of nine fields."""

    side = 112
    matrix = ArcFace.matrix

    def forward(self, faces):
        return F.normalize(F.adaptive_avg_pool2d(faces, 3).flatten(1), dim=-1)


@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_faces_are_aligned_as_insightface_does_it(turn):
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    picture = (
        np.asarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3)), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
    )
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    landmarks = np.array([[-18, -20], [18, -20], [0, 0], [-14, 20], [14, 20]]) @ spin.T * 1.1 + 120
    theirs = align(picture, landmarks.astype(np.float32)).astype(float)
    ours = align_faces(pixels_of(picture), torch.tensor(landmarks)[None], Nothing())
    ours = ((ours[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    assert np.abs(ours - theirs).mean() < 1.5  # OpenCV's weights are of 5 bits


def test_the_miniature_s_recogniser_sees_what_it_sees_outside_of_training():
    faces, recogniser = mini_faces(), load_recognizer("mini")
    for seed in range(6):
        drawn = draw_reference(sample_identity(seed), 1, 128)
        face = drawn.people[0]
        outside = faces.identity(drawn.picture, SimpleNamespace(landmarks=face.landmarks))
        points = torch.tensor(face.landmarks)[None]
        inside = recogniser(align_faces(pixels_of(drawn.picture), points, recogniser))[0].numpy()
        assert float(outside @ inside) > 0.97


def test_a_window_around_a_face_stays_in_the_picture_and_holds_it():
    landmarks = torch.tensor([[[10.0, 10]] * 5, [[100.0, 60]] * 5, [[60.0, 50]] * 5])
    starts = face_windows(landmarks, (12, 16), (6, 6), 8)
    assert starts.tolist() == [[0, 0], [5 if starts[1, 0] == 5 else 4, 10], [3, 5 if starts[2, 1] == 5 else 4]]
    assert (starts >= 0).all()
    assert (starts <= torch.tensor([6, 10])).all()


def vae():
    from dhumandiff.miniature.base import mini_vae

    return mini_vae()


@pytest.fixture(scope="module")
def scene():
    """Two drawn pictures as a batch, and what to see: predictions as far off as asked."""
    decoder = vae()
    pictures, landmarks, truth = [], [], []
    faces = mini_faces()
    for seed in (1, 2):
        script = sample_script(seed, (sample_identity(2 * seed), sample_identity(2 * seed + 1)))
        drawn = draw_script(script, seed)
        people = drawn.people if script.first_is_left else drawn.people[::-1]
        pictures.append(pixels_of(drawn.picture)[0])
        landmarks.append(np.stack([person.landmarks for person in people]))
        truth.append(np.stack([faces.identity(drawn.picture, SimpleNamespace(landmarks=p.landmarks)) for p in people]))
    with torch.no_grad():
        latents = decoder.encode(torch.stack(pictures)).latent_dist.mean * decoder.config.scaling_factor
    batch = SimpleNamespace(
        truth=torch.tensor(np.stack(truth)),
        landmarks=torch.tensor(np.stack(landmarks)),
        people=torch.tensor([[1, 2], [3, 4]]),
        drop_identity=torch.zeros(2, 2, dtype=torch.bool),
    )

    def make(clean=latents, times=(100, 300), **changed):
        schedule = scheduler()
        levels = torch.tensor(times)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        noisy = schedule.add_noise(latents, noise, levels)
        kept = schedule.alphas_cumprod[levels].reshape(-1, 1, 1, 1)
        prediction = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
        base = SimpleNamespace(scheduler=schedule, vae=decoder)
        here = SimpleNamespace(**{**vars(batch), **changed})
        return ForwardOutput(here, prediction.requires_grad_(), noise, noisy, levels, base, [], torch.ones(2))

    return SimpleNamespace(make=make, latents=latents)


def objectives(**settings):
    return {one.name: one for one in build(IdentityConfig(recognizer="mini", **settings))}


def test_the_clean_prediction_is_the_picture_when_the_noise_is_known(scene):
    assert torch.allclose(scene.make().clean_latents(), scene.latents, atol=1e-4)


def test_the_true_faces_cost_little_and_exchanged_ones_much(scene):
    (identity,) = objectives(weight=0.1).values()
    right = identity(scene.make())
    mirrored = identity(scene.make(scene.latents.roll(1, 0)))
    assert identity.weight == 0.1
    assert right < 0.35
    assert mirrored > right + 0.3


def test_gradients_reach_the_prediction_at_the_faces_alone(scene):
    (identity,) = objectives(weight=1.0).values()
    seen = scene.make()
    identity(seen).backward()
    strength = seen.prediction.grad.abs().sum(dim=1)
    assert strength.sum() > 0
    for row in range(2):
        middle = seen.batch.landmarks[row].mean(dim=1) / 8
        near = strength[row, middle[:, 1].long(), middle[:, 0].long()]
        assert (near > strength[row, -1].mean()).all()


def test_noisy_rows_and_dropped_faces_count_nothing(scene):
    (identity,) = objectives(weight=1.0).values()
    first, second = (identity(scene.make(times=(100, noisy))).item() for noisy in (700, 999))
    assert first == pytest.approx(second, abs=0.02)
    drop_identity = torch.tensor([[False, True], [True, True]])
    seen = scene.make(drop_identity=drop_identity)
    (all_levels,) = objectives(weight=1.0, max_noise_level=1.0).values()
    all_levels(seen)
    assert len(seen.cache["face_embeddings"].predicted) == 1
    nothing = scene.make(times=(800, 900))
    loss = identity(nothing)
    assert loss == 0
    loss.backward()
    assert not nothing.prediction.grad.any()


def test_a_window_sees_nearly_what_the_whole_picture_shows(scene):
    (whole,) = objectives(weight=1.0).values()
    (part,) = objectives(weight=1.0, decode_crop=9).values()
    assert part(scene.make()).item() == pytest.approx(whole(scene.make()).item(), abs=0.1)


def test_a_detector_may_align_instead_and_what_it_does_not_find_counts_nothing(scene):
    (identity,) = objectives(weight=1.0, aligned_by="prediction").values()
    assert identity(scene.make()) < 0.45
    grey = scene.make(torch.zeros_like(scene.latents))
    assert identity(grey) == 0
    assert len(grey.cache["face_embeddings"].predicted) == 0


def test_half_precision_around_them_does_not_change_what_they_see(scene):
    (identity,) = objectives(weight=1.0).values()
    with torch.autocast("cpu", torch.bfloat16):
        half = identity(scene.make()).item()
    assert half == identity(scene.make()).item()


def test_both_losses_look_once(scene, monkeypatch):
    both = build(IdentityConfig(recognizer="mini", weight=0.1, infonce_weight=0.1))
    seen = scene.make()
    looks = []
    inner = both[0].encoder._encode
    monkeypatch.setattr(both[0].encoder, "_encode", lambda seen: looks.append(1) or inner(seen))
    values = [objective(seen) for objective in both]
    assert len(looks) == 1
    assert all(value.isfinite() for value in values)


def test_info_nce_is_that_of_its_formula_and_leaves_out_the_same_person():
    embeddings = F.normalize(torch.tensor([[1.0, 0.2, 0.0]]), dim=-1)
    truth = torch.tensor([[1.0, 0, 0]])
    faces = F.normalize(torch.tensor([[0.0, 1, 0], [0, 0, 1], [0.9, 0.1, 0], [0, 1, 1]]), dim=-1)
    people = torch.tensor([5, 6, 0, 7])
    looked = FaceEmbeddings(embeddings, truth, torch.tensor([7]))
    logits = [float(embeddings[0] @ other) / 0.1 for other in (truth[0], faces[0], faces[1])]
    expected = math.log(sum(map(math.exp, logits))) - logits[0]
    assert float(info_nce(looked, faces, people, 0.1, 0.5)) == pytest.approx(expected, abs=1e-6)
    everybody = info_nce(
        looked, faces, people, 0.1, 2.0
    )  # the third is a negative now, the fourth is still the same person
    assert everybody > expected


def test_a_person_who_looks_like_nobody_else_has_a_small_contrast(scene):
    (infonce,) = objectives(infonce_weight=0.1).values()
    assert infonce(scene.make()) < infonce(scene.make(scene.latents.roll(1, 0)))


def test_the_bank_holds_so_many_of_the_data_s_people_always_the_same(small_shards):
    folder = open_dataset(str(small_shards))
    faces, people = negative_bank([folder], 6)
    assert faces.shape[1] == 512
    assert len(faces) == len(people) <= 6
    assert torch.allclose(faces.norm(dim=-1), torch.ones(len(faces)), atol=1e-5)
    assert (people != 0).all()
    assert torch.equal(negative_bank([folder], 6)[0], faces)
    assert len(negative_bank([folder], 1000)[0]) == 16
    assert len(negative_bank([], 10)[0]) == len(negative_bank([folder], 0)[0]) == 0


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ({"weight": 0.1}, "recognizer-not-named", "objectives.identity"),
        ({"weight": -1}, "setting-out-of-range", "objectives.identity.weight is -1"),
        ({"max_noise_level": 0}, "setting-out-of-range", "objectives.identity.max_noise_level is 0"),
        ({"temperature": 0}, "setting-out-of-range", "objectives.identity.temperature is 0"),
    ],
)
def test_settings_that_make_no_loss_are_refused(given, code, named):
    with refused(code, named):
        IdentityConfig(**given)


def test_a_recogniser_that_cannot_be_had_is_named():
    with refused("no-such-recognizer", "nowhere.onnx"):
        build(IdentityConfig(weight=0.1, recognizer="nowhere.onnx"))
    with refused("no-such-plugin", "nowhere.at:all"):
        build(IdentityConfig(weight=0.1, recognizer="nowhere.at:all"))


def test_it_is_off_by_default():
    assert build(IdentityConfig()) == []
