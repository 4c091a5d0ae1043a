"""`python -m training export`: files that the nodes load, and a card that says where they come from."""

import json
import shlex
import shutil
from itertools import pairwise

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.refused import refused
from support.shards import make_shards
from support.small_base import SD15, make_base, make_config

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff import Adapter
from training import export
from training.run.checkpoint import RunFolder
from training.run.loop import train

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """config changes -> a short run."""
    folder = tmp_path_factory.mktemp("export")
    shards = make_shards(folder / "shards", samples=4)
    base = make_base(folder / "base")

    def run(name, **changes):
        return train(make_config(base, shards, folder / name, **{"steps": 3, **changes})).run

    return run


@pytest.fixture(scope="module")
def run(made):
    return made("run", objectives={"face_region": {"weight": 0.5}})


def do(run, out, **settings):
    return export.export(export.ExportConfig(run=str(run), out=str(out), **settings))


def test_both_layouts_hold_the_averaged_weights_bit_for_bit(run, tmp_path):
    paths = do(run, tmp_path / "pair", dtype="float32")
    assert [path.name for path in paths] == ["pair.safetensors", "released", "README.md"]
    expected = RunFolder(run).load(3).ema_weights
    for path in paths[:2]:
        found = Adapter.from_pretrained(path).state_dict()
        assert {*found} == {*expected}
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_files_are_in_half_precision_unless_asked_otherwise(run, tmp_path):
    paths = do(run, tmp_path / "pair")
    expected = RunFolder(run).load(3).ema_weights
    for path in paths[:2]:
        found = Adapter.from_pretrained(path).state_dict()
        assert all(torch.equal(found[name], value.half()) for name, value in expected.items())
    assert "stored as float16" in (tmp_path / "pair" / "README.md").read_text()


def test_weights_that_half_precision_cannot_hold_are_refused(run, tmp_path, monkeypatch):
    load = RunFolder.load

    def large(self, step):
        checkpoint = load(self, step)
        checkpoint.ema_weights["mapping.fc1.weight"][0, 0] = 1e6
        return checkpoint

    monkeypatch.setattr(RunFolder, "load", large)
    with refused("weights-too-large-for-half", "mapping.fc1.weight", "--dtype float32"):
        do(run, tmp_path / "pair")
    assert not (tmp_path / "pair").exists()


def test_the_raw_weights_can_be_asked_for(run, tmp_path):
    (native, *_) = do(run, tmp_path / "pair", weights="raw", dtype="float32")
    expected = RunFolder(run).load(3).weights
    assert all(
        torch.equal(value, expected[name]) for name, value in Adapter.from_pretrained(native).state_dict().items()
    )
    assert "Weights: of the last step" in (tmp_path / "pair" / "README.md").read_text()


def test_the_card_says_what_was_done(run, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"right person": 0.93}))
    do(
        run,
        tmp_path / "pair",
        license="Apache-2.0",
        base_license="openrail++",
        data_license="CC0",
        scores=str(tmp_path / "scores.json"),
    )
    card = (tmp_path / "pair" / "README.md").read_text()
    for words in (
        "Steps: 3 of 4 samples",
        "`shards`, 4 samples. License: CC0",
        "4 cross-attention layers, context 192). License: openrail++",
        "face_region:\n    weight: 0.5",
        "- right person: 0.93",
        "license: apache-2.0",
        "library_name: dhumandiff",
        "(of 3 steps planned)",
        "only with their leave",
        "EMA, decay 0.9",
    ):
        assert words in card, words
    assert Adapter.from_pretrained(tmp_path / "pair" / "released").info.license == "Apache-2.0"


def test_what_nobody_stated_is_said_to_be_unknown(run, tmp_path):
    do(run, tmp_path / "pair")
    card = (tmp_path / "pair" / "README.md").read_text()
    assert card.count("unknown: look it up and state it") == 2
    assert "not chosen yet" in card
    assert "Not measured yet" in card


def test_an_adapter_without_subject_path_has_no_released_layout(made, tmp_path):
    paths = do(made("faces", init={"subject_path": False}), tmp_path / "pair")
    assert [path.name for path in paths] == ["pair.safetensors", "README.md"]
    assert not Adapter.from_pretrained(paths[0]).has_subject_path


