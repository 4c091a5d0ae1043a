"""Person masks, tiles and precision: the right place, whatever piece of the picture is being drawn."""

import pytest
import torch
import torch.nn.functional as F
from dhd_pack.dhumandiff.conditioning.masks import stack_masks
from dhd_pack.dhumandiff.methods.paired.attention import KVCache
from dhd_pack.dhumandiff.methods.paired.settings import CascadeSettings
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people
from support import tiny_comfy
from support.refused import refused
from support.sampling import guider, left_and_right, predict, sample, sigma_at, tiled

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)


@pytest.fixture
def weights(monkeypatch):
    """Every call's weights by layer: (query's rows, weights)."""
    seen = []
    real = KVCache.attend

    def spy(ready, query, weights):
        seen.append((query.shape, weights.expand(query.shape[0], -1, -1)))
        return real(ready, query, weights)

    monkeypatch.setattr(KVCache, "attend", spy)
    return seen


@pytest.mark.parametrize("latent", [(24, 16), (16, 24), (13, 17), (15, 9)], ids=str)
@pytest.mark.parametrize("scale", [8, 1], ids=["pixels", "latent pixels"])
def test_each_person_counts_only_inside_their_mask(model, adapter, people, weights, latent, scale):
    left, right = left_and_right(latent[0] * scale, latent[1] * scale)
    patched = apply_people(model, adapter, people, 0.8, masks=(left, right))
    predict(guider(patched, POSITIVE, NEGATIVE), torch.randn(2, 4, *latent) * 10, sigma_at(model, 500))
    halved = [((latent[0] + n - 1) // n, (latent[1] + n - 1) // n) for n in (2, 4)]
    shapes = {height * width: (height, width) for height, width in halved}
    assert {shape[1] for shape, _ in weights} == set(shapes)
    for shape, given in weights:
        assert given.shape == (shape[0], 2, shape[1])
        first, second = given[0].reshape(2, *shapes[shape[1]])
        assert first[:, 0] == pytest.approx(0.8)  # the left edge is person 1's alone
        assert second[:, 0] == pytest.approx(0.0)
        assert second[:, -1] == pytest.approx(0.8)
        assert (first + second).flatten().tolist() == pytest.approx([0.8] * shape[1], abs=1e-5)


def test_a_person_without_a_mask_may_be_anywhere(model, adapter, people, weights):
    left, _ = left_and_right(16, 16)
    patched = apply_people(model, adapter, people, masks=(left, None))
    predict(guider(patched, POSITIVE, NEGATIVE), torch.randn(1, 4, 16, 16) * 10, sigma_at(model, 500))
    assert all((given[:, 1] == 1).all() for _, given in weights)


def test_an_area_prompt_gets_its_piece_of_the_masks(model, adapter, people, weights):
    left, right = left_and_right(16, 16)
    area = [[POSITIVE[0][0], {**POSITIVE[0][1], "area": (8, 8, 4, 8), "strength": 1.0}]]  # right half of the picture
    patched = apply_people(model, adapter, people, masks=(left, right))
    predict(guider(patched, [*POSITIVE, *area], NEGATIVE), torch.randn(1, 4, 16, 16) * 10, sigma_at(model, 500))
    cropped = [given for shape, given in weights if shape[1] == 4]  # 8 x 8 at a quarter; the whole has 16 there
    assert cropped
    for given in cropped:
        assert (given[:, 0] == 0).all()
        assert (given[:, 1] == 1).all()


def test_each_picture_of_a_batch_may_have_masks_of_its_own(model, adapter, people, weights):
    left, right = left_and_right(16, 16)
    patched = apply_people(model, adapter, people, masks=(torch.cat([left, right]), torch.cat([right, left])))
    predict(guider(patched, POSITIVE, NEGATIVE), torch.randn(2, 4, 16, 16) * 10, sigma_at(model, 500))
    for _, given in weights:  # rows: chunk-major, [negative 1, negative 2, positive 1, positive 2] or the reverse
        assert torch.equal(given[0], given[1].flip(0))
        assert torch.equal(given[0], given[2])


# --- tiles ----------------------------------------------------------------------------------------------------------


def test_tiles_in_one_batch_give_what_single_tiles_give(model, adapter, people):
    masks = left_and_right(16, 16)
    patched = apply_people(model, adapter, people, masks=masks)
    picture, sigma = torch.randn(1, 4, 16, 16) * 10, sigma_at(model, 500)
    single, together = (
        predict(guider(tiled(patched, way), POSITIVE, NEGATIVE), picture, sigma) for way in (False, True)
    )
    assert (single - together).abs().max() / sigma < 1e-3


def test_each_tile_gets_its_piece_of_the_masks(model, adapter, people, weights):
    patched = tiled(apply_people(model, adapter, people, masks=left_and_right(16, 16)), batched=False)
    predict(guider(patched, POSITIVE, NEGATIVE), torch.randn(1, 4, 16, 16) * 10, sigma_at(model, 500))
    first = [given for _, given in weights[:17]]
    last = [given for _, given in weights[-17:]]
    assert all((given[:, 0] == 1).all() and (given[:, 1] == 0).all() for given in first)
    assert all((given[:, 0] == 0).all() and (given[:, 1] == 1).all() for given in last)


def cascade(patched, mode):
    made = CascadeGuider(patched)
    made.set_cascade(CascadeSettings(mode))
    made.set_conds(POSITIVE, NEGATIVE)
    made.set_cfg(5.0)
    return made


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_the_cascade_runs_on_tiles_or_says_what_to_choose(model, adapter, people, batched, mode):
    made = cascade(tiled(apply_people(model, adapter, people), batched), mode)
    if mode == "released":
        with refused("released-without-mask", "two_strength"):
            sample(made, (1, 4, 16, 16))
    else:
        assert torch.isfinite(sample(made, (1, 4, 16, 16))).all()
        assert made.focus.shape == (1, 16, 16)


def blurred(apply_model, args):
    """A pack whose pieces are found nowhere in the picture."""
    piece = F.avg_pool2d(args["input"], 2)
    return F.interpolate(apply_model(piece, args["timestep"], **args["c"]), scale_factor=2)


def test_one_pass_says_what_to_choose_where_its_focus_cannot_be_laid(model, adapter, people):
    patched = apply_people(model, adapter, people)
    patched.set_model_unet_function_wrapper(blurred)
    for mode in ("two_strength", "one_pass"):
        made = cascade(patched, mode)
        if mode == "one_pass":
            with refused("unknown-tiles", "where the focus belongs", "two_strength"):
                sample(made, (1, 4, 16, 16))
        else:
            assert torch.isfinite(sample(made, (1, 4, 16, 16))).all()


def test_tiles_that_cannot_be_found_again_are_refused_with_masks_only(model, adapter, people):
    masks = left_and_right(16, 16)
    for given in ((), masks):
        patched = apply_people(model, adapter, people, masks=given)
        patched.set_model_unet_function_wrapper(blurred)
        run = guider(patched, POSITIVE, NEGATIVE)
        if given:
            with refused("unknown-tiles", "leave the masks out"):
                sample(run, (1, 4, 16, 16))
        else:
            assert torch.isfinite(sample(run, (1, 4, 16, 16))).all()


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_stays_near_single_precision(adapter, people, dtype, tolerance):
    # Relative to the size of the prediction; bf16 keeps 8 bits, fp16 11.
    picture = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * 10
    full, half = (tiny_comfy.model_patcher(dtype=d) for d in (torch.float32, dtype))
    sigma = sigma_at(full, 500)
    masks = left_and_right(16, 16)
    exact, near = (
        predict(guider(apply_people(m, adapter, people, masks=masks), POSITIVE, NEGATIVE), picture, sigma)
        for m in (full, half)
    )
    assert (exact - near).abs().max() / exact.abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_in_half_precision_stays_so_and_works(model, people, dtype):
    import comfy.ops
    import dhd_pack.dhumandiff.testing as tiny
    from dhd_pack.dhumandiff.methods.paired.adapter import Adapter

    plain = tiny.tiny_adapter()
    tensors = {name: tensor.to(dtype) for name, tensor in plain.state_dict().items()}
    small = Adapter.from_tensors(tensors, plain.info.metadata, operations=comfy.ops.manual_cast)
    small.compute_dtype = torch.float32
    patcher = tiny_comfy.adapter_patcher(adapter=small)
    picture, sigma = torch.randn(1, 4, 16, 16) * 10, sigma_at(model, 500)
    near = predict(guider(apply_people(model, patcher, people), POSITIVE, NEGATIVE), picture, sigma)
    exact = predict(
        guider(apply_people(model, tiny_comfy.adapter_patcher(), people), POSITIVE, NEGATIVE), picture, sigma
    )
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert (exact - near).abs().max() / exact.abs().max() < 0.05


# --- bad masks ------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_shape_is_refused(model, adapter, people):
    patched = apply_people(model, adapter, people, masks=(torch.ones(1, 64, 128), None))
    with refused("mask-of-another-shape", "128 x 64", "128 x 128"):
        sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 16), steps=1)


