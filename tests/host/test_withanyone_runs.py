"""WithAnyone while ComfyUI samples: who reads whom, beside what else is done to a model, and what a run leaves behind."""

import gc
import resource

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from dhd_pack.dhumandiff.methods.withanyone import WithAnyone
from dhd_pack.nodes.comfy.flux import FluxBlockPatch, flux_people_of
from dhd_pack.nodes.comfy.flux_patch import apply_withanyone
from dhd_pack.nodes.comfy.withanyone import sampling_parts
from support import tiny_flux, tiny_withanyone
from support.refused import refused
from support.sampling import guider, predict, sample

POSITIVE, NEGATIVE = tiny_flux.conditioning(1), tiny_flux.conditioning(2, tokens=31)
PEOPLE = [tiny_withanyone.person(seed) for seed in (1, 2)]
BOXES = tiny_withanyone.BOXES["overlapping"][:2]
SIGMA = torch.tensor(0.7)


@pytest.fixture(scope="module")
def flux():
    return tiny_flux.model_patcher()


@pytest.fixture(scope="module")
def weights():
    return tiny_withanyone.adapter()


@pytest.fixture
def patched(flux, weights):
    return apply_withanyone(flux, weights, PEOPLE, boxes=tiny_withanyone.bounding_boxes(BOXES))


def run(model, positive=POSITIVE, negative=None, cfg=1.0, picture=None):
    return predict(guider(model, positive, negative, cfg), tiny_flux.picture() if picture is None else picture, SIGMA)


def close(one, other, tolerance=2e-5):
    assert (one - other).abs().max() < tolerance


# --- who reads whom -------------------------------------------------------------------------------------------------


def test_the_negative_never_reads_a_person(flux, patched):
    with_people, without = run(patched), run(flux, NEGATIVE)
    close(run(patched, NEGATIVE, POSITIVE, cfg=0.0), run(flux, POSITIVE))
    for cfg in (0.0, 3.5):
        close(run(patched, POSITIVE, NEGATIVE, cfg), without + cfg * (with_people - without), 1e-4)


def test_with_three_conditionings_only_the_positive_reads_people(flux, patched):
    """DualCFG lists the negative first."""
    style = tiny_flux.conditioning(4)
    made = Guider_DualCFG(patched)
    made.set_conds(POSITIVE, style, NEGATIVE)
    made.set_cfg(3.0, 2.0)
    plain = Guider_DualCFG(flux)
    plain.set_conds(POSITIVE, style, NEGATIVE)
    plain.set_cfg(3.0, 2.0)
    moved = predict(made, tiny_flux.picture(), SIGMA) - predict(plain, tiny_flux.picture(), SIGMA)
    alone = run(patched, POSITIVE) - run(flux, POSITIVE)
    close(moved, 3.0 * alone, 1e-4)


def test_every_picture_of_a_batch_gets_everybody(flux, patched, weights):
    pictures = tiny_flux.picture(images=3)
    together = run(patched, POSITIVE, NEGATIVE, 2.0, pictures)
    for image, picture in enumerate(pictures.split(1)):
        close(together[image : image + 1], run(patched, POSITIVE, NEGATIVE, 2.0, picture), 1e-4)


def test_masks_may_differ_from_picture_to_picture(flux, weights):
    masks = [torch.zeros(2, 192, 160) for _ in PEOPLE]
    for person, mask in enumerate(masks):
        mask[0, 16:112, 16 + 64 * person : 64 + 64 * person] = 1
        mask[1, 64:176, 64 - 64 * person : 128 - 64 * person] = 1
    pictures = tiny_flux.picture(images=2)
    together = run(apply_withanyone(flux, weights, PEOPLE, masks=masks), picture=pictures)
    for image in (0, 1):
        own = apply_withanyone(flux, weights, PEOPLE, masks=[mask[image : image + 1] for mask in masks])
        close(together[image : image + 1], run(own, picture=pictures[image : image + 1]))


