"""Several systems in one table: over the pictures that all have, by one measure, scored by one recognizer."""

import json

import pytest
from support.color_faces import GREEN, LEFT_RIGHT, RED, measure, paint
from support.refused import refused

for package in ("jsonargparse", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.evaluate import main
from training.evaluation.ranking import rank, ranking_table

RIGHT, EXCHANGED = ((RED, GREEN), LEFT_RIGHT), ((GREEN, RED), LEFT_RIGHT)


@pytest.fixture
def systems(tmp_path):
    """Three systems and six cases: one right always, one half of the time, one never."""
    made = {}
    for name, right in (("half", 3), ("all", 6), ("none", 0)):
        folder = tmp_path / name
        folder.mkdir()
        for color, value in (("red", RED), ("green", GREEN)):
            paint(folder / f"{color}.png", value)
        made[name] = measure(folder, *[RIGHT] * right, *[EXCHANGED] * (6 - right))
    return made


def write(folder, systems):
    for name, records in systems.items():
        (folder / name).mkdir(exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / name / "scores.jsonl").write_text(lines)
    return [str(folder / name) for name in systems]


def test_the_best_comes_first_with_what_separates_it_from_the_next(systems):
    ranked, common = rank(systems)
    assert [name for name, _ in ranked] == ["all", "half", "none"]
    assert len(common) == 6
    rows = [line for line in ranking_table(systems).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1] for row in rows[2:]] == ["all", "half", "none"]
    assert rows[2].endswith("|  |")
    assert rows[3].split("|")[-2].strip()


def test_a_measure_of_which_less_is_better_turns_the_order(systems):
    ranked, _ = rank(systems, "blending")
    values = [summaries["blending"].mean for _, summaries in ranked]
    assert values == sorted(values)


def test_only_pictures_that_all_have_count(systems):
    """Left out hard cases win nothing."""
    picky = {**systems, "half": systems["half"][:3]}
    ranked, common = rank(picky)
    assert len(common) == 3
    assert {summaries["right"].mean for name, summaries in ranked if name in ("all", "half")} == {1.0}
    assert "Not counted, since not all have them: all 3, none 3." in ranking_table(picky)


def test_the_command_writes_the_table(systems, tmp_path, capsys):
    folders = write(tmp_path, systems)
    main(["--rank", json.dumps(folders), "--out", str(tmp_path / "ranked")])
    text = (tmp_path / "ranked" / "ranking.md").read_text()
    assert text.startswith("# 3 systems")
    assert text.removeprefix("# 3 systems\n\n") in capsys.readouterr().out


def test_what_cannot_be_ranked_is_refused(systems, tmp_path):
    folders = write(tmp_path, systems)
    with refused("too-few-to-rank", "two different"):
        main(["--rank", json.dumps([folders[0], folders[0]])])
    with refused("no-such-scores", "rank", "nowhere"):
        main(["--rank", json.dumps([folders[0], "nowhere"])])
    with refused("unknown-measure", "beauty", "right"):
        main(["--rank", json.dumps(folders), "--rank_by", "beauty"])
    others = [{**record, "id": f"x{record['id']}"} for record in systems["all"]]
    with refused("nothing-to-rank", "all"):
        rank({"all": others, "half": systems["half"]})
    judged = [{**record, "measured_with": "somebody else"} for record in systems["all"]]
    with refused("ranked-by-other-recognizers", "somebody else"):
        rank({"all": judged, "half": systems["half"]})
