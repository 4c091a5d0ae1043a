"""Settings of version 0.1: their files, flags, checkpoints and logs are read as if they had the present names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.refused import refused

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

import training
from training.export import ExportConfig, export
from training.parsing import as_dict, parse
from training.renamed import RENAMED_KEYS, RENAMED_VALUES, current_config, current_key
from training.run.config import TrainConfig
from training.run.logging import read_log
from training.run.loop import train

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

CONFIGS = Path(training.__file__).parent / "configs"
OLD_CONFIGS = Path(__file__).parent / "old_configs"
"""The files of training/configs/ at version 0.1, unchanged."""
DATA = ("--data.folders+", "{path: shards}")


def read(*words):
    return parse(TrainConfig, "train", [*DATA, *words])[0]


def field(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("name", sorted(path.name for path in OLD_CONFIGS.iterdir()))
def test_a_file_of_version_0_1_is_the_same_configuration(name, capsys):
    def parsed(folder):
        words = ["--config", str(folder / name)]
        if name.startswith(("phase_", "sdxl_")):  # made to stand behind sdxl.yaml
            words = ["--config", str(folder / "sdxl.yaml"), *words]
        weights = ["--init.weights", "released"] if name == "sdxl_12gb.yaml" else []
        return read(*words, *weights)

    new = parsed(CONFIGS)
    assert capsys.readouterr().err == ""
    old = parsed(OLD_CONFIGS)
    # Where the base lies is a placeholder: one name everywhere now.
    assert replace(old, base=replace(old.base, path=new.base.path)) == new
    (notice,) = capsys.readouterr().err.splitlines()
    assert "optimiser is now optimizer" in notice


OTHER = {  # another value than the default, for every old name that is no group
    "augment.drop_tokens": "0.25",
    "data.batch": "6",
    "data.micro_batch": "2",
    "data.shuffle": "7",
    "objectives.diffusion.levels": "rising",
    "objectives.identity.below": "0.7",
    "objectives.identity.contrast": "0.3",
    "objectives.identity.recogniser": "mini",
    "objectives.identity.same": "0.4",
    "objectives.identity.window": "12",
    "objectives.localisation.smallest": "9",
    "objectives.localisation.words": "0.2",
    "optimiser.clip": "2.5",
    "optimiser.decay": "0.2",
    "optimiser.ema": "0.5",
    "optimiser.kind": "muon",
    "optimiser.rate": "3e-5",
    "optimiser.turn": "0.3",
    "optimiser.warmup": "3",
    "start.tokens": "4",
}
GROUPS = {"optimiser", "start", "watch", "objectives.localisation"}
NEEDS = {"objectives.identity.contrast": ("--objectives.identity.recognizer", "mini")}


def test_every_old_name_is_tried():
    assert {*OTHER} | GROUPS == {*RENAMED_KEYS["train"]}


@pytest.mark.parametrize("old", OTHER)
@pytest.mark.parametrize("form", ["word", "equals", "file"])
def test_an_old_name_sets_the_new_field_and_says_so(old, form, tmp_path, capsys):
    new, value = RENAMED_KEYS["train"][old], OTHER[old]
    group, name = old.rsplit(".", 1)
    inner = f"{name}: {value}"
    for part in reversed(group.split(".")):
        inner = f"{part}: {{{inner}}}"
    (tmp_path / "old.yaml").write_text(inner + "\n")
    words = {
        "word": [f"--{old}", value],
        "equals": [f"--{old}={value}"],
        "file": ["--config", str(tmp_path / "old.yaml")],
    }[form]
    found = field(read(*words, *NEEDS.get(old, ())), new)
    expected = RENAMED_VALUES["train"].get(new, {}).get(value, value)
    assert str(found) == expected or found == float(expected)
    (notice,) = capsys.readouterr().err.splitlines()
    assert f"{old} is now {new}" in notice


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--watch.every", "3"], "logging.every", 3),
        (["--optimiser.schedule", "cosine"], "optimizer.schedule", "cosine"),
        (["--optimiser", "{rate: 2e-5, schedule: linear}"], "optimizer.learning_rate", 2e-5),
        (["--objectives.localisation.weight", "0.5"], "objectives.localization.weight", 0.5),
        (["--start.train+", "mapping"], "init.train", None),
    ],
)
def test_a_setting_that_moved_with_its_group_is_found(words, key, value):
    found = field(read(*words), key)
    assert found == value or value is None


def test_the_command_line_overrides_an_old_file_by_either_name(tmp_path):
    (tmp_path / "old.yaml").write_text("optimiser: {rate: 1e-5, clip: 3}\n")
    for flag in ("--optimiser.rate", "--optimizer.learning_rate"):
        config = read("--config", str(tmp_path / "old.yaml"), flag, "2e-5")
        assert (config.optimizer.learning_rate, config.optimizer.max_grad_norm) == (2e-5, 3)


def test_a_field_that_never_was_is_refused_in_an_old_file_too(tmp_path):
    (tmp_path / "old.yaml").write_text("optimiser: {rte: 1}\n")
    with refused("setting-refused", "rte"):
        read("--config", str(tmp_path / "old.yaml"))


def test_present_names_stay_as_they_are():
    config = as_dict(read())
    assert current_config("train", config) == config
    assert current_key("train", "optimizer.learning_rate") == "optimizer.learning_rate"
    assert current_key("prepare", "optimiser.rate") == "optimiser.rate"


def of_version_0_1(values, command="train"):
    """A configuration as version 0.1 wrote it."""
    names = {new: old for old, new in RENAMED_KEYS[command].items()}
    old_values = {key: {new: old for old, new in each.items()} for key, each in RENAMED_VALUES[command].items()}

    def rename(part, prefix):
        found = {}
        for name, value in part.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict):
                value = rename(value, f"{key}.")
            elif isinstance(value, str):
                value = old_values.get(key, {}).get(value, value)
            found[names.get(key, key).rsplit(".", 1)[-1]] = value
        return found

    return rename(values, "")


def test_a_run_of_version_0_1_is_resumed_and_exported(config, tmp_path, capsys):
    changes = {"objectives": {"diffusion": {"timestep_sampling": "linear"}, "localization": {"weight": 0.1}}}
    first = train(config(steps=2, **changes))
    path = first.checkpoint / "state.json"
    info = json.loads(path.read_text())
    info["config"] = of_version_0_1(info["config"])
    assert info["config"]["optimiser"]["rate"] == 1e-3
    assert info["config"]["objectives"]["diffusion"]["levels"] == "rising"
    path.write_text(json.dumps(info))
    log = first.run / "log.jsonl"
    new_names = {"learning_rate": "rate", "data_wait_fraction": "outside", "grad_norm": "gradient"}
    new_names |= {"localization": "localisation"}
    text = log.read_text()
    for new, old in new_names.items():
        text = text.replace(f'"{new}"', f'"{old}"')
    log.write_text(text)
    capsys.readouterr()
    resumed = train(config(steps=3, **changes))
    assert resumed.step == 3
    assert "Changed since the checkpoint: steps: 2 -> 3.\n" in capsys.readouterr().out
    entries = read_log(log)
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert {*entries[0]} == {*entries[2]}
    made = export(ExportConfig(run=str(first.run), out=str(tmp_path / "pair")))
    assert "learning_rate: 0.001" in made[-1].read_text()


def test_the_flags_of_export_have_old_names_too(tmp_path, capsys):
    words = ["--run", "run", "--out", "out", "--licence", "MIT", "--base_licence=CC0", "--weights", "average"]
    config, _ = parse(ExportConfig, "export", words)
    assert (config.license, config.base_license, config.weights) == ("MIT", "CC0", "ema")
    assert "licence is now license" in capsys.readouterr().err