def test_an_area_of_the_prompt_gets_the_people_who_are_there(flux, weights):
    """The second prompt has the lower half, and is called with half a picture."""
    seen = []

    def watch(executor, x, *args, **kwargs):
        seen.append(tuple(x.shape[-2:]))
        return executor(x, *args, **kwargs)

    low = [[POSITIVE[0][0], {**POSITIVE[0][1], "area": (12, 20, 12, 0)}]]
    boxes = [(16, 16, 80, 80), (64, 112, 144, 176)]
    whole = apply_withanyone(flux, weights, PEOPLE, boxes=tiny_withanyone.bounding_boxes(boxes))
    whole.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    picture = tiny_flux.picture()
    got = run(whole, [*NEGATIVE, *low], picture=picture)
    assert (12, 20) in seen
    of_half = tiny_withanyone.bounding_boxes([(64, 16, 144, 80)])
    second_alone = apply_withanyone(flux, weights, PEOPLE[1:], boxes=of_half)
    plain = run(flux, [*NEGATIVE, *low], picture=picture)
    lower = run(second_alone, picture=picture[:, :, 12:]) - run(flux, picture=picture[:, :, 12:])
    assert lower.abs().max() > 0.02
    upper_only = run(whole, NEGATIVE, picture=picture) - run(flux, NEGATIVE, picture=picture)
    # Both prompts count by half, but for the first eight rows of the area, which fade in.
    close(2 * (got - plain)[:, :, 20:], upper_only[:, :, 20:] + lower[:, :, 8:], 1e-4)


def in_pieces(model, dim, at):
    """The model with another node that predicts two pieces of the picture, or of the batch, one after the other."""

    def split(executor, inner, conds, x, timestep, options):
        sizes = (at, x.shape[dim] - at)
        parts = [
            executor(inner, conds, part, timestep if dim else timestep[: len(part)], options)
            for part in x.split(sizes, dim)
        ]
        return [torch.cat(pieces, dim) for pieces in zip(*parts, strict=True)]

    cut = model.clone()
    cut.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "split", split)
    return cut


def test_tiles_and_parts_of_a_batch_get_the_people_who_are_there(flux, weights):
    picture = tiny_flux.picture(images=3)
    across = [(16, 16, 80, 80), (64, 112, 144, 176)]
    patched = apply_withanyone(flux, weights, PEOPLE, boxes=tiny_withanyone.bounding_boxes(across))
    close(run(in_pieces(patched, 0, 2), picture=picture), run(patched, picture=picture))
    tiled = run(in_pieces(patched, 2, 10), picture=picture[:1])
    for person, (rows, top) in enumerate(((slice(0, 10), 0), (slice(10, 24), 80))):
        x0, y0, x1, y1 = across[person]
        box = tiny_withanyone.bounding_boxes([(x0, y0 - top, x1, y1 - top)])
        alone = apply_withanyone(flux, weights, PEOPLE[person : person + 1], boxes=box)
        close(tiled[:, :, rows], run(alone, picture=picture[:1, :, rows]))


def test_boxes_follow_the_picture_s_size(flux, weights):
    """As in a second pass over a larger picture."""
    drawn_on = tiny_withanyone.bounding_boxes(BOXES, (160, 192))
    doubled = [tuple(2 * edge for edge in box) for box in BOXES]
    large = tiny_flux.picture(48, 40)
    scaled = run(apply_withanyone(flux, weights, PEOPLE, boxes=drawn_on), picture=large)
    close(
        scaled,
        run(apply_withanyone(flux, weights, PEOPLE, boxes=tiny_withanyone.bounding_boxes(doubled)), picture=large),
    )
    with refused("withanyone-boxes-of-another-shape", "160 x 192", "320 x 192"):
        run(apply_withanyone(flux, weights, PEOPLE, boxes=drawn_on), picture=tiny_flux.picture(24, 40))


def test_start_and_end_are_shares_of_sampling(flux, weights):
    boxes = tiny_withanyone.bounding_boxes(BOXES)
    plain, whole = run(flux), run(apply_withanyone(flux, weights, PEOPLE, boxes=boxes))
    middle = float(flux.get_model_object("model_sampling").percent_to_sigma(0.5))
    assert middle > 0.7
    assert torch.equal(run(apply_withanyone(flux, weights, PEOPLE, boxes=boxes, end=0.5)), plain)
    assert torch.equal(run(apply_withanyone(flux, weights, PEOPLE, boxes=boxes, start=0.5)), whole)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "heun"])
def test_whole_runs_with_any_sampler(patched, sampler):
    out = sample(guider(patched, POSITIVE, cfg=1.0), (1, 16, 24, 20), 3, sampler=sampler, scheduler="simple")
    assert torch.isfinite(out).all()


