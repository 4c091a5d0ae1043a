"""Every part of `python -m benchmarks.gpu` on tiny models on the CPU: the code that a card runs, but for its sizes."""

import json

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.inference import VARIANTS
from benchmarks.gpu.tables import section


def run(part, tmp_path):
    """The cases of a part, and the page's part made of them."""
    words = [
        "--small",
        "--device",
        "cpu",
        "--part",
        part,
        "--out",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "work"),
    ]
    assert command.main(words) == 0
    [file] = (tmp_path / "out").glob(f"*/{part}.json")
    return json.loads(file.read_text())["cases"], section(tmp_path / "out")


@pytest.mark.slow
def test_inference(tmp_path):
    cases, page = run("inference-512", tmp_path)
    assert set(cases) == {f"512px_batch{images}_{dtype}" for images in (1, 4) for dtype in ("fp16", "bf16")}
    for case in cases.values():
        assert set(case["variants"]) == set(VARIANTS)
        assert all(figures["seconds"] > 0 and figures["ratio"] > 0 for figures in case["variants"].values())
    assert "| cascade `released` | " in page
    assert "512px, batch1, fp16" in page


@pytest.mark.slow
def test_compiled(tmp_path):
    cases, page = run("compiled-512-batch1-fp16", tmp_path)
    for case in cases.values():
        assert case["graphs"] >= 1
        assert case["breaks_by_us"] <= case["breaks"]
        assert set(case["first_run_seconds"]) == set(case["variants"])
    assert "graph breaks" in page
