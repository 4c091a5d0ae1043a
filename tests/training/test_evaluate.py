"""`python -m training evaluate`, and the rows of the miniature's table."""

import json
import shutil

import pytest
from support.shards import make_shards
from support.small_base import make_base, make_config

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from PIL import Image
from support.drawn_oracle import POOL, Oracle
from support.refused import refused

from dhumandiff.errors import AdapterError
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.miniature import mini_adapter
from dhumandiff.miniature.base import mini_pipeline, mini_vision
from dhumandiff.miniature.design import DESIGN
from training import TrainingError, export
from training.__main__ import main
from training.data.config import FolderConfig
from training.evaluate import evaluate
from training.evaluation.config import EvaluateConfig
from training.miniature import rendering, scoring
from training.miniature.ablations import ABLATIONS, FIRST_FOLDER, FOLDER, load_results, save_result, score_ablation
from training.miniature.rendering import Renderer
from training.miniature.sampling import Parts, Sampling
from training.miniature.scoring import held_out_cases, summarize
from training.miniature.stages import CONFIGS
from training.miniature.table import brief, percent, plot, report, table
from training.parsing import parse
from training.run.checkpoint import RunFolder
from training.run.config import TrainConfig
from training.run.loop import train

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("others") / "others", samples=4, seed=9)


@pytest.fixture(scope="module")
def run(tmp_path_factory, others):
    folder = tmp_path_factory.mktemp("evaluate")
    shards, base = make_shards(folder / "shards", samples=4), make_base(folder / "base")
    data = {"validation": [others], "validation_batches": 2}
    changes = {"data": data, "objectives": {"localization": {"weight": 0.1, "word_weight": 0.05}}}
    return train(make_config(base, shards, folder / "run", steps=3, **changes)).run


# The loss.


def test_the_loss_is_the_one_that_the_trainer_found(run, tmp_path):
    said = evaluate(EvaluateConfig(run=str(run), out=str(tmp_path)))
    score = RunFolder(run).load(RunFolder(run).best()).score
    assert f"Validation loss: {score:.4f} (2 batches of" in said
    told = json.loads((tmp_path / "scores.json").read_text())
    assert told["validation loss"] == f"{score:.4f}"
    assert told["command"].startswith("python -m training evaluate --run ")
    assert "No picture was drawn: name sentences and photos with --cases" in said
    assert f"python -m training export --run {run} --scores {tmp_path}/scores.json" in said