def test_inpainting_leaves_what_is_not_masked(flux, patched):
    latent, mask = tiny_flux.picture(seed=8), torch.zeros(1, 1, 24, 20)
    mask[..., 4:12, 4:16] = 1
    model = guider(patched, POSITIVE, cfg=1.0)
    out = sample(model, (1, 16, 24, 20), 3, scheduler="simple", latent=latent, denoise_mask=mask)
    kept = (mask == 0).expand_as(latent)
    close(out[kept], latent[kept], 1e-4)
    plain = guider(flux, POSITIVE, cfg=1.0)
    assert not torch.allclose(
        out, sample(plain, (1, 16, 24, 20), 3, scheduler="simple", latent=latent, denoise_mask=mask)
    )


# --- beside other nodes ---------------------------------------------------------------------------------------------


class Adding:
    """A block patch that adds something and asks whatever stood there before."""

    def __init__(self, previous=None):
        self.previous = previous

    def __call__(self, args, extra):
        out = extra["original_block"](args) if self.previous is None else self.previous(args, extra)
        return {**out, "img": out["img"] * 1.01}


def with_adding(model, numbers=(0, 1)):
    added = model.clone()
    present = added.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
    for kind in ("double_block", "single_block"):
        for number in numbers:
            added.set_model_patch_replace(Adding(present.get((kind, number))), "dit", kind, number)
    return added


def test_another_block_patch_works_before_and_after(flux, weights, patched):
    before = run(apply_withanyone(with_adding(flux), weights, PEOPLE, boxes=tiny_withanyone.bounding_boxes(BOXES)))
    after = run(with_adding(patched))
    for made in (before, after):
        for other in (run(patched), run(with_adding(flux))):
            assert (made - other).abs().max() > 0.01
    close(before, after, 0.01)  # the residual is read before or after that factor


def test_a_patch_that_overwrites_the_people_is_noticed(patched):
    for number in (0, 2):
        patched.set_model_patch_replace(Adding(), "dit", "single_block", number)
    with refused("withanyone-replaced", "2 of 5 blocks"):
        run(patched)


def test_blocks_that_another_node_passes_over_are_noticed(patched):
    def skips(executor, *args, **kwargs):
        *args, options = args
        return executor(*args, {name: value for name, value in options.items() if name != "patches_replace"}, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "skips", skips)
    with refused("withanyone-passed-over", "5 of 5 blocks"):
        run(patched)


def test_a_clone_and_the_model_that_was_given_stay_as_they_were(flux, weights, patched):
    before = run(patched)
    other = apply_withanyone(
        patched.clone(), weights, [tiny_withanyone.person(7)], boxes=tiny_withanyone.bounding_boxes(BOXES[:1])
    )
    assert len(flux_people_of(other)) == 2
    assert (run(other) - before).abs().max() > 0.01
    assert torch.equal(run(patched), before)
    assert "patches_replace" not in flux.model_options["transformer_options"]


class Documented(dict):
    """What a block is called with; anything but the documented entries is a failure."""

    def __init__(self, entries, allowed):
        super().__init__(entries)
        self.allowed = allowed

    def __getitem__(self, name):
        assert name in self.allowed, name
        return super().__getitem__(name)

    def get(self, name, default=None):
        assert name in self.allowed, name
        return super().get(name, default)

    def _no(self, *_):
        raise AssertionError("looked through")

    items = values = keys = copy = pop = _no


def test_only_documented_entries_are_read(monkeypatch, patched):
    """Of the arguments and of transformer_options; the block itself gets both as they are."""
    real, called = FluxBlockPatch.__call__, []

    def watched(self, args, extra):
        options = Documented(args["transformer_options"], {"img_slice", "dhumandiff_call"})
        given = Documented({**args, "transformer_options": options}, {"img", "txt", "transformer_options"})
        block = Documented({"original_block": lambda _: extra["original_block"](args)}, {"original_block"})
        called.append(self.block)
        return real(self, given, block)

    monkeypatch.setattr(FluxBlockPatch, "__call__", watched)
    run(patched, POSITIVE, NEGATIVE, 2.0)
    assert set(called) == set(range(5))


