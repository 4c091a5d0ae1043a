"""Odd values for the options of every command, drawn from a seed: each is done, or refused in one line; nothing that was read changes.

DHUMANDIFF_FUZZ=5000 python -m pytest -m slow tests/cli/test_command_fuzz.py         more of it
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest
from support.generate_command import command_line, half_mask, make_photos
from support.layouts import released_folder, small_adapter
from support.shards import make_shards

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")
pytest.importorskip("cv2", reason="photo quality is measured with OpenCV: pip install opencv-python-headless")

from dhumandiff.__main__ import main
from training.__main__ import main as train_main

pytestmark = pytest.mark.slow

EACH = int(os.environ.get("DHUMANDIFF_FUZZ", "400")) // 8
"""Runs of each command."""

WORDS = (
    "", " ", "-1", "0", "1", "2", "0.5", "1e400", "nan", "inf", "1000000000", "99999999999999999999", "x", "a" * 300, "男" * 90,
    "\udcff", "~", "~nobody/x.png", "/", ".", "..", "../x", "/dev/null", "/proc/self/mem", "C:\\x.png", "http://127.0.0.1:9/x",
    "pipe:true", "mini", "tiny", "auto", "64x64", "64x", "0x0", "1000000x1000000", "{}", "[", "[]", "null", "true", "a: b", "%s",
    "A man@1 and a woman@2", "man@9", "@1@2", "(" * 200,
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of every kind, by what they are."""
    folder = make_photos(tmp_path_factory.mktemp("files"))
    half_mask(folder / "mask.png")
    (folder / "empty").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "text.safetensors").write_text("no weights")
    (folder / "notes.json").write_text("[" * 5000)
    (folder / "rows.jsonl").write_text('{"prompt": 7}\n[]\n')
    (folder / "settings.yaml").write_text("steps: many\n")
    (folder / "utf16.yaml").write_bytes("seed: 7\n".encode("utf-16"))
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop").symlink_to("loop")
    (folder / "folder.png").mkdir()
    (folder / "folder.safetensors").mkdir()
    with (folder / "zeros.safetensors").open("wb") as file:
        file.truncate(1 << 30)
    os.mkfifo(folder / "pipe.png")
    released_folder(folder / "released")
    small_adapter().save_pretrained(folder / "adapter.safetensors")
    make_shards(folder / "shards", samples=4)
    return folder