def test_other_data_can_be_named_and_gives_another_loss(run, tmp_path, capsys):
    data = make_shards(tmp_path / "more", samples=4, seed=3)
    words = ["--run", str(run), "--data+", str(data), "--batches", "1", "--out", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 0
    out = capsys.readouterr().out
    assert f"(1 batches of {data})" in out
    score = RunFolder(run).load(RunFolder(run).best()).score
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["validation loss"] != f"{score:.4f}"


def test_an_adapter_file_is_scored(run, tmp_path):
    """An adapter file is judged on a base and data that are named."""
    adapter = tmp_path / "pair.safetensors"
    shutil.copy(RunFolder(run).path(3) / "average.safetensors", adapter)
    base = run.parent / "base"
    data = make_shards(tmp_path / "more", samples=2)
    said = evaluate(
        EvaluateConfig(adapter=str(adapter), base=str(base), data=[str(data)], batches=1, out=str(tmp_path))
    )
    assert "Validation loss: " in said


def test_a_dry_run_does_nothing(run, tmp_path, capsys):
    """A dry run says what would be done and does nothing."""
    out = tmp_path / "out"
    assert main(["evaluate", "--run", str(run), "--out", str(out), "--dry_run"]) == 0
    assert "Validation loss over 2 batches of 2 out of 4 samples" in capsys.readouterr().out
    assert main(["evaluate", "--pairs", "20", "--seeds", "1", "--hardest", "0", "--out", str(out), "--dry_run"]) == 0
    said = capsys.readouterr().out
    layers = mini_adapter().info.layers
    assert f"Would judge the adapter that ships ({layers} layers, K/V for 2 people) on the base mini." in said
    assert f"20 portraits (mode one_pass, {DESIGN.steps} steps, guidance" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "code", "named"),
    [
        ({"run": "a", "adapter": "b"}, "run-and-adapter", "run and adapter"),
        ({"pairs": 0}, "setting-out-of-range", "pairs is 0"),
        ({"seeds": 101}, "setting-out-of-range", "seeds is 101"),
        ({"out": ""}, "setting-out-of-range", "out is ''"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, code, named):
    with refused(code, named, error=TrainingError):
        EvaluateConfig(**settings)


def test_what_is_not_there_is_named(run, tmp_path):
    with refused("no-such-run", "config.yaml", error=TrainingError):
        evaluate(EvaluateConfig(run=str(tmp_path)))
    with refused("nothing-to-score", "tiny", "--run", "--adapter", error=TrainingError):
        evaluate(EvaluateConfig(base="tiny"))
    with refused("file-missing", "nowhere", error=AdapterError):
        evaluate(EvaluateConfig(adapter=str(tmp_path / "nowhere.safetensors")))


def test_a_run_that_held_nothing_out_asks_for_data(small_base, small_shards, tmp_path):
    run = train(make_config(small_base, small_shards, tmp_path / "run", steps=1)).run
    with refused("no-validation-data", "--data+", error=TrainingError):
        evaluate(EvaluateConfig(run=str(run), out=str(tmp_path / "out")))


def test_a_folder_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    with refused("folder-not-made", "file/out", "Not a directory", error=TrainingError):
        evaluate(EvaluateConfig(run=str(run), out=str(tmp_path / "file" / "out")))


# Pictures. The oracle knows the people's photos and finds no face in anything that was generated, so all scores are 0.


@pytest.fixture(scope="module")
def renderer():
    oracle = Oracle(POOL[:60], (scoring.CONDITIONING_VIEW, scoring.SCORING_VIEW, *scoring.SIMILARITY_VIEWS))
    return Renderer(Parts(PortraitPipeline(mini_pipeline()), mini_vision(), oracle, oracle))


@pytest.fixture
def few(monkeypatch, renderer):
    """Few people, and the oracle in place of the miniature's faces."""
    monkeypatch.setattr(scoring, "POOL", 60)
    monkeypatch.setattr(scoring.Evaluator, "truth", lambda self, script: self.drawn(script.people))
    monkeypatch.setattr(scoring.hardest_cases, "__defaults__", (60, 2))
    monkeypatch.setattr(rendering, "load_parts", lambda: renderer.parts)


def test_pictures_are_judged_on_mini(few, tmp_path, capsys):
    words = [
        "--base",
        "mini",
        "--pairs",
        "2",
        "--seeds",
        "2",
        "--hardest",
        "1",
        "--steps",
        "2",
        "--sheet",
        "2",
        "--out",
    ]
    assert main(["evaluate", *words, str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "2 held-out pairs, 2 seeds" in out
    assert "| right person | 50 % | 98 % | 0.0 % (0.0 to 0.0) |" in out
    assert "right person, 1 hardest pairs of one gender" in out
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert told["evaluated"]["held_out"]["pictures"] == 4
    assert told["evaluated"]["sampling"]["steps"] == 2
    assert (tmp_path / "scores.md").read_text() in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * (192 + 6) + 2 * (256 + 6), 2 * (192 + 40))
    card = export._scores(str(tmp_path / "scores.json"))
    assert card["right person (held-out pairs)"] == "0.0 % (0.0 to 0.0)"
    assert "right person (hardest pairs)" in card


def test_a_row_is_kept_with_what_it_took(few, renderer, tmp_path):
    path = score_ablation("off_0.7", pairs=2, seeds=1, hardest=1, out=tmp_path, renderer=renderer)
    told = json.loads(path.read_text())
    assert path.name == "off_0.7.json"
    assert told["command"] == "python -m training mini --row off_0.7"
    assert (told["sampling"]["mode"], told["sampling"]["strength"]) == ("none", 0.7)
    assert told["held_out"]["measures"]["right"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert {"torch", "diffusers", "numpy"} < set(told["versions"])
    assert {"unet", "judge", "adapter"} < set(told["weights"])
    assert '"right": [0.0, 0.0]' in path.read_text()


def quick_right_person(pairs, renderer=None):
    """ "Right person" of the shipped miniature on a few held-out pairs, one picture each: {"mean", "low", "high"}.

    The regression test for "does it keep two people apart"; a quarter of a minute on one thread for 20 pairs.
    """
    renderer = renderer or Renderer()
    scores = renderer.evaluator.score(*renderer.render(held_out_cases(pairs), 1, mini_adapter(), Sampling()))
    return summarize(scores)["measures"]["right"]


def test_the_quick_figure_is_right_person(few, renderer):
    """The quick figure is right person on a few pairs."""
    assert quick_right_person(2, renderer) == {"mean": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.slow
def test_the_miniature_that_ships_keeps_two_people_apart():
    """20 held-out pairs: surely better than chance, and within their interval as good as its row of the table."""
    found = quick_right_person(20)
    told = load_results()["full"]["held_out"]["measures"]["right"]
    assert found["low"] > 0.5, found
    assert found["high"] >= told["mean"], (found, told)


def test_base_and_ceiling_have_no_adapter(few, renderer, tmp_path):
    for name in ("base", "ceiling"):
        told = json.loads(
            score_ablation(name, pairs=2, seeds=1, hardest=0, out=tmp_path, renderer=renderer).read_text()
        )
        assert "adapter" not in told["weights"]
        assert "hardest" not in told
    assert told["sampling"] is None


def test_unusable_ablations_are_refused(tmp_path):
    """Rows that do not exist or have no weights are refused."""
    with refused("no-such-ablation", "'best'", "full, base, ceiling", error=TrainingError):
        score_ablation("best", out=tmp_path)
    with refused("ablation-without-weights", "shared", "--init.shared true", error=TrainingError):
        score_ablation("shared", out=tmp_path)


@pytest.mark.parametrize("name", [name for name, row in ABLATIONS.items() if row.training])
def test_ablations_change_fields_of_the_configuration(name):
    """What a row changes is a field of the configuration."""
    words = ["--data.folders+", "{path: shards}", *ABLATIONS[name].arguments]
    config, _ = parse(TrainConfig, "train", words)
    usual = TrainConfig(data=config.data)
    assert config.data.folders == [FolderConfig("shards")]
    for dotted, value in ABLATIONS[name].training.items():
        part, *inner = dotted.split(".")
        found = getattr(config, part)
        for field in inner:
            found = getattr(found, field)
        assert found == value
    assert name == "no_localisation" or config != usual or ABLATIONS[name].data


@pytest.mark.parametrize("name", [name for name, row in ABLATIONS.items() if row.trains and not row.weights_of])
def test_two_processes_can_share_every_row_s_training(name):
    """As `python -m training mini --row` starts them."""
    mini = str(CONFIGS / "mini.yaml")
    words = ["--config", mini, *ABLATIONS[name].arguments, "--data.folders+", "{path: shards}"]
    config, _ = parse(TrainConfig, "train", words)
    assert config.data.batch_size // config.data.micro_batch_size % 2 == 0


def row(name, right, words, pairs=40, **more):
    """A row as it is kept, every pair alike."""
    measures = dict.fromkeys(scoring.MEASURES, right) | {"words": words}
    summary = {
        "pictures": pairs,
        "pairs": pairs,
        "measures": {measure: {"mean": value, "low": value - 0.02, "high": value + 0.02} for measure, value in measures.items()},
        "groups": {},
        "by_pair": {measure: [value] * pairs for measure, value in measures.items()},
    }  # fmt: skip
    what = ABLATIONS[name]
    sampling = None if name == "ceiling" else what.sampling.record
    about = {"name": name, "title": what.title, "training": dict(what.training), "sampling": sampling}
    return {**about, "pairs": pairs, "seeds": 3, "held_out": summary, "hardest": summary, **more}


@pytest.fixture
def judged(tmp_path):
    made = [
        ("ceiling", 0.99, 0.97),
        ("full", 0.96, 0.9),
        ("base", 0.5, 0.93),
        ("off_0.4", 0.8, 0.92),
        ("off_1", 0.97, 0.8),
    ]
    made += [("shared", 0.6, 0.9), ("released_0.7_1", 0.95, 0.88), ("two_strength_1_1.3", 0.98, 0.7)]
    for name, right, words in made:
        save_result(row(name, right, words), tmp_path)
    return load_results(tmp_path)


def test_the_table_is_made_from_the_files(judged):
    assert list(judged)[:4] == ["full", "base", "ceiling", "shared"]
    text = table(judged)
    assert (
        "| right person | 50 % | 98 % | 96.0 % (94.0 to 98.0) | 99.0 % (97.0 to 101.0) | 50.0 % (48.0 to 52.0) |"
        in text
    )
    assert "| Sim_GT: cosine to the world's own drawing |  | 0.60 | 0.960 (0.940 to 0.980) |" in text
    assert "Words less those of the base: -3.0 points (-3.0 to -3.0); all three at once: 46.0 points" in text
    assert "| one shared K/V for both people | 60.0 % (58.0 to 62.0) |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {6, 7, 8}
    assert "| row | Sim_GT | Sim_Ref | Copy-Paste | Blending |" in text
    assert "| one shared K/V for both people | 0.600 (0.580 to 0.620) |" in text


def test_a_column_shows_the_miniature_before(judged):
    """The figures of the one before stand beside, where the row was measured on it."""
    text = table(judged, before={"full": row("full", 0.5, 0.6)})
    assert "| base without adapter | first miniature |" in text
    assert "50.0 % (48.0 to 52.0) | 50.0 % (48.0 to 52.0) |" in text
    assert "first miniature" not in table(judged, before={})


def test_rows_of_other_steps_are_held_against_the_method_with_as_few(judged):
    """Shared projections against the whole method, unless that was trained as briefly."""
    assert "| one shared K/V for both people | the whole method (one_pass, 0.7 and 1) |" in table(judged)
    brief_training = row("full", 0.7, 0.9, title="briefly trained")
    assert "| one shared K/V for both people | briefly trained |" in table({**judged, "short": brief_training})


def test_document_and_page_show_the_results(judged, tmp_path):
    """The document shows the goals and each part and the page shows all rows."""
    text = brief(judged)
    assert text.startswith("40 held-out pairs")
    assert "| one shared K/V for both people | 60.0 % (58.0 to 62.0) |" in text
    assert "cascade off, strength 0.4" not in text
    page = report(judged, tmp_path / "README.md").read_text()
    assert page.startswith("# ")
    assert page.endswith(table(judged))
    with refused("cannot-write", "no", error=TrainingError):
        report(judged, tmp_path / "no" / "README.md")


def test_documents_match_the_shipped_results(tmp_path):
    """What the documents and the page say is what the shipped rows say."""
    shipped, before = load_results(), load_results(FIRST_FOLDER)
    assert report(shipped, tmp_path / "README.md", before).read_text() == (FOLDER / "README.md").read_text()
    document = (FOLDER.parents[2] / "docs" / "miniature.md").read_text()
    missing = [line for line in brief(shipped, before=before).splitlines() if line and line not in document]
    assert missing == []


def test_the_plot_is_a_picture(judged, tmp_path):
    pytest.importorskip("matplotlib")
    with Image.open(plot(judged, tmp_path / "plot.png")) as picture:
        assert picture.size == (1300, 585)
    with refused("cannot-write", "no", error=TrainingError):
        plot(judged, tmp_path / "no" / "plot.png")


def test_a_damaged_row_is_named(tmp_path):
    (tmp_path / "full.json").write_text('{"name": "full"')
    with refused("unreadable-result", "full.json", error=TrainingError):
        load_results(tmp_path)


def test_percentages_read_well():
    assert percent({"mean": 0.9715, "low": 0.95, "high": 1.0}) == "97.2 % (95.0 to 100.0)"
