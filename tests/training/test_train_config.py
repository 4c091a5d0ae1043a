"""Settings of training: what they default to, how they are overridden, and what is refused before anything loads."""

from pathlib import Path

import pytest
from support.refused import refused
from support.shards import make_shards
from support.small_base import SIZES, make_base

for package in ("jsonargparse", "webdataset", "diffusers"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

import training
from training import train
from training.parsing import as_dict, differences, parse
from training.run.config import TrainConfig
from training.run.estimate import dry_run

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

CONFIGS = Path(training.__file__).parent / "configs"
DATA = ("--data.folders+", "{path: shards}")


def read(*words):
    return parse(TrainConfig, "train", [*DATA, *words])[0]


def test_a_file_gives_values_and_the_command_line_overrides_them(tmp_path):
    (tmp_path / "own.yaml").write_text("steps: 7\noptimizer:\n  learning_rate: 1e-5\n  betas: [0.8, 0.9]\n")
    config = read("--config", str(tmp_path / "own.yaml"), "--optimizer.learning_rate", "2e-5")
    assert (config.steps, config.optimizer.learning_rate, tuple(config.optimizer.betas)) == (7, 2e-5, (0.8, 0.9))
    assert config.optimizer.max_grad_norm == 1.0


def test_a_later_file_overrides_an_earlier_one():
    config = read("--config", str(CONFIGS / "sdxl.yaml"), "--config", str(CONFIGS / "sdxl_16gb.yaml"))
    assert config.optimizer.name == "adafactor"
    assert config.optimizer.warmup_steps == 1000
    assert config.data.micro_batch_size == 2
    assert config.data.batch_size == 32


def test_what_is_written_for_a_run_is_read_back_the_same(tmp_path):
    import yaml

    config = read("--config", str(CONFIGS / "tiny.yaml"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    again, _ = parse(TrainConfig, "train", ["--config", str(tmp_path / "config.yaml")])
    assert differences(config, again) == []


def test_the_four_phases_go_on_from_each_other():
    phases = sorted(CONFIGS.glob("phase_*.yaml"))
    found = [read("--config", str(CONFIGS / "sdxl.yaml"), "--config", str(path)) for path in phases]
    assert [config.init.weights for config in found] == ["scratch", "runs/phase_1", "runs/phase_2", "runs/phase_3"]
    assert [config.steps for config in found] == [20_000, 40_000, 30_000, 10_000]
    assert [config.augment.paired for config in found] == [0, 0, 0.5, 0.5]
    assert [config.objectives.identity.weight for config in found] == [0, 0, 0.1, 0.1]
    assert [config.optimizer.learning_rate for config in found] == [1e-4, 1e-4, 1e-4, 1e-5]


@pytest.mark.parametrize("memory", ["", "12", "16", "24", "48"])
def test_the_presets_are_valid(memory, tmp_path):
    words = ["--config", str(CONFIGS / "sdxl.yaml")]
    if memory:
        words += ["--config", str(CONFIGS / f"sdxl_{memory}gb.yaml")]
    if memory == "12":
        with refused("nothing-would-be-learned", "init.train"):
            read(*words)
        words += ["--init.weights", "released"]
    assert read(*words).precision == "bf16"


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--optimizer.rte", "1"], "setting-refused", "--optimizer.rte 1"),
        (["--optimizer.learning_rate", "-0.0001"], "setting-out-of-range", "optimizer.learning_rate is -0.0001"),
        (["--optimizer.learning_rate", ".nan"], "setting-out-of-range", "optimizer.learning_rate is nan"),
        (["--optimizer.learning_rate", "fast"], "setting-refused", "optimizer.learning_rate"),
        (["--augment.paired", "1.5"], "setting-out-of-range", "augment.paired is 1.5"),
        (["--augment.drop_text", "0.6", "--augment.drop_all", "0.6"], "setting-out-of-range", "augment.drop_one_face"),
        (["--data.batch_size", "5", "--data.micro_batch_size", "2"], "setting-out-of-range", "data.batch_size is 5"),
        (["--steps", "0"], "setting-out-of-range", "steps is 0"),
        (["--init.face_width", "100"], "setting-out-of-range", "init.face_width is 100"),
        (["--init.train", "[values]"], "setting-refused", "init.train"),
        (["--objectives.likeness.weight", "1"], "setting-refused", "--objectives.likeness.weight"),
        (["--objectives.identity.weight", "1"], "recognizer-not-named", "objectives.identity"),
        (["--precision", "int8"], "setting-refused", "precision"),
        (["--config", "nowhere.yaml"], "setting-refused", "nowhere.yaml"),
        (["--data.folders+", "{path: x, wight: 2}"], "setting-refused", "wight"),
        (["--data.folders+", "{path: x, weight: -2}"], "setting-out-of-range", "the weight of x is -2.0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(words, code, named):
    with refused(code, named):
        read(*words)


def test_an_unknown_field_in_a_file_is_refused_with_its_name(tmp_path):
    (tmp_path / "own.yaml").write_text("optimizer:\n  rte: 1\n")
    with refused("setting-refused", "'optimizer'", "'rte'"):
        read("--config", str(tmp_path / "own.yaml"))


def test_training_without_data_is_refused_with_the_command_that_makes_some():
    with refused("no-training-data", "data.folders", "training prepare"):
        parse(TrainConfig, "train", [])


def test_every_field_is_explained(capsys):
    with pytest.raises(SystemExit):
        parse(TrainConfig, "train", ["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    for words in (
        "person 1 and person 2 are exchanged",
        "Decay of the exponential moving average",
        "an IP-Adapter Plus (Face) file",
    ):
        assert words in help_text

    def fields(part, prefix=""):
        for name, value in part.items():
            yield from fields(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]

    for name in fields(as_dict(read())):
        start = help_text.rindex(f"--{name} ")
        assert len(help_text[start:].partition("(type:")[0].split()) > 3, name


@pytest.fixture
def settings(tmp_path):
    base = make_base(tmp_path / "base")
    shards = make_shards(tmp_path / "shards", samples=6)
    sizes = [word for name, value in SIZES.items() for word in (f"--init.{name}", str(value))]
    return ["--base.path", str(base), "--data.folders+", f"{{path: {shards}}}", "--run", str(tmp_path / "run"), *sizes]


def test_a_dry_run_tells_sizes_and_an_estimate_and_makes_nothing(settings, tmp_path, capsys):
    train.main([*settings, "--dry_run", "--steps", "12", "--objectives.face_region.weight", "0.5"])
    told = capsys.readouterr().out
    assert "4 cross-attention layers" in told
    assert "12 of 8 samples (8 passes of 1): 16.0 epochs" in told
    assert "1 diffusion + 0.5 face_region" in told
    assert "An estimate from shapes, not measured" in told
    assert not (tmp_path / "run").exists()


def test_the_estimate_counts_what_each_choice_costs(settings):
    def total(*words):
        told = dry_run(parse(TrainConfig, "train", [*settings, *words])[0])
        return float(told.partition("about ")[2].partition(" GB")[0]), told

    plain, told = total("--data.micro_batch_size", "8", "--precision", "no")
    assert "float32" in told
    activations = [line for line in told.splitlines() if "activations" in line]
    _, told = total("--data.micro_batch_size", "8", "--precision", "no", "--base.gradient_checkpointing", "true")
    fewer = [line for line in told.splitlines() if "activations" in line]
    assert float(fewer[0].split()[0]) <= float(activations[0].split()[0])
    assert "averages" not in total("--optimiser.ema_device", "cpu")[1]
    assert "optimizer (adafactor)" in total("--optimizer.name", "adafactor")[1]
    assert plain > 1


def test_the_estimate_counts_the_decoder_of_identity_losses(settings):
    def of_decoding(window):
        identity = ["weight", "0.1", "recognizer", "mini", "decode_crop", str(window)]
        words = [f"--objectives.identity.{word}" if n % 2 == 0 else word for n, word in enumerate(identity)]
        with pytest.warns(UserWarning, match="Prepare the data again to be sure"):  # made by a test, without a probe
            told = dry_run(parse(TrainConfig, "train", [*settings, *words])[0])
        assert "VAE for sample grids and identity losses (SDXL's, float32)" in told
        (line,) = [line for line in told.splitlines() if "decoding 2 faces" in line]
        return float(line.split()[0])

    assert of_decoding(0) > 1.5 * of_decoding(4) > 0  # one picture, or two windows of a quarter each


def test_a_base_for_other_shards_is_refused_in_the_dry_run(settings, tmp_path):
    base = make_base(tmp_path / "other", kind="sd15")
    with refused("shards-for-another-base", "context_width"):
        train.main([*settings, "--dry_run", "--base.path", str(base)])


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_a_run_ended_by_a_signal_says_how_to_go_on_and_ends_with_its_code(settings, monkeypatch, capsys, number, code):
    from training.run import loop

    ended = loop.TrainResult(Path("run"), Path("run/checkpoints/step-00000003"), 3, number, 0.5, None, None)
    monkeypatch.setattr(loop, "train", lambda config: ended)
    with pytest.raises(SystemExit, match=str(code)):
        train.main(settings)
    told = capsys.readouterr().out
    assert "Ended at step 3 of 20000: run/checkpoints/step-00000003.\n" in told
    assert told.endswith("python -m training train --run run\n")


def test_a_run_says_what_it_made_and_what_comes_next(settings, tmp_path, capsys):
    words = ["--steps", "2", "--data.batch_size", "2", "--logging.samples_every", "0", "--logging.tensorboard", "false"]
    train.main([*settings, *words, "--precision", "no"])
    told = capsys.readouterr().out
    assert "step-00000002 (loss" in told
    assert "loss.png" in told
    assert f"Next: python -m training export --run {tmp_path / 'run'}" in told


@pytest.mark.parametrize(
    "words", [["--steps", "8", "--config", "{}"], ["--config", "{}", "--steps", "8"], ["--steps=8", "--config={}"]]
)
def test_a_flag_holds_wherever_the_file_stands(tmp_path, words):
    """The parser itself reads from left to right, and would train on with the file's number without a word."""
    (tmp_path / "a.yaml").write_text("steps: 200\nseed: 3\n")
    (tmp_path / "b.yaml").write_text("seed: 4\n")
    words = [word.format(tmp_path / "a.yaml") for word in words]
    config, _ = parse(TrainConfig, "train", [*DATA, *words, "--config", str(tmp_path / "b.yaml")])
    assert (config.steps, config.seed) == (8, 4)  # of two files the later one holds
