"""Rebuilding the miniature: the loop of its frozen parts, its drawings, and the order of its stages."""

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from support.refused import refused
from support.together import run_together
from torch import nn

for package in ("jsonargparse", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.miniature.autoencoder import LATENTS
from dhumandiff.miniature.base import SIZE, build_unet
from dhumandiff.miniature.design import FIRST
from dhumandiff.miniature.world import people, sample_pair
from training import TrainingError
from training.__main__ import main as training_main
from training.miniature import build
from training.miniature.fit import fit
from training.miniature.renders import Renders, describe_picture, render_pair_images, render_people, render_pictures
from training.miniature.stages import STAGES, Stage, finished
from training.miniature.text_to_image import TextAttention, heads_of


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(128, 3))


def losses_of(model):
    def losses(random, _):
        x = torch.randn(16, 2, 4, 4, generator=random)
        return {"apart": (model(x) - x.mean((2, 3))[:, [0, 1, 0]]).square().mean()}

    return losses


def weights_of(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_fit_lowers_the_loss(tmp_path):
    """Fit lowers the loss notes it and freezes the model."""
    model = small_model()
    fit(tmp_path, "part", model, losses_of(model), steps=200)
    rows = [line.split(",") for line in (tmp_path / "part.csv").read_text().splitlines()]
    assert rows[0] == ["step", "apart"]
    assert float(rows[-1][1]) < 0.3 * float(rows[1][1])
    assert not any(parameter.requires_grad for parameter in model.parameters())


def _fit_with_others(folder):
    """A fit as one of several processes, each with its rows of the batch."""
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), small_model()
    rank = accelerator.process_index

    def losses(random, _):
        x = torch.randn(16, 2, 4, 4, generator=random)[rank :: accelerator.num_processes]
        return {"apart": (model(x) - x.mean((2, 3))[:, [0, 1, 0]]).square().mean()}

    fit(folder / str(rank), "part", model, losses, steps=10, accelerator=accelerator)
    torch.save(weights_of(model), folder / f"{rank}.pt")


@pytest.mark.slow
def test_processes_share_a_fit(tmp_path):
    """Processes that share a fit end in one process's weights and the first keeps them."""
    context = multiprocessing.get_context("spawn")
    for processes, name in ((1, "one"), (2, "two")):
        (tmp_path / name).mkdir()
        assert run_together(context, processes, _fit_with_others, tmp_path / name) == [0] * processes
    one, first, second = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one/0.pt", "two/0.pt", "two/1.pt")
    )
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, weights_of(small_model()), atol=1e-3)
    assert (tmp_path / "two" / "0" / "part.pt").exists()
    assert not (tmp_path / "two" / "1" / "part.pt").exists()


def test_an_interrupted_fit_ends_alike(tmp_path):
    """A fit that was interrupted ends in the same weights."""
    whole = small_model()
    fit(tmp_path / "whole", "part", whole, losses_of(whole), steps=40, save_every=10)

    class Killed(Exception):
        pass

    broken = small_model()
    inner = losses_of(broken)

    def losses(random, step):
        if step == 27:
            raise Killed
        return inner(random, step)

    with pytest.raises(Killed):
        fit(tmp_path / "run", "part", broken, losses, steps=40, save_every=10)
    again = small_model()
    fit(tmp_path / "run", "part", again, losses_of(again), steps=40, save_every=10)
    assert torch.equal(weights_of(again), weights_of(whole))
    assert (tmp_path / "run" / "part.csv").read_text() == (tmp_path / "whole" / "part.csv").read_text()


def test_a_nan_loss_ends_the_fit(tmp_path):
    """A loss that is no number ends the fit and names part and step."""
    model = small_model()
    with refused("part-not-finite", "part", "step 3", "nan", error=TrainingError):
        fit(
            tmp_path,
            "part",
            model,
            lambda _, step: {"a": weights_of(model).sum() * (0 if step < 3 else float("nan"))},
            steps=9,
        )