def test_an_adapter_for_another_family_is_written_too(tmp_path):
    shards = make_shards(tmp_path / "shards", samples=2, sizes=SD15)
    base = make_base(tmp_path / "base", kind="sd15")
    run = train(make_config(base, shards, tmp_path / "run", steps=1)).run
    do(run, tmp_path / "pair")
    assert "(sd15, 4 cross-attention layers, context 64)" in (tmp_path / "pair" / "README.md").read_text()


def test_the_last_checkpoint_can_be_asked_for(made, tmp_path):
    run = made("two", steps=4, checkpoints={"every": 2})
    do(run, tmp_path / "pair", checkpoint="last")
    assert "Steps: 4 of" in (tmp_path / "pair" / "README.md").read_text()


def test_the_command_says_what_it_made_and_what_comes_next(run, tmp_path, capsys):
    export.main(["--run", str(run), "--out", str(tmp_path / "pair"), "--name", "two"])
    told = capsys.readouterr().out
    assert "two.safetensors" in told
    assert "Put two.safetensors into ComfyUI/models/dhumandiff/" in told
    *_, line = told.strip().splitlines()
    words = shlex.split(line.removeprefix("Next: "))  # a command line as it is
    assert words[:4] == ["python", "-m", "dhumandiff", "generate"]
    given = dict(pairwise(words[4:]))
    assert (given["--adapter"], given["--face-pack"]) == (str(tmp_path / "pair" / "two.safetensors"), "tiny")
    assert given["--base"] == yaml.safe_load((run / "config.yaml").read_text())["base"]["path"]


def test_the_command_draws_the_people_whom_the_run_drew(run, tmp_path, capsys):
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["logging"]["prompts"] = [
        {"sentence": "a girl@1 and a man@2", "photos": ["my girl.png", ["b1.png", "b2.png"]]}
    ]
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "config.yaml").write_text(yaml.safe_dump(settings))
    export.main(["--run", str(other), "--out", str(tmp_path / "pair")])
    words = shlex.split(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("Next: "))
    given = dict(pairwise(words[4:]))
    assert (given["--person-1"], given["--person-2"]) == ("my girl.png", "b1.png")
    assert given["--prompt"] == "a girl@1 and a man@2"


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--out", "x"], "setting-out-of-range", "--run"),
        (["--run", "nowhere", "--out", "x"], "run-without-checkpoint", "nowhere"),
    ],
)
def test_what_cannot_be_exported_is_refused(words, code, named):
    with refused(code, named):
        export.main(words)


def test_scores_that_cannot_be_read_are_refused_before_anything_is_written(run, tmp_path):
    (tmp_path / "scores.json").write_text("[")
    with refused("scores-not-readable", "scores.json"):
        do(run, tmp_path / "pair", scores=str(tmp_path / "scores.json"))
    assert not (tmp_path / "pair").exists()


@pytest.mark.parametrize("stuck", ["README.md", "two.safetensors", "released"])
def test_the_exported_files_change_together(run, tmp_path, stuck):
    """Whichever cannot be written: no card of other weights, and no two adapters of different steps."""
    out = tmp_path / "pair"
    export.export(export.ExportConfig(run=str(run), out=str(out), name="two"))
    if (out / stuck).is_dir():
        shutil.rmtree(out / stuck)
        (out / stuck).write_text("in the way")
    else:
        (out / stuck).unlink()
        (out / stuck).mkdir()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with refused("export-not-written", "pair", "choose another name"):
        export.export(export.ExportConfig(run=str(run), out=str(out), name="two", weights="raw"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("recognizer", "pack"),
    [
        ("auraface (sha256 a7933ea5330113b0)", ["--face-pack", "open"]),
        ("antelopev2 (sha256 4ab1d6435d639628)", ["--face-pack", "antelopev2"]),
        ("buffalo_l (sha256 4c06341c33c2ca1f)", []),  # which is taken without a word
        ("", []),
    ],
)
def test_the_next_command_names_the_pack_by_which_its_recognizer_is_chosen(run, tmp_path, recognizer, pack):
    native = tmp_path / "two.safetensors"
    save_file(
        {"weight": torch.zeros(1)}, native, metadata={"recogniser": recognizer} if recognizer else {"any": "thing"}
    )
    words = shlex.split(export._drawing_command(str(run), native))
    there = words.index("--face-pack") if "--face-pack" in words else len(words)
    assert words[there : there + 2] == pack
