"""What scoring leaves behind: rows for a spreadsheet, the page, and the whole command on the miniature."""

import json
import math
import re

import pytest
from PIL import Image
from support.color_faces import GREEN, LEFT_RIGHT, RED, measure, paint

for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.layout.person_style import person_color
from training.__main__ import main as training_main
from training.evaluation.page import page
from training.evaluation.tables import csv_text, markdown


@pytest.fixture
def folder(tmp_path):
    paint(tmp_path / "red.png", RED)
    paint(tmp_path / "green.png", GREEN)
    return tmp_path


def test_figures_come_as_rows_for_a_spreadsheet(folder):
    text = csv_text(measure(folder, ((RED, GREEN), LEFT_RIGHT), (None, LEFT_RIGHT)))
    head, *rows = [line.split(",") for line in text.splitlines()]
    assert [row[head.index("id")] for row in rows] == ["c0", "c0", "c1"]
    assert rows[0][head.index("right")] == "True"
    assert math.isclose(float(rows[1][head.index("sim_ref")]), 1)
    assert rows[2][head.index("problem")]


def test_the_page_shows_every_picture(folder):
    """The page shows every picture and escapes what people wrote."""
    records = measure(folder, ((RED, GREEN), '<b>"A man@1"</b> on the left & a woman@2.'), (None, LEFT_RIGHT))
    (folder / "out").mkdir()
    text = page(records, folder / "out", "<title>", "| a | b |")
    assert len(re.findall("<figure", text)) == 2
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "<title>&lt;title&gt;" in text
    assert 'src="../made_0.png"' in text
    assert len(re.findall("<rect", text)) == 2
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


def test_a_box_has_the_numbers_of_its_own_face(folder):
    """Of exchanged people each box says whom its own face is like, not what the other face scored."""
    exchanged = measure(folder, ((GREEN, RED), LEFT_RIGHT))
    assert [person["right"] for person in exchanged[0]["persons"]] == [False, False]
    text = page(exchanged, folder, "title", "")
    left, right = re.findall(r"<text x=\"([\d.]+)\" y=\"([\d.]+)\".*?fill=\"(.*?)\".*?>(.*?)</text>", text)
    (red, green) = exchanged[0]["likeness"][1]
    assert red > 0.99 > green
    assert left[3] == f"1: {green:.2f} 2: 1.00 should be 1"
    assert right[3] == f"1: 1.00 2: {green:.2f} should be 2"
    assert left[2] == person_color(1)
    assert all(float(y) > 1 for _, y, _, _ in (left, right))  # the faces touch the picture's top


def test_few_pictures_have_no_interval(folder):
    one = measure(folder, ((RED, GREEN), LEFT_RIGHT))
    assert "(95 %)" in markdown(one, one)
    assert " to " not in "".join(line for line in markdown(one, one).splitlines() if line.startswith("|"))
    (folder / "scores.jsonl").unlink()
    six = measure(folder, *[((RED, GREEN), LEFT_RIGHT)] * 6)
    assert "| 1.000 (1.000 to 1.000) |" in markdown(six)


def test_the_command_draws_scores_and_compares_on_the_miniature(tmp_path, capsys):
    pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
    from dhumandiff.miniature.world import draw_reference, people

    lines = []
    for number, (first, second) in enumerate([people("test", 2)]):
        for who in (first, second):
            Image.fromarray(draw_reference(who, 1).picture).save(tmp_path / f"{who.name}.png")
        prompt = "A person@1 on the left in a red suit and a person@2 on the right in a blue dress stand at the beach."
        photos = [f"{who.name}.png" for who in (first, second)]
        lines.append(json.dumps({"id": f"p{number}", "prompt": prompt, "references": photos}))
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    command = [
        "evaluate",
        "--cases",
        str(tmp_path / "cases.jsonl"),
        "--base",
        "mini",
        "--out",
        str(out),
        "--seeds",
        "2",
    ]
    command += ["--steps", "2", "--strengths", "[0.5,1.0]"]
    training_main([*command, "--dry_run"])
    assert "4 portraits to draw on mini" in capsys.readouterr().out
    assert not out.exists()
    training_main(command)
    told = capsys.readouterr().out
    assert "4 pictures scored" in told
    assert {path.name for path in (out / "pictures").iterdir()} == {
        f"p0_x{factor}_{seed}.png" for factor in ("0.5", "1") for seed in (0, 1)
    }
    for name in ("scores.jsonl", "scores.md", "scores.csv", "scores.html", "scores.json", "spread.png"):
        assert (out / name).stat().st_size > 0
    before = {path: path.stat().st_mtime_ns for path in (out / "pictures").iterdir()}
    training_main([*command, "--against", str(out)])
    assert "picture by picture" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (out / "pictures").iterdir()} == before
    finished = [
        "evaluate",
        "--cases",
        str(tmp_path / "cases.jsonl"),
        "--pictures",
        str(out / "pictures"),
        "--base",
        "mini",
    ]
    training_main([*finished, "--out", str(tmp_path / "again")])
    assert "belong to no case" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--pictures", "x"], "pictures goes with cases"),
        (["--cases", "a", "--bench", "b"], "Name one of them"),
        (["--cases", "nothing.jsonl"], "cannot be read"),
        (["--bench", "nowhere"], "no folder"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, said, tmp_path, capsys):
    assert training_main(["evaluate", "--out", str(tmp_path / "out"), *given]) != 0
    assert said in capsys.readouterr().err
