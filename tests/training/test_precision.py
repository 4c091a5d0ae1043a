"""Mixed precision by itself is what the GPU computes in."""

import pytest
import torch
from support.refused import refused

from training.run.precision import choose_precision


@pytest.mark.parametrize(
    ("gpu", "real_bf16", "expected"), [(False, True, "no"), (True, True, "bf16"), (True, False, "fp16")]
)
def test_auto_takes_bf16_only_where_it_is_no_imitation(monkeypatch, gpu, real_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real_bf16
    )
    assert choose_precision("auto") == expected


def test_fp16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused("fp16-without-gpu", "bf16"):
        choose_precision("fp16")
