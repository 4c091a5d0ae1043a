"""The part of docs/benchmarks.md about GPUs, and whether what was to be reached was."""

import json

import pytest
from support.refused import refused

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from benchmarks.gpu.goals import GOALS, judge
from benchmarks.gpu.tables import NOTHING, section
from benchmarks.report import MARKS, write_gpu_section

PAIR, ONE_PASS, BREAKS, RATE, SHARE = GOALS


def ratio(value, low, high):
    return {"ratio": value, "low": low, "high": high, "seconds": 0.1, "peak": 2**30, "rounds": 8}


def inference(*pairs):
    return {"inference-1024": {f"case {n}": {"variants": {"pair": ratio(*pair)}} for n, pair in enumerate(pairs)}}


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(1.02, 1.01, 1.03)], "reached"),
        ([(1.05, 1.04, 1.06)], "not reached"),
        ([(1.03, 1.02, 1.04)], "not decided"),
        ([(1.02, 1.01, 1.03), (1.05, 1.04, 1.06)], "reached in 1 of 2 cases"),
        ([], "not measured"),
    ],
)
def test_a_ratio_is_judged_with_its_interval(pairs, verdict):
    assert judge(PAIR, inference(*pairs), "NVIDIA H100")[1] == verdict


def test_a_rate_is_asked_of_its_card_alone():
    training = {"training-sdxl_48gb": {"512px": {"samples_per_second": 63.0}, "1024px": {"samples_per_second": 15.0}}}
    assert judge(RATE, training, "NVIDIA H100 80GB") == ("63.0", "reached")
    assert judge(RATE, training, "NVIDIA RTX 4090") == ("", "asked of an H100")


def test_shares_and_breaks_are_judged_by_the_number():
    assert judge(SHARE, {"training-a": {"x": {"unet_share": 0.94}}}, "")[1] == "not reached"
    assert judge(BREAKS, {"compiled-a": {"x": {"breaks_by_us": 0}}}, "") == ("0", "reached")
    assert judge(BREAKS, {"compiled-a": {"x": {"out_of_memory": "..."}}}, "")[1] == "not measured"


def result(part, cases, card="NVIDIA H100"):
    facts = {"card": card, "memory": 80 * 2**30, "driver": "550", "cuda": "12.4", "torch": "2.9", "diffusers": "0.36"}
    facts |= {"size": "real", "machine": {"cpu": "EPYC", "system": "Linux"}}
    dated = {name: {"date": "2026-12-01", **case} for name, case in cases.items()}
    return {"format": "dhumandiff-gpu-benchmark", "part": part, "setup": facts, "command": "", "cases": dated}


@pytest.fixture
def measured(tmp_path):
    folder = tmp_path / "results" / "NVIDIA-H100"
    folder.mkdir(parents=True)
    turns = {
        "plain": ratio(1, 1, 1),
        "pair": ratio(1.02, 1.01, 1.03),
        "released": {"out_of_memory": "out of memory at 81 of 80 GiB"},
    }
    cases = {"1024px_batch1_fp16": {"variants": turns}}
    (folder / "inference-1024.json").write_text(json.dumps(result("inference-1024", cases)))
    (folder / "comfyui.json").write_text(json.dumps(result("comfyui", {"host tests": {"passed": 120, "failed": 0}})))
    return folder.parent


def test_the_page_has_a_heading_a_card_and_a_row_a_variant(measured):
    told = section(measured)
    assert "### NVIDIA H100" in told
    assert "driver 550, CUDA 12.4, PyTorch 2.9" in told
    assert "| pair | 1.020 (1.010 to 1.030), 0.1 s, 1.0 GiB |" in told
    assert "| cascade `released` | out of memory at 81 of 80 GiB |" in told
    assert "| the pair at most 1.03 times plain at 1024 px | 1.02 | reached |" in told
    assert "| host tests | passed 120; failed 0 |" in told
    assert NOTHING not in told


def test_without_files_the_page_says_that_nothing_was_measured(tmp_path):
    assert section(tmp_path).startswith(NOTHING)
    assert "`inference-512`" in section(tmp_path)


def test_a_page_is_written_between_its_marks_and_stays_so(measured, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for _ in range(2):
        write_gpu_section(page, measured)
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert text.count("### NVIDIA H100") == 1
        assert "old" not in text


def test_a_page_without_marks_is_refused(measured, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with refused("page-without-marks", "page.md"):
        write_gpu_section(page, measured)


def test_a_broken_file_is_refused_by_the_page_too(measured):
    (measured / "NVIDIA-H100" / "comfyui.json").write_text("{")
    with refused("result-not-read", "comfyui.json"):
        section(measured)


def test_figures_of_two_cards_in_one_folder_are_refused(measured):
    other = result("inference-512", {"a": {"value": 1}}, card="NVIDIA A100")
    (measured / "NVIDIA-H100" / "inference-512.json").write_text(json.dumps(other))
    with refused("results-of-several-setups", "NVIDIA A100", "NVIDIA H100"):
        section(measured)