def test_a_compiled_model_is_refused(patched):
    patched.add_object_patch(
        "diffusion_model.double_blocks.0",
        torch.compile(patched.model.diffusion_model.double_blocks[0], backend="eager"),
    )
    with refused("withanyone-compiled", "TorchCompileModel"):
        run(patched)


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def test_a_second_picture_of_the_same_people_encodes_nothing(flux, weights, monkeypatch):
    made = []
    for name in ("keys_values", "arc_tokens", "sig_tokens"):
        real = getattr(WithAnyone, name)
        monkeypatch.setattr(
            WithAnyone, name, lambda self, *args, real=real, name=name: made.append(name) or real(self, *args)
        )
    people = [tiny_withanyone.person(seed) for seed in (5, 6)]
    patched = apply_withanyone(flux, weights, people, boxes=tiny_withanyone.bounding_boxes(BOXES))
    assert sorted(set(made)) == ["arc_tokens", "keys_values", "sig_tokens"]
    assert made.count("keys_values") == 10  # a branch and block
    made.clear()
    for _ in range(2):
        sample(guider(patched, POSITIVE, cfg=1.0), (1, 16, 24, 20), 2, scheduler="simple")
    moved = tiny_withanyone.bounding_boxes(BOXES[::-1])
    sample(guider(apply_withanyone(flux, weights, people, 0.3, boxes=moved), POSITIVE, cfg=1.0), (1, 16, 24, 20), 2)
    assert made == []
    apply_withanyone(flux, weights, people[::-1], boxes=moved)
    assert made


def test_while_sampling_only_the_weights_that_are_needed_are_loaded(flux):
    weights = tiny_withanyone.adapter()
    patched = apply_withanyone(flux, weights, PEOPLE, boxes=tiny_withanyone.bounding_boxes(BOXES))
    comfy.model_management.unload_all_models()
    run(patched)
    loaded = [entry.model.model for entry in comfy.model_management.current_loaded_models]
    arc, sig = sampling_parts(weights, ("arc", "sig"))
    assert arc.model in loaded
    assert sig.model in loaded
    assert len(loaded) == 3  # and FLUX
    width, inner = tiny_flux.WIDTH, 128
    assert arc.model_size() == sig.model_size() == 4 * 5 * (2 * width * inner + 2 * width)
    comfy.model_management.unload_all_models()


def test_of_the_weights_only_branches_that_count_are_loaded_while_sampling(flux):
    weights = tiny_withanyone.adapter()
    patched = apply_withanyone(flux, weights, PEOPLE, form=0.0, boxes=tiny_withanyone.bounding_boxes(BOXES))
    comfy.model_management.unload_all_models()
    run(patched)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert sampling_parts(weights, ("arc",))[0] in loaded
    assert len(loaded) == 2
    comfy.model_management.unload_all_models()


def test_an_interrupted_run_leaves_everything_clean(patched):
    whole = sample(guider(patched, POSITIVE, cfg=1.0), (1, 16, 24, 20), 3, scheduler="simple")

    def interrupt(step, *_):
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(guider(patched, POSITIVE, cfg=1.0), (1, 16, 24, 20), 3, scheduler="simple", callback=interrupt)
    [applied] = flux_people_of(patched)
    assert applied.people._kv == applied.people._regions == {}
    assert torch.equal(sample(guider(patched, POSITIVE, cfg=1.0), (1, 16, 24, 20), 3, scheduler="simple"), whole)


@pytest.mark.slow
def test_memory_stays_flat_over_fifty_runs(flux, weights):
    """What lives in tensors is the same after the second run and after the fiftieth; the process hardly grows."""

    def tensors():
        gc.collect()
        return sum(o.numel() * o.element_size() for o in gc.get_objects() if issubclass(type(o), torch.Tensor))

    sizes, peaks = [], []
    for number in range(50):
        form, boxes = 0.5 + 0.005 * number, [tuple(edge + number % 3 for edge in box) for box in BOXES]
        patched = apply_withanyone(flux, weights, PEOPLE, form, boxes=tiny_withanyone.bounding_boxes(boxes))
        sample(guider(patched, POSITIVE, cfg=1.0), (1, 16, 24, 20), 2, seed=number, scheduler="simple")
        sizes.append(tensors())
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[-1] == sizes[1]
    assert peaks[-1] - peaks[9] < 20_000  # KB
