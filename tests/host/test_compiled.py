"""A compiled model (TorchCompileModel and nodes like it) draws what it draws uncompiled: people, strengths and masks of now."""

import pytest
import torch
import torch._dynamo
from comfy_api.torch_helpers.torch_compile import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import TorchCompileModel
from dhd_pack.dhumandiff.methods.paired.settings import CascadeSettings
from dhd_pack.nodes.comfy import compiled as compiled_module
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people
from support import tiny_comfy
from support.refused import refused
from support.sampling import guider, sample

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)
LEFT = torch.zeros(1, 16, 16)
LEFT[..., :8] = 1


@pytest.fixture(scope="module", autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def apply(model, adapter, people):
    def apply(strength=1.0, who=people, on=model, **more):
        return apply_people(on, adapter, who, strength, **more)

    return apply


@pytest.fixture(scope="module")
def paired(apply):
    return apply()


def plain(model):
    return guider(model, POSITIVE, NEGATIVE)


def cascade(model, mode="one_pass", scene=0.2, face=1.0):
    made = CascadeGuider(model)
    made.set_cascade(CascadeSettings(mode, scene, face, 0.1))
    made.set_conds(POSITIVE, NEGATIVE)
    made.set_cfg(5.0)
    return made


def by_node(model, backend="eager"):
    """What TorchCompileModel does; `eager` traces as inductor does, and compiles nothing."""
    return TorchCompileModel.execute(model, backend).result[0]


def difference(model, compile_it=by_node, guide=plain, shape=(1, 4, 16, 16)):
    """How far a compiled run is from the same run uncompiled."""
    torch._dynamo.utils.counters.clear()
    one, other = (sample(guide(made), shape, steps=3) for made in (compile_it(model), model))
    assert not torch._dynamo.utils.counters["graph_break"]
    return float((one - other).abs().max())


RUNS = {
    "nobody": (lambda apply, model: model, plain),
    "two people": (lambda apply, model: apply(), plain),
    "nobody again": (lambda apply, model: model, plain),
    "another strength": (lambda apply, model: apply(0.4), plain),
    "other people": (lambda apply, model: apply(who=[tiny_comfy.reference(3), tiny_comfy.reference(4)]), plain),
    "masks": (lambda apply, model: apply(masks=(LEFT, 1 - LEFT)), plain),
    "masks exchanged": (lambda apply, model: apply(masks=(1 - LEFT, LEFT)), plain),
    "only in the middle": (lambda apply, model: apply(start=0.3, end=0.7), plain),
    "one_pass": (lambda apply, model: apply(), cascade),
    "one_pass at other strengths": (lambda apply, model: apply(), lambda made: cascade(made, "one_pass", 0.5, 1.5)),
    "two_strength": (lambda apply, model: apply(), lambda made: cascade(made, "two_strength")),
    "released": (lambda apply, model: apply(), lambda made: cascade(made, "released")),
    "a cascade of their own": (lambda apply, model: apply(cascade=CascadeSettings("one_pass", 0.3, 1.0, 0.1)), plain),
    "two pairs": (lambda apply, model: apply(0.5, on=apply(0.7, who=[tiny_comfy.reference(5)] * 2)), plain),
    "two people again": (lambda apply, model: apply(), plain),
}


ANOTHER_GRAPH = ("two_strength", "two pairs")  # which takes its time to trace


@pytest.mark.parametrize(
    "run", [pytest.param(run, marks=pytest.mark.slow) if run in ANOTHER_GRAPH else run for run in RUNS]
)
def test_each_run_of_one_process_is_drawn_with_its_own_settings(apply, model, run):
    made, guide = RUNS[run]
    assert difference(made(apply, model), guide=guide) < 1e-5


@pytest.mark.slow
def test_another_size_and_number_of_pictures_is_right_too(apply):
    pair = apply(masks=(LEFT, 1 - LEFT))
    assert difference(pair) < 1e-5
    assert difference(pair, shape=(2, 4, 24, 24)) < 1e-5


def whole_graph(model):
    made = model.clone()
    set_torch_compile_wrapper(model=made, backend="eager", fullgraph=True)  # all guards, no graph break allowed
    return made


def object_patch(model):
    made = model.clone()
    made.add_object_patch("diffusion_model", torch.compile(made.get_model_object("diffusion_model"), backend="eager"))
    return made


def parts(model):
    made = model.clone()
    keys = [f"diffusion_model.middle_block.1.transformer_blocks.{number}" for number in (0, 1)]
    set_torch_compile_wrapper(model=made, backend="eager", keys=keys)
    return made


@pytest.mark.parametrize("way", [whole_graph, object_patch, parts])
def test_other_packs_ways_to_compile_are_right_too(apply, model, way):
    for made in (model, apply(), apply(0.4), model):
        assert difference(made, way) < 1e-5


def test_a_part_compiled_in_place_is_right_too(paired):
    unet = paired.get_model_object("diffusion_model")
    expected = sample(cascade(paired), (1, 4, 16, 16), steps=3)
    unet.middle_block.compile(backend="eager")
    try:
        drawn = sample(cascade(paired), (1, 4, 16, 16), steps=3)
    finally:
        unet.middle_block._compiled_call_impl = None
    assert torch.allclose(drawn, expected, atol=1e-5)


def test_a_mistake_in_a_compiled_layer_is_said_as_always(apply):
    pair = by_node(apply(masks=(LEFT, 1 - LEFT)))

    def flat_tiles(apply_model, args):
        options = {**args["c"], "transformer_options": {**args["c"]["transformer_options"]}}
        return apply_model(torch.zeros_like(args["input"][..., :8]), args["timestep"], **options)

    pair.set_model_unet_function_wrapper(flat_tiles)
    with refused("unknown-tiles", "pieces"):
        sample(plain(pair), (1, 4, 16, 16), steps=1)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "cudagraphs"},
        {"backend": "inductor", "mode": "reduce-overhead"},
        {"backend": "inductor", "mode": "max-autotune"},
        {"backend": "inductor", "options": {"triton.cudagraphs": True}},
    ],
)
def test_cuda_graphs_are_refused_before_sampling(paired, settings, monkeypatch):
    made = paired.clone()
    set_torch_compile_wrapper(model=made, **settings)
    monkeypatch.setattr(made.model, "apply_model", lambda *_, **__: pytest.fail("sampling has begun"))
    for guide in (plain, cascade):
        with refused("compiled-model", "CUDA graphs", "inductor"):
            sample(guide(made), (1, 4, 16, 16), steps=1)