def test_pictures_are_drawn_once_and_are_the_worlds(tmp_path):
    drawn = render_pictures(tmp_path / "pictures", 5, workers=1, first=40)
    sample = sample_pair(42, references=0)
    assert np.array_equal(drawn["images"][2], sample.picture)
    told = drawn.descriptions()[2]
    assert told == describe_picture(sample.script, 42)
    assert sample.script.scene == told["scene"]
    assert "with" in " ".join(one["caption"] for one in drawn.descriptions())  # looks are described
    assert np.allclose(drawn["boxes"][2, 0], sample.people[0].face_box)
    before = (tmp_path / "pictures" / "images.npy").stat().st_mtime_ns
    render_pictures(tmp_path / "pictures", 5, workers=1, first=40)
    assert (tmp_path / "pictures" / "images.npy").stat().st_mtime_ns == before


def test_heads_are_where_boxes_are():
    """Heads are counted where the boxes are and a little above."""
    places = SIZE[0] // 128  # of a picture of the first design, which the numbers are of
    heads = heads_of(places * np.array([[[16, 24, 40, 56], [80, 24, 104, 56]]] * 300, dtype=np.float32))
    assert heads.shape == (300, SIZE[1] // 8, SIZE[0] // 8)
    top = (24 * places - 8) // 8  # 8 px above
    assert (heads[:, top : 7 * places, 2 * places : 5 * places] == 1).all()
    assert (heads[:, 9 * places :] == 0).all()
    assert (heads[0, :, 7 * places : 9 * places] == 0).all()


@torch.no_grad()
def test_attention_astray_is_of_the_other_side():
    """Attention astray is what a sides words get from the other side."""
    torch.manual_seed(0)
    unet = build_unet()
    attention, placed = TextAttention(unet), torch.full((2, 77), -100)
    placed[0, 3:5], placed[1, 7], placed[1, 9] = 0, 1, 0
    unet(
        torch.randn(2, LATENTS, SIZE[1] // 8, SIZE[0] // 8),
        500,
        torch.randn(2, 77, 160),
        added_cond_kwargs={"text_embeds": torch.randn(2, 96), "time_ids": torch.ones(2, 6)},
    )
    middle = torch.tensor([0.5, 0.25])
    share = attention.astray(placed, middle)
    assert 0.1 < share < 0.9
    exchanged = torch.where(placed >= 0, 1 - placed, placed)
    assert attention.astray(exchanged, middle) == pytest.approx(1 - share.item(), abs=1e-5)
    assert attention.astray(placed[:1], middle[:1] * 0 + 1) == 0  # all of the picture is the left side
    assert attention.astray(torch.full((2, 77), -100), middle) == 0


def test_a_crowd_says_whose_every_face_is(tmp_path):
    alone = render_people(tmp_path / "people", "judge", 4, views=2, workers=1)
    met = render_pair_images(tmp_path / "meetings", "judge", 4, pictures=3, workers=1)
    assert alone["aligned"].shape == (4, 2, 64, 64, 3)
    assert alone["images"].dtype == np.uint8
    assert [one["name"] for one in alone.descriptions()] == [who.name for who in people("judge", 4)]
    assert met["people"].max() < 4
    assert met["heads"].shape == (3, 2, 96, 96, 3)
    assert all(first != second for first, second in met["people"])


def test_drawings_that_were_not_finished_are_drawn_again(tmp_path):
    folder = tmp_path / "pictures"
    render_pictures(folder, 3, workers=1)
    (folder / "told.json").unlink()
    np.save(folder / "images.npy", np.zeros(1))
    assert render_pictures(folder, 3, workers=1)["images"].shape == (3, 96, 128, 3)
    assert Renders(folder).descriptions()[0]["scene"]


ORDINARY = [name for name, stage in STAGES.items() if not stage.for_rows]


def test_every_stage_comes_after_what_it_needs():
    names = list(STAGES)
    for name, stage in STAGES.items():
        assert all(names.index(needed) < names.index(name) for needed in stage.needs), name
        assert 1 <= stage.cores <= build.CORES


def test_a_stage_asks_for_its_needs():
    """One stage asks for what it stands on and nothing else."""
    assert build._wanted("vision") == ["crowd_train", "vision"]
    assert build._wanted("") == ORDINARY


def _counting(folder):
    (folder / "count").write_text((folder / "count").read_text() + "x" if (folder / "count").exists() else "x")


def test_stages_run_once_in_order(tmp_path, monkeypatch):
    """Stages run once in order and a failure names its log."""
    order = []

    def start(folder, name, weights, arguments=(), **_):
        order.append(name)
        code = f"import pathlib, sys; d = pathlib.Path({str(folder)!r}, 'done'); d.mkdir(exist_ok=True); "
        code += "sys.exit(3)" if name == "bad" else f"(d / '{name}.json').write_text('{{\"seconds\": 1}}')"
        return [build.subprocess.Popen([sys.executable, "-c", code])]

    stages = {
        "a": Stage((), _counting, 1, "a"),
        "b": Stage(("a",), _counting, 1, "b"),
        "bad": Stage(("b",), _counting, 1, "c"),
    }
    monkeypatch.setattr(build, "STAGES", stages)
    monkeypatch.setattr(build, "start", start)
    monkeypatch.setattr(build.time, "sleep", lambda _: None)
    build.build(tmp_path, ["a", "b"])
    assert order == ["a", "b"]
    assert finished(tmp_path, "b")
    build.build(tmp_path, ["a", "b"])
    assert order == ["a", "b"]
    with refused("stage-failed", "bad.log", error=TrainingError):
        build.build(tmp_path, ["a", "b", "bad"])


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes where Linux shows them")
def test_sigterm_ends_the_stages_too(tmp_path):
    def running():
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # a process that has ended
                lines.append(path.read_bytes())
        return [line for line in lines if b"training.miniature.stages" in line and str(tmp_path).encode() in line]

    command = [sys.executable, "-m", "training", "mini", "--out", str(tmp_path), "--stage", "pictures"]
    process = subprocess.Popen(command)
    until = time.monotonic() + 60
    while not running() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert running()
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not running()


def test_the_dry_run_lists_the_stages_and_does_nothing(tmp_path, capsys):
    assert training_main(["mini", "--out", str(tmp_path / "run"), "--design", FIRST.name, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ORDINARY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row", "best"], "There is no row 'best'"),
        (["--design", FIRST.name, "--stage", "cooking"], "the stages are pictures"),
        (["--outt", "x"], "outt"),
        (["--row", "full", "--precision", "fp8"], "precision"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(words, message, capsys):
    assert training_main(["mini", *words]) == 1
    assert message in capsys.readouterr().err


def test_the_dry_run_of_an_ablation(capsys):
    """The dry run of a row says what is trained otherwise."""
    assert training_main(["mini", "--row", "order_swapping", "--dry_run"]) == 0
    assert "--augment.swap_order 0.5" in capsys.readouterr().out


def test_configurations_of_the_miniature_are_valid():
    from training.data.settings import PrepareSettings
    from training.miniature.stages import CONFIGS
    from training.parsing import parse
    from training.run.config import TrainConfig

    settings, _ = parse(
        PrepareSettings, "prepare", ["--config", str(CONFIGS / "mini_prepare.yaml"), "--data", "d", "--out", "o"]
    )
    settings.check()
    words = ["--config", str(CONFIGS / "mini.yaml"), "--data.folders", json.dumps([{"path": "shards"}]), "--run", "r"]
    config, _ = parse(TrainConfig, "train", words)
    assert settings.base == config.base.path == "mini"
    assert config.data.gradient_accumulation_steps % build.CORES == 0
