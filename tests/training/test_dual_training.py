"""Training a dual pathway: what is learned and what stays, resuming, exporting, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from support.refused import refused

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.hosts.diffusers.attention import cross_attention_layers
from dhumandiff.methods.dual_pathway import DualPathway
from dhumandiff.methods.dual_pathway.blending import feathered
from training.data.batch import NO_AUGMENTATION, BatchMaker
from training.data.dataset import Sample, open_dataset
from training.data.seeding import seeded_rng
from training.export import ExportConfig, export
from training.objectives.losses import build_objectives, compute_losses
from training.run.base import load_base
from training.run.checkpoint import RunFolder, adapter_of_run
from training.run.dual_config import DualConfig
from training.run.dual_model import training_regions
from training.run.estimate import dry_run
from training.run.init import init_weights
from training.run.loop import train
from training.run.model import build_model

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

OBJECTIVES = {
    "localization": {"min_layer_size": 16},
    "face_region": {"weight": 0.5},
    "text_consistency": {"weight": 1.0},
    "routing": {"weight": 0.1},
}
PARTS = ["tca", "gates", "router"]


@pytest.fixture(scope="session")
def identity(small_base, small_shards, tmp_path_factory):
    """A trained adapter, as a run."""
    from support.small_base import make_config

    run = tmp_path_factory.mktemp("identity") / "run"
    train(make_config(small_base, small_shards, run, steps=2, optimizer={"learning_rate": 0.01}))
    return run


@pytest.fixture
def dual(config, identity):
    def make(run="dual", train=PARTS, objectives=OBJECTIVES, dual=None, **changes):
        return config(
            run,
            method="dual_pathway",
            init={"weights": str(identity)},
            dual={"train": train, "rank": 4, "router_width": 8, "regions": "faces", **(dual or {})},
            objectives=objectives,
            **changes,
        )

    return make


def weights_in(run, file="adapter.safetensors"):
    steps = RunFolder(run).steps()
    return load_file(RunFolder(run).path(steps[-1]) / file)


def changed(before, after):
    return {name.partition(".")[0] for name in after if not torch.equal(before[name], after[name])}


def a_model(config):
    base = load_base(config.base.path, text_encoder=True, vae=False)
    folder = open_dataset(config.data.folders[0].path)
    objectives = build_objectives(config.objectives)
    model = build_model(config, base, init_weights(config, base, folder), folder, objectives)
    samples = [Sample((0, 0, place), *content) for place, *content in folder.read(0)][:2]
    same = [sample for sample in samples if sample.group == samples[0].group]
    return model, BatchMaker([folder], NO_AUGMENTATION, "identity", seeded_rng)(same, list(range(len(same))), 0)


def test_the_parts_learn_and_the_identity_path_stays_bit_equal(dual, identity):
    ended = train(dual(steps=4, optimizer={"learning_rate": 0.01}))
    first = weights_in(train(dual("first", steps=1, optimizer={"learning_rate": 0.01})).run)
    last = weights_in(ended.run)
    assert changed(first, last) == {"tca", "gates", "router"}
    for name, value in adapter_of_run(identity).state_dict().items():
        assert torch.equal(last[f"identity.{name}"], value.float()), name


def test_the_identity_path_can_be_trained_too(dual):
    how = {"steps": 2, "optimizer": {"learning_rate": 0.01}, "objectives": {"face_region": {"weight": 1.0}}}
    ended = train(dual(train=["tca"], dual={"train_identity": True}, **how))
    first = weights_in(train(dual("first", train=["tca"], dual={"train_identity": True}, **how | {"steps": 1})).run)
    assert "identity" in changed(first, weights_in(ended.run))


def test_resumed_equals_not_interrupted_to_the_bit(dual):
    whole = train(dual("whole", steps=6))
    train(dual("parted", steps=6, checkpoints={"every": 3, "keep": 9}))
    folder = RunFolder(whole.run.parent / "parted")
    import shutil

    shutil.rmtree(folder.path(6))
    train(dual("parted", steps=6, checkpoints={"every": 3, "keep": 9}))
    for file in ("adapter.safetensors", "average.safetensors"):
        ours, theirs = weights_in(folder.folder, file), weights_in(whole.run, file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_of_other_parts_is_not_resumed(dual):
    train(dual(steps=1))
    with refused("run-of-another-configuration"):
        train(dual(steps=2, train=["tca"], objectives={"text_consistency": {"weight": 1.0}}))


def test_at_first_outside_of_all_regions_the_prediction_is_the_base_s(dual):
    model, batch = a_model(dual(objectives={"face_region": {"weight": 0.5}}))
    batch.faces = torch.zeros_like(batch.faces)
    times = torch.tensor([400] * len(batch))
    with torch.no_grad():
        batch.subject_token_index = batch.subject_token_index[:0]  # words that carry a face are read otherwise
        ours, _ = model(batch, batch.latents, times)
        assert torch.allclose(ours, model.words_alone(batch, batch.latents, times), atol=1e-5)


def test_regions_over_everything_are_the_identity_path_alone(dual):
    model, batch = a_model(dual())
    batch.faces = torch.zeros_like(batch.faces)
    batch.faces[:, 0] = 1
    heads = cross_attention_layers(model.base.unet)[0][1].heads
    with torch.no_grad():
        model.begin(batch)
        model._face_tokens = model.face_tokens(batch.hidden, batch.drop_face_tokens)
        positions, width = batch.faces.shape[-2] * batch.faces.shape[-1], model.base.sizes["hidden"][0]
        query = torch.randn(len(batch), positions, width)
        both = model.residual(0, query, heads)
        kv = model.adapter.keys_values(0, model._face_tokens)
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, *(part[:, 0] for part in kv)))
        alone = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert torch.allclose(both, alone, atol=1e-5)


def test_regions_are_the_annotation_s_grown_and_soft_and_gone_with_the_face():
    faces = torch.zeros(1, 2, 8, 8)
    faces[0, 0, 2:4, 2:4] = faces[0, 1, 6, 6] = 1
    batch = SimpleNamespace(faces=faces, masks=1 - faces, drop_identity=torch.tensor([[False, True]]))
    hard = training_regions(batch, DualConfig(margin=1, feather=0))
    assert hard[0, 0, 1:5, 1:5].all()
    assert hard[0, 0].sum() == 16
    assert not hard[0, 1].any()
    assert torch.equal(training_regions(batch, DualConfig(margin=1, feather=8)), feathered(hard, 1))
    assert torch.equal(
        training_regions(batch, DualConfig(regions="persons", margin=0, feather=0))[:, 0], 1 - faces[:, 0]
    )


def test_gates_and_text_consistency_get_gradients_from_their_losses(dual):
    model, batch = a_model(dual())
    config = dual().objectives
    objectives = build_objectives(config)
    parts = compute_losses(model, batch, model.base, objectives, config.diffusion)
    by_name = {objective.name: loss for objective, loss in zip(objectives, parts, strict=True)}
    by_name["text_consistency"].backward(retain_graph=True)
    assert model.pathway.tca.layers[0].to_v.up.weight.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.pathway.router.parameters())
    by_name["routing"].backward()
    assert model.pathway.router.proj.weight.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.pathway.identity.parameters())


def test_a_second_stage_takes_over_what_the_first_trained(dual):
    first = train(dual("words", steps=2, train=["tca", "gates"], objectives={"text_consistency": {"weight": 1.0}}))
    second = train(
        dual(
            "router",
            steps=2,
            train=["router"],
            dual={"weights": str(first.run)},
            objectives={"routing": {"weight": 0.1}},
        )
    )
    before, after = weights_in(first.run, "average.safetensors"), weights_in(second.run)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(name.startswith("router.") for name in after)


def test_an_export_is_one_file_that_loads_with_a_card(dual, tmp_path):
    ended = train(dual(steps=2))
    made = export(ExportConfig(run=str(ended.run), out=str(tmp_path / "out"), license="Apache-2.0", dtype="float32"))
    assert [path.name for path in made] == ["out.safetensors", "README.md"]
    pathway = DualPathway.from_pretrained(made[0])
    assert pathway.info.parts == ("identity", "tca", "gates", "router")
    assert pathway.info.license == "Apache-2.0"
    assert "2 steps" in pathway.info.source
    average = weights_in(ended.run, "average.safetensors")
    assert all(torch.equal(value, average[name]) for name, value in pathway.state_dict().items())
    assert "dual pathway (identity, tca, gates, router)" in made[1].read_text()


def test_evaluate_scores_a_run_on_held_out_data(dual, small_shards, tmp_path, capsys):
    from training.evaluate import main

    ended = train(dual(steps=1))
    main(["--run", str(ended.run), "--data+", str(small_shards), "--batches", "1", "--out", str(tmp_path / "scores")])
    assert "Validation loss" in capsys.readouterr().out
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())["validation loss"]


def test_a_dry_run_counts_what_is_trained(dual):
    text = dry_run(dual())
    assert "tca" in text
    assert "router" in text


def test_what_cannot_be_trained_is_refused(dual, config, identity):
    with refused("dual-without-identity", "init.weights"):
        config(method="dual_pathway", dual={"train": PARTS})
    with refused("dual-no-part-to-train", "tca"):
        dual(train=[])
    with refused("routing-without-router", "dual.train"):
        dual(train=["tca"])
    with refused("dual-weights-are-an-adapter", "init.weights"):
        train(dual(dual={"weights": str(identity)}))


def test_the_router_of_every_layer_learns_whatever_the_smallest_that_localization_reads(dual):
    config = dual(train=["router"], objectives={"localization": {"min_layer_size": 9999}, "routing": {"weight": 0.1}})
    model, batch = a_model(config)
    parts = compute_losses(model, batch, model.base, build_objectives(config.objectives), config.objectives.diffusion)
    torch.stack(parts).sum().backward()
    routers = [value for name, value in model.weights.named_parameters() if "router.layers" in name]
    assert routers
    assert all(value.grad is not None for value in routers)


def test_evaluate_draws_no_cases_with_a_dual_pathway_and_says_what_does(dual, tmp_path):
    from PIL import Image

    from training.evaluate import main

    ended = train(dual(steps=1))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    case = {"name": "one", "references": ["a.png", "a.png"], "prompt": "A man and a woman"}
    (tmp_path / "cases.jsonl").write_text(json.dumps(case) + "\n")
    with refused("dual-draws-no-cases", "generate"):
        main(
            [
                "--run",
                str(ended.run),
                "--cases",
                str(tmp_path / "cases.jsonl"),
                "--base",
                "mini",
                "--out",
                str(tmp_path),
            ]
        )
