"""The parts of the loss against straightforward versions, and what they refuse."""

from types import SimpleNamespace

import pytest
import torch
from support.refused import refused
from support.shards import make_shards

for package in ("diffusers", "webdataset"):
    pytest.importorskip(package, reason=f"install it with: pip install {package}")

from safetensors.torch import load, save

from training.data.dataset import open_dataset
from training.objectives.config import (
    DiffusionConfig,
    FaceRegionConfig,
    LocalizationConfig,
    ObjectivesConfig,
    RoutingConfig,
    TextConsistencyConfig,
)
from training.objectives.diffusion import min_snr_weights, sample_timesteps
from training.objectives.localization import face_leakage, word_balance
from training.objectives.losses import OBJECTIVES, build_objectives, check_data, compute_losses
from training.objectives.protocol import AttentionMaps, ForwardOutput
from training.objectives.routing import routes_of


def scheduler(prediction="epsilon"):
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction)


def seen(**parts):
    """Two rows of 4 x 8 latents; person 1 stands left, person 2 right, their faces in the upper half."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 2, 4, 8)
    masks[:, 0, :, :4] = masks[:, 1, :, 4:] = 1
    faces = masks.clone()
    faces[:, :, 2:] = 0
    batch = SimpleNamespace(
        masks=masks,
        faces=parts.pop("faces", faces),
        drop_identity=parts.pop("drop_identity", torch.zeros(2, 2, dtype=torch.bool)),
        drop_face_tokens=parts.pop("drop_face_tokens", torch.zeros(2, 2, dtype=torch.bool)),
        subject_token_index=parts.pop(
            "subject_token_index", torch.tensor([[0, 0, 0, 2], [0, 1, 0, 5], [1, 0, 0, 2], [1, 1, 0, 5]])
        ),
    )
    return ForwardOutput(
        **{
            "batch": batch,
            "prediction": torch.randn(2, 4, 4, 8, generator=generator),
            "target": torch.randn(2, 4, 4, 8, generator=generator),
            "noisy_latents": torch.randn(2, 4, 4, 8, generator=generator),
            "timesteps": torch.tensor([10, 900]),
            "base": SimpleNamespace(scheduler=scheduler()),
            "attention_maps": [],
            "sample_weights": torch.tensor([0.5, 2.0]),
            **parts,
        }
    )


def build(**configs):
    return {objective.name: objective for objective in build_objectives(ObjectivesConfig(**configs))}


def test_only_the_diffusion_loss_is_on_by_default():
    assert list(build()) == ["diffusion"]
    assert {*OBJECTIVES} == {"diffusion", "localization", "face_region", "identity", "text_consistency", "routing"}


def test_the_diffusion_loss_is_the_weighted_mean_square():
    given = seen()
    rows = [((given.prediction[row] - given.target[row]) ** 2).mean() for row in range(2)]
    assert build()["diffusion"](given) == pytest.approx(float(0.5 * rows[0] + 2 * rows[1]) / 2)


def test_min_snr_weights_are_those_of_the_paper():
    times = torch.tensor([0, 200, 999])
    kept = scheduler().alphas_cumprod[times]
    ratios = (kept / (1 - kept)).tolist()
    assert min_snr_weights(scheduler(), times, None).tolist() == [1, 1, 1]
    expected = [min(ratio, 5) / ratio for ratio in ratios]
    assert min_snr_weights(scheduler(), times, 5.0).tolist() == pytest.approx(expected)
    expected = [min(ratio, 5) / (ratio + 1) for ratio in ratios]
    assert min_snr_weights(scheduler("v_prediction"), times, 5.0).tolist() == pytest.approx(expected)
    assert min_snr_weights(scheduler(), times, 5.0)[0] < 0.01
    assert min_snr_weights(scheduler(), times, 5.0)[2] == 1


def test_rising_noise_levels_are_drawn_the_more_often_the_higher_they_are():
    drawn = torch.linspace(0, 1 - 2**-24, 100_001)
    assert torch.equal(sample_timesteps(drawn, "uniform"), drawn)
    rising = sample_timesteps(drawn, "linear")
    assert rising.min() == 0
    assert rising.max() < 1
    counts = torch.histc(rising, bins=10, min=0, max=1) / len(drawn)
    assert counts.tolist() == pytest.approx([(2 * tenth + 1) / 100 for tenth in range(10)], abs=1e-3)


def test_the_face_region_counts_face_places_only():
    given = seen()
    objective = build(face_region=FaceRegionConfig(weight=0.5))["face_region"]
    error = (given.prediction - given.target) ** 2
    expected = (0.5 * error[0, :, :2].mean() + 2 * error[1, :, :2].mean()) / 2
    assert objective(given) == pytest.approx(float(expected))
    given.prediction[:, :, 2:] += 100
    assert objective(given) == pytest.approx(float(expected))


def test_text_consistency_asks_outside_of_the_faces_for_what_the_base_makes_of_the_words():
    given = seen()
    given.base_prediction = torch.randn(2, 4, 4, 8)
    objective = build(text_consistency=TextConsistencyConfig(weight=1.0))["text_consistency"]
    error = (given.prediction - given.base_prediction) ** 2
    expected = (0.5 * error[0, :, 2:].mean() + 2 * error[1, :, 2:].mean()) / 2
    assert objective(given) == pytest.approx(float(expected))
    given.prediction[:, :, :2] += 100
    given.target += 100
    assert objective(given) == pytest.approx(float(expected))


def test_text_consistency_asks_inside_as_much_as_it_is_told():
    given = seen()
    given.base_prediction = torch.randn(2, 4, 4, 8)
    config = TextConsistencyConfig(weight=1.0, inside=0.25)
    error = ((given.prediction - given.base_prediction) ** 2).mean(dim=1)
    weights = torch.ones(4, 8)
    weights[:2] = 0.25
    expected = [(error[row] * weights).sum() / weights.sum() for row in range(2)]
    found = build(text_consistency=config)["text_consistency"](given)
    assert found == pytest.approx(float(0.5 * expected[0] + 2 * expected[1]) / 2)


def test_text_consistency_leaves_whole_people_out_where_it_is_told_and_asks_everywhere_where_nobody_is():
    given = seen(drop_identity=torch.tensor([[True, True], [True, False]]))
    given.base_prediction = torch.zeros_like(given.prediction)
    found = build(text_consistency=TextConsistencyConfig(weight=1.0, region="persons"))["text_consistency"](given)
    rows = [(given.prediction[0] ** 2).mean(), (given.prediction[1, :, :, :4] ** 2).mean()]
    assert found == pytest.approx(float(0.5 * rows[0] + 2 * rows[1]) / 2)


def test_what_text_consistency_compares_with_is_computed_only_for_it():
    calls = []

    class Model:
        def words_alone(self, batch, noisy, timesteps):
            calls.append("base")
            return torch.zeros(2, 4, 4, 8)

        def __call__(self, batch, noisy, timesteps):
            calls.append("student")
            return torch.ones(2, 4, 4, 8), []

    given = seen()
    given.batch.latents, given.batch.noise, given.batch.levels = *torch.randn(2, 2, 4, 4, 8), torch.tensor([0.1, 0.9])
    for config, expected in (
        ({}, ["student"]),
        ({"text_consistency": TextConsistencyConfig(weight=1.0)}, ["base", "student"]),
    ):
        calls.clear()
        compute_losses(Model(), given.batch, given.base, list(build(**config).values()), DiffusionConfig())
        assert calls == expected


def test_routing_is_the_squared_error_of_people_and_background():
    given = seen()
    routes = torch.rand(2, 3, 32).softmax(dim=1)
    given.attention_maps = [AttentionMaps(), AttentionMaps(routes=routes)]
    wanted = torch.cat([given.batch.masks, 1 - given.batch.masks.sum(dim=1, keepdim=True)], dim=1).flatten(2)
    objective = build(routing=RoutingConfig(weight=0.1))["routing"]
    assert objective(given) == pytest.approx(float(((routes - wanted) ** 2).mean()))
    given.attention_maps = [AttentionMaps(routes=wanted)]
    assert objective(given) == 0


def test_a_sample_without_a_face_is_not_routed():
    given = seen(drop_identity=torch.tensor([[False, True], [False, False]]))
    routes = torch.rand(2, 3, 32).softmax(dim=1)
    given.attention_maps = [AttentionMaps(routes=routes)]
    error = (routes[1] - routes_of(given.batch.masks.flatten(2))[1]) ** 2
    assert build(routing=RoutingConfig(weight=0.1))["routing"](given) == pytest.approx(float(error.mean()))


def test_people_who_overlap_share_a_position_and_leave_no_background():
    routes = routes_of(torch.tensor([[[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]]]))
    assert routes.tolist() == [[[0.5, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.5, 1.0]]]


def test_routing_without_a_router_s_maps_is_refused():
    given = seen()
    with refused("routing-without-layers", "dual.train"):
        build(routing=RoutingConfig(weight=0.1))["routing"](given)


def test_a_margin_takes_in_what_is_around_a_face():
    given = seen()
    error = (given.prediction - given.target) ** 2
    objective = build(face_region=FaceRegionConfig(weight=0.5, margin=1))["face_region"]
    assert objective(given) == pytest.approx(float(0.5 * error[0, :, :3].mean() + 2 * error[1, :, :3].mean()) / 2)


def test_a_dropped_face_has_no_face_region():
    given = seen(drop_identity=torch.tensor([[True, False], [True, True]]))
    objective = build(face_region=FaceRegionConfig(weight=0.5))["face_region"]
    error = (given.prediction - given.target) ** 2
    assert objective(given) == pytest.approx(float(0.5 * error[0, :, :2, 4:].mean() / 2))


def left_right(left, right):
    """A map [1, 1, 32] of 4 x 8 places."""
    return torch.cat([torch.full((4, 4), left), torch.full((4, 4), right)], dim=1).reshape(1, 1, 32)


def test_the_share_of_a_face_is_0_where_it_belongs_half_when_indifferent_1_on_the_other():
    masks = torch.cat([left_right(1.0, 0.0), left_right(0.0, 1.0)], dim=1)
    for (left, right), share in (((3.0, 0.0), 0), ((2.0, 2.0), 0.5), ((0.0, 1.0), 1), ((3.0, 1.0), 0.25)):
        maps = torch.cat([left_right(left, right), left_right(right, left)], dim=1)
        assert face_leakage(maps, masks).tolist() == [pytest.approx([share, share])]


def test_the_rest_of_the_picture_is_free_for_a_face():
    masks = torch.zeros(1, 2, 4)
    masks[0, 0, 0] = masks[0, 1, 1] = 1
    maps = torch.tensor([[[1.0, 0, 9, 9], [0, 1.0, 9, 9]]])
    assert face_leakage(maps, masks).tolist() == [[0, 0]]


def test_where_people_overlap_nobody_is_the_other():
    masks = torch.tensor([[[1.0, 1, 0], [0, 1, 1]]])
    maps = torch.tensor([[[1.0, 5, 0], [0, 5, 1]]])
    assert face_leakage(maps, masks).tolist() == [[0, 0]]


def test_words_are_balanced_as_outside_minus_inside():
    masks = left_right(1.0, 0.0)
    assert word_balance(left_right(0.7, 0.1), masks).item() == pytest.approx(0.1 - 0.7)


def test_localisation_is_the_mean_over_layers_persons_and_rows_with_a_face():
    masks_side = torch.cat([left_right(1.0, 0.0), left_right(0.0, 1.0)], dim=1).repeat(2, 1, 1)
    indifferent = torch.ones(2, 2, 8)  # a layer of half the size
    given = seen(
        attention_maps=[
            AttentionMaps(faces=masks_side),
            AttentionMaps(faces=indifferent),
            AttentionMaps(words=masks_side.clone()),
        ]
    )
    found = build(localization=LocalizationConfig(weight=0.1, word_weight=0.2))
    assert found["localization"].weight == 0.1
    assert found["localization"](given) == pytest.approx(0.25)
    assert found["localization_words"](given) == pytest.approx(-1)
    given.batch.drop_face_tokens[0] = True
    given.attention_maps[0].faces[0] = given.attention_maps[1].faces[0] = (
        7.0  # a row without face tokens says nothing of them
    )
    assert found["localization"](given) == pytest.approx(0.25)
    assert found["localization_words"](given) == pytest.approx(-1)  # its words are mapped all the same
    given.batch.drop_identity[0] = True
    given.attention_maps[2].words[0] = 7.0
    assert found["localization_words"](given) == pytest.approx(-1)


def test_words_of_nobody_count_nothing():
    given = seen(
        subject_token_index=torch.zeros(0, 4, dtype=torch.long),
        attention_maps=[AttentionMaps(words=torch.ones(2, 2, 32))],
    )
    assert build(localization=LocalizationConfig(word_weight=1.0))["localization_words"](given) == 0


def test_layers_too_coarse_for_the_pictures_are_said_to_be():
    with refused("no-layer-large-enough", "min_layer_size", "64 x 32 px"):
        build(localization=LocalizationConfig(weight=1.0))["localization"](seen())


def test_an_objective_without_its_data_is_refused_before_training(tmp_path):
    path = make_shards(tmp_path / "shards", samples=1)
    folder = open_dataset(str(path))
    entry = next(folder.read(0))
    tensors = {name: value for name, value in load(entry[3]).items() if not name.startswith("mask")}
    folder.read = lambda shard: iter([(*entry[:3], save(tensors))])
    check_data(build_objectives(ObjectivesConfig(face_region=FaceRegionConfig(weight=1.0))), [folder])
    objectives = build_objectives(ObjectivesConfig(localization=LocalizationConfig(weight=1.0)))
    with refused("sample-without-a-tensor", "localization", "mask_1 and mask_2", "sample 00000000"):
        check_data(objectives, [folder])


def test_weights_below_zero_are_refused():
    with refused("setting-out-of-range", "objectives.localization.weight is -1"):
        LocalizationConfig(weight=-1)
    with refused("setting-out-of-range", "min_snr_gamma is 0"):
        DiffusionConfig(min_snr_gamma=0)
