"""Sentences of one's own, drawn while it trains: pictures, numbers, the best checkpoint by them, and what cannot be drawn."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from support.refused import refused
from support.small_base import make_config

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.testing import TinyFaces
from training.data.settings import FaceSettings
from training.run.checkpoint import RunFolder
from training.run.config import PromptConfig
from training.run.logging import read_log
from training.run.loop import _score_of, train
from training.run.prompts import PromptDrawing

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

SENTENCE = "On the left a man@1 and on the right a woman@2."


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for name in ("anna", "ben"):
        Image.fromarray(random.integers(0, 255, (160, 160, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return [str(tmp_path / "anna.png"), str(tmp_path / "ben.png")]


@pytest.fixture
def config(small_shards, tmp_path, photos):
    """name of the run, changes -> a configuration on the tiny base, with a prompt."""

    def make(run="run", prompts=None, **changes):
        prompts = [PromptConfig(SENTENCE, photos)] if prompts is None else prompts
        logging = {
            "prompts": prompts,
            "prompt_size": [64, 64],
            "prompt_faces": FaceSettings(pack="tiny"),
            "image_encoder": "tiny",
            "sample_steps": 2,
            **changes.pop("logging", {}),
        }
        return make_config("tiny", small_shards, tmp_path / run, **{"steps": 2, "logging": logging, **changes})

    return make


def test_prompts_are_drawn_before_the_first_step_and_at_every_checkpoint(config):
    run = train(config(checkpoints={"every": 1})).run
    names = sorted(path.name for path in (run / "prompts").iterdir())
    assert names == [f"step-{step:08d}-held_out.png" for step in (0, 1, 2)]
    entries = [entry for entry in read_log(run / "log.jsonl") if "likeness_held_out" in entry]
    assert [entry["step"] for entry in entries] == [0, 1, 2]
    assert {"right_person_held_out", "present_held_out"} <= {*entries[0]}
    assert (run / "loss.png").is_file()


def test_people_of_the_data_and_others_are_kept_apart(config, photos):
    prompts = [PromptConfig(SENTENCE, photos, [0, 1]), PromptConfig(SENTENCE, photos, [2], "trained")]
    run = train(config(prompts=prompts, steps=1)).run
    sheets = {
        group: Image.open(run / "prompts" / f"step-00000001-{group}.png").size for group in ("held_out", "trained")
    }
    assert sheets["held_out"][1] == 2 * sheets["trained"][1]
    assert {"likeness_held_out", "likeness_trained"} <= {*read_log(run / "log.jsonl")[0]}


def test_drawing_changes_nothing_of_the_run(config):
    with_prompts, without = (train(config(name, prompts=each)).run for name, each in (("a", None), ("b", [])))
    one, other = (RunFolder(run).load(2) for run in (with_prompts, without))
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    assert torch.equal(one.state["random"][0]["torch"], other.state["random"][0]["torch"])


def test_a_low_rank_run_is_drawn_too(config, tmp_path):
    from training.export import ExportConfig, export

    first = train(config("first", prompts=[], steps=1)).run
    (full, *_) = export(ExportConfig(run=str(first), out=str(tmp_path / "full")))
    run = train(config(init={"weights": str(full), "rank": 2}, steps=1)).run
    assert (run / "prompts" / "step-00000001-held_out.png").is_file()


def test_a_base_whose_blocks_wait_on_the_cpu_draws_the_same(config, monkeypatch):
    from training.run import frozen

    made = []
    put = frozen.BlockOffload.__init__
    monkeypatch.setattr(frozen.BlockOffload, "__init__", lambda self, *given: (made.append(self), put(self, *given))[0])
    base = {"path": "tiny", "gradient_checkpointing": True}
    whole, blocks = (train(config(name, steps=1, base={**base, "offload": name == "b"})).run for name in "ab")
    name = "prompts/step-00000000-held_out.png"
    first, second = (np.asarray(Image.open(run / name)).astype(int) for run in (whole, blocks))
    assert np.array_equal(first, second)
    assert (made[0].present, made[0].most) == (0, 1)


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("fp8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_base_in_fewer_bits_draws(config, kind, package):
    pytest.importorskip(package)
    run = train(config(steps=1, base={"path": "tiny", "quantization": kind})).run
    assert np.asarray(Image.open(run / "prompts" / "step-00000001-held_out.png")).std() > 0


def test_the_best_checkpoint_can_be_that_with_the_most_likeness(config, monkeypatch):
    likeness = iter([0.1, 0.5, 0.9, 0.3])
    draw = PromptDrawing({}, {"likeness_held_out": 0.0})
    monkeypatch.setattr(
        "training.run.prompts.PromptWatcher.draw",
        lambda *_: PromptDrawing(draw.sheets, {"likeness_held_out": next(likeness)}),
    )
    run = train(config(steps=3, checkpoints={"every": 1, "keep": 3, "best_by": "likeness"})).run
    assert RunFolder(run).best() == 2


def test_equal_shares_of_right_people_are_told_apart_by_likeness():
    one, other = ({"right_person_held_out": 0.5, "likeness_held_out": likeness} for likeness in (0.2, 0.3))
    scores = [_score_of(PromptDrawing({}, each), "right_person") for each in (one, other)]
    assert scores[1] < scores[0] < _score_of(None, "right_person")
    more = {"right_person_held_out": 0.75, "likeness_held_out": 0.0, "right_person_trained": 0.0}
    assert _score_of(PromptDrawing({}, more), "right_person") < scores[1]


def test_the_people_of_the_data_may_choose_the_best():
    drawing = PromptDrawing({}, {"likeness_held_out": 0.2, "likeness_trained": 0.6})
    assert _score_of(drawing, "likeness", "trained") == -0.6
    assert _score_of(drawing, "likeness") == -0.2
    assert _score_of(PromptDrawing({}, {"likeness_held_out": 0.2}), "likeness", "trained") == -0.2


def test_the_best_by_another_measure_does_not_go_on_in_the_same_run(config):
    train(config(steps=1))
    with refused("run-of-another-configuration", "best_by"):
        train(config(checkpoints={"best_by": "likeness"}))


def test_a_sentence_that_decides_nothing_is_refused_before_training(config, photos):
    with refused("nothing-decides-right-person", "right_person"):
        train(config(prompts=[PromptConfig("a man@1 and a woman@2", photos)], checkpoints={"best_by": "right_person"}))


def test_a_photo_without_a_face_is_named(config, photos, tmp_path, monkeypatch):
    detect = TinyFaces.detect
    monkeypatch.setattr(TinyFaces, "detect", lambda self, image: detect(self, image) if image.any() else [])
    Image.new("RGB", (160, 160)).save(tmp_path / "wall.png")
    with refused("prompt-not-usable", "entry 2", "wall.png"):
        train(
            config(
                prompts=[
                    PromptConfig(SENTENCE, photos),
                    PromptConfig(SENTENCE, [photos[0], str(tmp_path / "wall.png")]),
                ]
            )
        )


@pytest.mark.parametrize(
    ("sentence", "names", "named"),
    [(SENTENCE, ["anna.png", "nobody.png"], "nobody.png"), ("a man@1 and a woman@3", ["anna.png", "ben.png"], "@3")],
)
def test_a_prompt_that_cannot_be_drawn_is_named(config, tmp_path, sentence, names, named):
    prompts = [PromptConfig(sentence, [str(tmp_path / name) for name in names])]
    with refused("prompt-not-usable", "entry 1", named):
        train(config(prompts=prompts))


@pytest.mark.parametrize(
    "changes",
    [{"sentence": " "}, {"photos": []}, {"photos": [[]]}, {"photos": [3, "a.png"]}, {"seeds": []}, {"seeds": [-1]}],
)
def test_values_that_make_no_prompt_are_refused(changes):
    with refused("setting-out-of-range", "logging.prompts"):
        PromptConfig(**{"sentence": SENTENCE, "photos": ["a.png", "b.png"], **changes})


@pytest.mark.parametrize("router", [False, True])
def test_a_dual_pathway_is_drawn_by_its_own_paths(config, monkeypatch, router):
    """With regions that are found in the attention, or predicted by the router that is trained."""
    from training.run import dual_config

    drawn, real = [], dual_config.DualConfig.drawn
    monkeypatch.setattr(dual_config.DualConfig, "drawn", lambda self: drawn.append(real(self)) or drawn[-1])
    first = train(config("first", prompts=[], steps=1)).run
    changes = {
        "method": "dual_pathway",
        "init": {"weights": str(first)},
        "dual": {"train": ["tca", "gates", *(["router"] * router)], "rank": 4, "router_width": 8, "text_strength": 0.8},
        "objectives": {"text_consistency": {"weight": 1.0}, **({"routing": {"weight": 0.1}} if router else {})},
        "optimizer": {"learning_rate": 0.01},
    }
    with_prompts, without = (
        train(config(name, prompts=each, **changes)).run for name, each in (("a", None), ("b", []))
    )
    sheets = [Image.open(with_prompts / "prompts" / f"step-{step:08d}-held_out.png") for step in (0, 2)]
    assert sheets[0].size == sheets[1].size
    assert sheets[0].tobytes() != sheets[1].tobytes()
    assert (drawn[-1].regions, drawn[-1].text_strength) == ("router" if router else "attention", 0.8)
    one, other = (RunFolder(run).load(2) for run in (with_prompts, without))
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def test_the_best_by_drawings_needs_some(config):
    with refused("best-by-without-prompts", "logging.prompts"):
        config(prompts=[], checkpoints={"best_by": "likeness"})


def test_a_tracker_that_is_not_installed_is_named(config, monkeypatch):
    monkeypatch.setattr("training.run.trackers.find_spec", lambda name: None)
    with refused("tracker-missing", "pip install wandb"):
        train(config(prompts=[], logging={"trackers": ["wandb"]}))


def test_a_tracker_that_accelerate_does_not_take_is_not_left_out_in_silence(config, monkeypatch):
    monkeypatch.setattr("training.run.trackers.find_spec", lambda name: True)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with refused("tracker-not-started", "aim"):
        train(config(prompts=[], logging={"trackers": ["aim"]}))


def test_numbers_and_pictures_go_to_the_trackers_of_accelerate(config, monkeypatch):
    """A package of that name with the few functions of it that Accelerate calls."""
    told = {"scalars": [], "pictures": []}

    class Run:
        def __init__(self, **settings):
            told["settings"] = settings
            self.config = types.SimpleNamespace(update=lambda values, **_: told.setdefault("config", values))

        def log(self, values, step=None, **_):
            kind = (
                "pictures"
                if any("prompts/held" in name for name in values)
                and not all(isinstance(value, float) for value in values.values())
                else "scalars"
            )
            told[kind].append((step, values))

        def finish(self, **_):
            told["finished"] = True

    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace(name="wandb", loader=None, origin=None, submodule_search_locations=None)
    fake.init = lambda **settings: Run(**settings)
    fake.Image = lambda pixels, **_: pixels
    fake.config = types.SimpleNamespace(update=lambda values, **_: told.setdefault("config", values))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("accelerate.tracking.is_wandb_available", lambda: True)
    LoggerType = pytest.importorskip("accelerate.utils").LoggerType
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])
    run = train(config(steps=1, logging={"trackers": ["wandb"]})).run
    names = {name for _, values in told["scalars"] for name in values}
    assert {"loss/loss", "run/memory_gb", "run/samples_per_second", "prompts/likeness_held_out"} <= names
    assert told["pictures"]
    assert told["finished"]
    assert told["settings"]["name"] == run.name
    assert json.dumps(told["config"])