def content(folder):
    return {
        path: (path.stat().st_size, path.read_bytes() if path.stat().st_size < 1 << 24 else b"")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


GENERATE = [
    "--person-1",
    "--person-2",
    "--swap",
    "--prompt",
    "--negative",
    "--mentions",
    "--out",
    "--focus-out",
    "--which-face-1",
    "--save-reference-1",
    "--save-reference-2",
    "--strength-1",
    "--mask-1",
    "--mask-2",
    "--base",
    "--adapter",
    "--image-encoder",
    "--face-pack",
    "--face-root",
    "--provider",
    "--which-face",
    "--normalise-light",
    "--seed",
    "--size",
    "--steps",
    "--sampler",
    "--cfg",
    "--mode",
    "--scene-strength",
    "--face-strength",
    "--focus-share",
    "--focus",
    "--strength",
    "--start",
    "--end",
    "--device",
    "--dtype",
]
SWITCHES = ("--swap", "--normalise-light", "--force", "--json", "--dry_run")


def value(chance, files):
    if chance.random() < 0.4:
        return str(chance.choice([*sorted(files.iterdir()), files / "new" / "x.png", files / "new.safetensors"]))
    return chance.choice(WORDS)


def generate(chance, files, out):
    line = {name: [*map(str, words)] for name, words in command_line(files, out).items()}
    line["--steps"] = ["1"]
    for name in chance.sample(GENERATE, k=chance.choice((1, 1, 2))):
        line[name] = [] if name in SWITCHES else [value(chance, files) for _ in range(chance.choice((1, 1, 1, 2)))]
    if not line["--out"] or not line["--out"][0].startswith(str(out)):
        line["--out"] = [
            str(chance.choice((out, files, out / "new")) / chance.choice(("x.png", "a.png", "text.png", "x")))
        ]
    for name in ("--focus-out", "--save-reference-1", "--save-reference-2"):
        if name in line and not line[name][0].startswith(str(files)):
            line[name] = [str(out / "more" / "x.png")]
    return ["generate", *(word for name, words in line.items() for word in (name, *words))]


def convert(chance, files, out):
    source = chance.choice((str(files / "released"), str(files / "adapter.safetensors"), value(chance, files)))
    target = chance.choice(
        (
            out / "a.safetensors",
            out / "folder",
            files / "a.png",
            files / "folder.png",
            files / "loop",
            out / ("a" * 300),
        )
    )
    return ["convert", source, str(target), *chance.choice(([], ["--force"]))]


def inspect(chance, files, out):
    return ["inspect", value(chance, files), *chance.choice(([], ["--json"]))]


def doctor(chance, files, out):
    return ["doctor", "--models", value(chance, files), *chance.choice(([], ["--face-root", value(chance, files)]))]


def of_training(name, options, *plain):
    def line(chance, files, out):
        words = [name, *(word.format(files=files, out=out) for word in plain)]
        for option in chance.sample(options, k=chance.choice((1, 1, 2, 3))):
            words += [option, value(chance, files)]
        return words

    line.__name__ = name
    return line


PREPARE = [
    "--config",
    "--out",
    "--base",
    "--vision",
    "--faces.pack",
    "--faces.root",
    "--resolution",
    "--buckets",
    "--shard",
    "--seed",
    "--unknown_gender",
    "--sources",
    "--slice",
    "--merge",
    "--device",
    "--references",
    "--min_face",
]
TRAIN = [
    "--config",
    "--run",
    "--data.folders",
    "--data.batch_size",
    "--data.micro_batch_size",
    "--data.validation",
    "--base.path",
    "--steps",
    "--seed",
    "--init.weights",
    "--init.train",
    "--optimizer.learning_rate",
    "--optimizer.name",
    "--precision",
    "--checkpoints.every",
    "--checkpoints.keep",
    "--logging.every",
    "--objectives.diffusion.min_snr",
    "--augment.paired",
]
EVALUATE = [
    "--config",
    "--cases",
    "--pictures",
    "--bench",
    "--run",
    "--adapter",
    "--base",
    "--out",
    "--against",
    "--faces.pack",
    "--faces.root",
    "--seed",
    "--scorers",
    "--adapter_pack",
    "--data",
]
EXPORT = ["--run", "--out", "--name", "--checkpoint", "--weights", "--scores", "--license"]

COMMANDS = [
    (generate, main),
    (convert, main),
    (inspect, main),
    (doctor, main),
    (
        of_training("prepare", PREPARE, "--dry_run", "--data", "{files}", "--out", "{out}/shards", "--base", "tiny"),
        train_main,
    ),
    (
        of_training(
            "train",
            TRAIN,
            "--dry_run",
            "--run",
            "{out}/run",
            "--data.folders+",
            "{{path: {files}/shards}}",
            "--base.path",
            "tiny",
        ),
        train_main,
    ),
    (of_training("evaluate", EVALUATE, "--dry_run", "--out", "{out}/scores"), train_main),
    (of_training("export", EXPORT, "--out", "{out}/export"), train_main),
]


@pytest.mark.parametrize(("make", "command"), COMMANDS, ids=lambda one: getattr(one, "__name__", ""))
def test_odd_options_are_done_or_refused(files, tmp_path, monkeypatch, capsys, make, command):
    before, outcomes = content(files), Counter()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number in range(EACH):
        chance = random.Random(f"{make.__name__} {number}")
        line = make(chance, files, tmp_path / str(number))
        (tmp_path / str(number)).mkdir()
        began = time.monotonic()
        try:
            code = command(line)
        except SystemExit as error:
            code = error.code
        except Exception as error:
            raise AssertionError(f"run {number}, {line}: {type(error).__name__} instead of a refusal") from error
        said = capsys.readouterr().err
        outcomes[code] += 1
        assert "Traceback" not in said
        if code == 1 and make is not doctor:  # whose 1 means that something is missing
            assert said.splitlines()[-1].startswith("error: "), said
        assert time.monotonic() - began < 30, f"run {number}, {line}: it took too long"
        after = content(files)
        changed = [path for path in before if after.get(path) != before[path]]
        assert not changed, f"run {number}, {line}"
    with capsys.disabled():
        print(make.__name__, dict(outcomes))