def test_a_wrong_number_of_masks_is_refused(model, adapter, people):
    patched = apply_people(model, adapter, people, masks=(torch.ones(3, 64, 64), None))
    with refused("mask-count", "3 person masks for 2"):
        sample(guider(patched, POSITIVE, NEGATIVE), (2, 4, 16, 16), steps=1)


def test_masks_of_two_sizes_are_refused():
    with refused("masks-differ", "64 x 64, 1 of 32 x 32"):
        stack_masks([torch.ones(1, 64, 64), torch.ones(1, 32, 32)])


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        (torch.ones(1, 64, 64, 3), "no-mask"),
        (torch.full((1, 64, 64), float("nan")), "mask-values"),
        (torch.full((1, 64, 64), 255.0), "mask-values"),
    ],
)
def test_a_mask_that_is_none_is_refused_by_person(mask, code):
    with refused(code, "mask of person 2"):
        stack_masks([None, mask])


def test_a_mask_with_a_channel_is_taken(model):
    assert stack_masks([torch.ones(1, 1, 64, 64), None]).shape == (2, 1, 64, 64)


def test_pictures_that_share_their_noise_get_their_own_masks_in_tiles(model, adapter, people, weights):
    left, right = left_and_right(16, 16)
    patched = tiled(
        apply_people(model, adapter, people, masks=(torch.cat([left, right]), torch.cat([right, left]))), batched=False
    )
    picture = torch.randn(1, 4, 16, 16).repeat(2, 1, 1, 1) * 10
    predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma_at(model, 500))
    for _, given in weights[:17]:  # the first tile, rows [negative 1, negative 2, positive 1, positive 2]
        assert (given[0, 0] == 1).all()
        assert (given[1, 0] == 0).all()


def test_flat_tiles_are_refused_rather_than_given_somebody_s_mask(model, adapter, people):
    patched = tiled(apply_people(model, adapter, people, masks=left_and_right(16, 16)), batched=False)
    with refused("unknown-tiles"):
        predict(guider(patched, POSITIVE, NEGATIVE), torch.ones(1, 4, 16, 16), sigma_at(model, 500))
