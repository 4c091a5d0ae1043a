"""`python -m benchmarks.parts`, on widths that a test can afford."""

from benchmarks import parts


def test_each_round_measures_all_calls_beside_a_plain_one(monkeypatch, capsys):
    saved = {}
    monkeypatch.setattr(parts, "WIDTHS", (32, 32, 64, 64))
    monkeypatch.setattr(parts, "CONTEXT", 24)
    monkeypatch.setattr(parts, "POSE", (*parts.POSE[:-1], (256, 32)))
    monkeypatch.setattr(parts, "save", lambda name, result: saved.update({name: result}))
    parts.main(
        ["--size", "64x64", "--counts", "0,1,2", "--variants", "parts,dropped", "--repeats", "2", "--name", "small"]
    )
    result = saved["small"]
    assert list(result["calls"]) == ["0 parts", "1 parts", "1 dropped", "2 parts", "2 dropped"]
    assert all(len(call["rounds"]) == 2 and call["ratio"] > 0 for call in result["calls"].values())
    assert result["calls"]["0 parts"]["ratio"] == 1
    assert result["settings"]["size"] == "64x64"
    assert "encoding a part" in capsys.readouterr().out


def test_without_a_plain_call_there_is_no_ratio(monkeypatch):
    saved = {}
    monkeypatch.setattr(parts, "WIDTHS", (32, 32, 64, 64))
    monkeypatch.setattr(parts, "CONTEXT", 24)
    monkeypatch.setattr(parts, "POSE", (*parts.POSE[:-1], (256, 32)))
    monkeypatch.setattr(parts, "save", lambda name, result: saved.update({name: result}))
    parts.main(["--size", "64x64", "--counts", "1", "--variants", "parts", "--repeats", "1"])
    assert saved["parts_64x64"]["calls"]["1 parts"]["ratio"] is None
