"""Identity against words: what stands for a rival at equal words, the regions of a sentence, and a router's overlap."""

import numpy as np
import pytest
import torch
from support.refused import refused

for package in ("diffusers", "matplotlib", "transformers"):
    pytest.importorskip(package, reason=f"install it with: pip install {package}")

from dhumandiff.methods.dual_pathway import DualPathwaySettings
from dhumandiff.miniature.world import sample_script, sample_strangers
from training.data.dataset import open_dataset
from training.miniature.ablations import ABLATIONS, FIRST_FOLDER, load_results
from training.miniature.frontier import RIVALS, at_equal, frontier_table, plot_frontier, unbeaten
from training.miniature.regions import head_regions
from training.miniature.routing import measure_routing, overlap
from training.miniature.sampling import Sampling

PAIRS = 40


def row(name, words, recognition, dual=False):
    """A row whose pairs all have the same values."""
    values = {"words": words, "recognition": recognition, "right": recognition, "present": words}
    measures = {key: {"mean": value, "low": value, "high": value} for key, value in values.items()}
    by_pair = {key: [value] * PAIRS for key, value in values.items()}
    sampling = {"mode": "none", **({"dual": {}} if dual else {})}
    return {"name": name, "title": name, "sampling": sampling, "held_out": {"measures": measures, "by_pair": by_pair}}


LINE = [row("weak", 0.98, 0.30), row("middle", 0.96, 0.70), row("strong", 0.90, 0.74), row("beaten", 0.89, 0.60)]


def test_rows_that_another_beats_in_both_are_left_out():
    assert [each["name"] for each in unbeaten(LINE)] == ["strong", "middle", "weak"]


@pytest.mark.parametrize(
    ("words", "rival"), [(0.97, 0.50), (0.96, 0.70), (0.93, 0.72), (0.99, 0.30), (0.80, 0.74)], ids=str
)
def test_a_row_is_held_against_what_its_rivals_have_at_the_same_words(words, rival):
    found = at_equal(row("dual", words, 0.75), LINE)
    assert found["mean"] == pytest.approx(0.75 - rival)
    assert found["low"] == pytest.approx(found["high"])


def test_at_equal_recognition_words_are_compared():
    found = at_equal(row("dual", 0.99, 0.5), LINE, "recognition", "words")
    assert found["mean"] == pytest.approx(0.99 - 0.97)


def test_rows_of_other_pairs_are_not_compared():
    other = row("dual", 0.97, 0.5)
    other["held_out"]["by_pair"]["recognition"] = [0.5] * 3
    assert at_equal(other, LINE) is None


def test_table_and_plot_show_both_methods(tmp_path):
    rows = {name: row(name, 0.9 + 0.01 * n, 0.7 - 0.1 * n) for n, name in enumerate(RIVALS["one_pass"])}
    rows["dual"] = row("dual", 0.97, 0.7, dual=True)
    text = frontier_table(rows)
    assert "| dual | one_pass |" in text
    assert "one strength" not in text
    assert plot_frontier(rows, tmp_path / "frontier.png").stat().st_size > 5000
    with refused("frontier-not-written", "frontier.png"):
        plot_frontier(rows, tmp_path / "nowhere" / "frontier.png")


def test_the_rivals_are_rows_that_were_measured():
    rows = load_results(FIRST_FOLDER) | load_results()
    assert {name for line in RIVALS.values() for name in line} <= set(rows) & set(ABLATIONS)
    assert "| dual" not in frontier_table({name: each for name, each in rows.items() if "dual" not in name})


def test_a_row_of_the_dual_pathway_says_its_settings():
    sampling = Sampling.of(dual=DualPathwaySettings(1.2, 0.3))
    assert sampling.record["dual"]["identity_strength"] == 1.2
    assert sampling.all_steps == sampling.sampling.steps
    assert "dual" not in Sampling().record
    assert ABLATIONS["dual_router"].sampling.dual.regions == "router"
    assert ABLATIONS["dual_trained"].arguments[0] == "--config"


def test_heads_lie_where_the_sentence_puts_them_and_apart():
    for seed in range(6):
        script = sample_script(seed, sample_strangers(seed))
        first, second = head_regions(script, (64, 48))
        left, right = (first, second) if script.first_is_left else (second, first)
        assert left[:, 32:].sum() == 0
        assert right[:, :32].sum() == 0
        assert not (first * second).any()
        assert 0.1 < float(left.mean()) < 0.25


def test_overlap_is_intersection_over_union():
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert overlap(mask, mask) == 1
    assert overlap(mask, 1 - mask) == 0
    assert overlap(torch.tensor([0.0, 1.0, 1.0, 0.0]), mask) == pytest.approx(1 / 3)


def test_a_router_is_measured_beside_the_attention(small_base, small_shards):
    from support.small_base import make_config

    from training.run.base import load_base
    from training.run.init import init_adapter

    config = make_config(small_base, small_shards, "run")
    base, folder = load_base(str(small_base), text_encoder=True, vae=False), open_dataset(str(small_shards))
    adapter = init_adapter(config.init, base, folder, 0)
    pathway = with_router(adapter, folder.header["vision"]["clip_width"])
    found = measure_routing(pathway, folder, str(small_base), min_layer_size=16)
    assert found["pictures"] == folder.samples
    for level in found["levels"].values():
        assert set(level) == {"router", "attention", "chance", "exchanged", "people"}
        assert all(0 <= each["low"] <= each["mean"] <= each["high"] <= 1 for each in level.values())
    again = measure_routing(pathway, folder, str(small_base), min_layer_size=16)
    assert np.allclose(found["levels"]["0.9"]["router"]["mean"], again["levels"]["0.9"]["router"]["mean"])


def with_router(adapter, clip_width):
    from dhumandiff.methods.dual_pathway import DualPathway, Router

    return DualPathway(adapter, router=Router(adapter.info.hidden, clip_width, 8)).requires_grad_(False)