def test_a_cuda_graph_that_nobody_announced_is_refused_when_it_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with refused("compiled-model", "CUDA graphs"):
        compiled_module.residual_in_compiled(torch.zeros(1, 4, 8), 0, 0, 1, 2, 2)


def test_an_addition_behind_the_people_is_refused_before_sampling(paired):
    made = by_node(paired)
    patch = next(iter(made.model_options["transformer_options"]["patches_replace"]["attn2"].values()))
    patch.add(lambda out, *_, **__: out, sigma_start=99.0, sigma_end=0.0)
    with refused("compiled-with-additions", "IP-Adapter", "before"):
        sample(plain(made), (1, 4, 16, 16), steps=1)


def test_code_of_parts_that_another_model_left_behind_is_noticed(model, paired):
    def parts_without_guards(made):
        made = made.clone()
        keys = [f"diffusion_model.middle_block.1.transformer_blocks.{number}" for number in (0, 1)]
        options = {"guard_filter_fn": lambda entries: ["transformer_options" not in entry.name for entry in entries]}
        set_torch_compile_wrapper(model=made, backend="eager", keys=keys, options=options)
        return made

    torch._dynamo.reset()
    sample(plain(parts_without_guards(model)), (1, 4, 16, 16), steps=1)
    with refused("attention-passed-over", "compiles"):
        sample(plain(parts_without_guards(paired)), (1, 4, 16, 16), steps=1)
    torch._dynamo.reset()


@pytest.mark.slow
def test_inductor_draws_what_the_uncompiled_model_draws(apply, model):
    torch._dynamo.reset()
    inductor = lambda made: by_node(made, "inductor")  # noqa: E731
    stock = max(1e-3, difference(model, inductor))
    for made, guide in (
        (apply(), plain),
        (apply(0.4, masks=(LEFT, 1 - LEFT)), plain),
        (apply(), lambda made: cascade(made, "one_pass")),
        (apply(), lambda made: cascade(made, "two_strength")),
    ):
        assert difference(made, inductor, guide) < 4 * stock
    torch._dynamo.reset()
