"""Scores of the miniature by what people look like."""

import re

import numpy as np
import pytest
from support.drawn_oracle import POOL, Oracle

for package in ("diffusers", "transformers"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.world import draw_script
from training.miniature import scoring
from training.miniature.fairness import PERSON_MEASURES, looks_like, people_table, summarize_people
from training.miniature.scoring import Evaluator, held_out_cases, summarize
from training.miniature.table import table


@pytest.fixture(scope="module")
def cases():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "POOL", 60)
        return held_out_cases(12)


def by(cases, worth):
    """Values [pictures, 2] of every measure: what `worth` says of a person."""
    values = np.array([[worth(who) for who in case.script.people] for case in cases], float)
    return dict.fromkeys(PERSON_MEASURES, values)


def test_every_person_is_counted_once_in_every_kind(cases):
    found = summarize_people([case for case in cases for _ in range(3)], by(np.repeat(cases, 3), lambda _: 1.0), 50)
    assert set(found) == {"gender", "age_group", "skin_tone"}
    assert all(sum(group["people"] for group in groups.values()) == 24 for groups in found.values())
    assert all(
        measure == {"mean": 1.0, "low": 1.0, "high": 1.0}
        for groups in found.values()
        for group in groups.values()
        for measure in group["measures"].values()
    )


def test_a_group_has_the_scores_of_its_own_people(cases):
    found = summarize_people(cases, by(cases, lambda who: who.gender == "woman"), 50)
    assert found["gender"]["woman"]["measures"]["right"]["mean"] == 1
    assert found["gender"]["man"]["measures"]["right"]["mean"] == 0
    skin = summarize_people(cases, by(cases, lambda who: who.skin > 2 / 3), 50)["skin_tone"]
    assert skin["dark"]["measures"]["words"]["mean"] == 1
    assert skin["light"]["measures"]["words"]["mean"] == skin["medium"]["measures"]["words"]["mean"] == 0


def test_intervals_are_wider_for_fewer_pairs(cases):
    random = np.random.default_rng(0)
    values = {"right": random.random((12, 2)).round()}
    widths = [
        (lambda each: each["high"] - each["low"])(
            summarize_people(cases[:count], {"right": values["right"][:count]}, 500)["gender"]["man"]["measures"][
                "right"
            ]
        )
        for count in (4, 12)
    ]
    assert widths[0] > widths[1]


def test_groups_are_named_as_cases_name_them():
    assert looks_like(POOL[0]).keys() == {"gender", "age_group", "skin_tone"}
    assert {looks_like(who)["skin_tone"] for who in POOL} == {"light", "medium", "dark"}


def test_the_table_says_who_is_told_apart(cases):
    """Pictures with both people exchanged: everybody's words are right, and nobody's face."""
    oracle = Oracle(POOL[:60], (scoring.CONDITIONING_VIEW, scoring.SCORING_VIEW))
    pictures = []
    for case in cases:
        script = case.script
        order = script.people if script.first_is_left else script.people[::-1]
        oracle.show(draw_script(script, scoring.TRUTH_SEED, SIZE), order)
        pictures.append(oracle.show(draw_script(script, 5, SIZE), order[::-1]))
    summary = summarize(Evaluator(oracle).score(np.stack(pictures), cases), draws=50)
    text = "\n".join(people_table(summary["people"]))
    lines = re.findall(r"\| gender: (?:wo)?man \| \d+ \| (\S+) % .*?\| \S+ % .*?\| (\S+) %", text)
    assert [float(right) for right, _ in lines] == [0, 0]
    assert min(float(words) for _, words in lines) > 90
    assert float(100 * summary["measures"]["right"]["mean"]) == 0
    row = {"title": "all", "pairs": 12, "seeds": 1, "held_out": summary, "sampling": None}
    assert text in table({"full": row})
