"""What Parts2Whole costs at Stable Diffusion 1.5's own widths: one call of the UNet with 0, 1, 2 and 4 parts, and with masks.

    python -m benchmarks.parts                               # 512 x 512, fp32, on the CPU
    python -m benchmarks.parts --counts 0,1,2,3,4 --repeats 1 --name parts_each_512x512
    python -m benchmarks.parts --size 512x768 --counts 4 --variants parts --repeats 1

Random weights, written into a temporary folder (3.5 GB) and read as a released one. A call is [unconditional; conditional], with a
pose; the parts' features are made before, as in a run of many steps. Times are of the processor, so that other programs do not
count, and each round has all of them, so that a ratio is of calls that lie beside each other: the median over rounds. The masks cover a quarter of each picture; "dropped" leaves out what they exclude. What is to be reached: four parts at most
2.0 times a plain call, dropped masks less.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .peak import peak, reset_peak
from .results import machine, save

WIDTHS = (320, 640, 1280, 1280)
CONTEXT = 768
POSE = ((3, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256), (256, 320))


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parts", description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="512x512", help="width x height, px (default 512x512)")
    parser.add_argument("--counts", default="0,1,2,4", help="numbers of parts (default 0,1,2,4)")
    parser.add_argument("--variants", default="parts,masks,dropped", help="default parts,masks,dropped")
    parser.add_argument(
        "--repeats", type=int, default=3, help="rounds (default 3); before each call is one that does not count"
    )
    parser.add_argument("--name", help="of the result's file (default parts_ and the size)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: its own)")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    width, height = map(int, given.size.split("x"))
    counts, variants = [int(n) for n in given.counts.split(",")], given.variants.split(",")
    with tempfile.TemporaryDirectory() as folder:
        told = _measure(Path(folder), (height // 8, width // 8), counts, variants, given.repeats)
    plain = told["calls"].get("0 parts", {}).get("rounds")
    for name, numbers in told["calls"].items():
        ratios = [ours / theirs for ours, theirs in zip(numbers["rounds"], plain or (), strict=bool(plain))]
        numbers["ratio"] = statistics.median(ratios) if plain else None
        ratio = f"{numbers['ratio']:5.2f}" if plain else "    -"
        print(f"{name:18} {numbers['seconds']:8.2f} s  {ratio} x  peak {numbers['peak'] / 2**30:5.2f} GiB")
    print(
        f"loading {told['load']:.1f} s, encoding a part {told['encode']:.1f} s, highest {told['highest'] / 2**30:.2f} GiB"
    )
    settings = {"size": given.size, "repeats": given.repeats, "threads": torch.get_num_threads(), "dtype": "float32"}
    save(given.name or f"parts_{given.size}", {"settings": settings, "machine": machine(), **told})


def _measure(
    folder: Path, size: tuple[int, int], counts: list[int], variants: list[str], repeats: int
) -> dict[str, Any]:
    from dhumandiff.methods.parts2whole import Parts2Whole

    write_random(folder)
    gc.collect()
    begin = time.process_time()
    weights = Parts2Whole.from_pretrained(folder)
    parts = {variant: [random_part(size, n, variant != "parts") for n in range(max(counts))] for variant in variants}
    loaded = time.process_time()
    weights.bank(parts[variants[0]][:1])  # the encoder is made here, around the file's tensors
    encoded = time.process_time()
    for variant in variants:
        weights.bank(parts[variant])
    highest = peak()
    weights.free_encoder()
    gc.collect()
    unet = random_unet(1)
    x, text, pose = torch.randn(2, 4, *size), torch.randn(2, 77, CONTEXT), torch.rand(1, 3, 8 * size[0], 8 * size[1])
    calls: dict[str, dict[str, Any]] = {}
    for _ in range(repeats):
        for count in counts:
            for variant in variants if count else ("parts",):
                attached = contextlib.nullcontext()
                if count:
                    attached = weights.attach(unet, parts[variant][:count], pose, drop_masked=variant == "dropped")
                with attached, torch.no_grad():
                    seconds, most = _call(lambda: unet(x, 500, encoder_hidden_states=text))
                kept = calls.setdefault(f"{count} {variant}", {"rounds": [], "peak": 0})
                kept["rounds"].append(seconds)
                kept["seconds"], kept["peak"] = statistics.median(kept["rounds"]), max(kept["peak"], most)
                highest = max(highest, most)
                print(f"{count} {variant}: {seconds:.1f} s", flush=True)
    return {"calls": calls, "load": loaded - begin, "encode": encoded - loaded, "highest": highest}


def _call(call: Any) -> tuple[float, int]:
    """Seconds of the processor, and the highest memory."""
    call()  # keys and values of the parts are made here
    gc.collect()
    reset_peak()
    begin = time.process_time()
    call()
    return time.process_time() - begin, peak()


def random_unet(seed: int) -> Any:
    """Stable Diffusion 1.5's UNet."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=WIDTHS, cross_attention_dim=CONTEXT, attention_head_dim=8
    )
    return unet.requires_grad_(False).eval()


def write_random(folder: Path) -> None:
    """A released folder of random weights."""
    from dhumandiff.formats.parts2whole import ABSENT, layers_of

    encoder = random_unet(0)
    encoder.save_config(folder / "reference_unet")
    tensors = {name: tensor for name, tensor in encoder.state_dict().items() if name not in ABSENT}
    save_file(tensors, folder / "reference_unet" / "diffusion_pytorch_model.safetensors")
    names = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    pose = {
        f"{name}.weight": 0.02 * torch.randn(out, into, 3, 3) for name, (into, out) in zip(names, POSE, strict=True)
    }
    pose |= {f"{name}.bias": torch.zeros(out) for name, (_, out) in zip(names, POSE, strict=True)}
    (folder / "pose_guider").mkdir()
    save_file(pose, folder / "pose_guider" / "diffusion_pytorch_model.safetensors")
    decoupled = {}
    for layer in layers_of(tensors):
        for kind in ("k", "v"):
            shape = (tensors[f"{layer}.norm1.weight"].shape[0], CONTEXT)
            decoupled[f"{layer}.attn2.processor.to_{kind}_dc.weight"] = torch.randn(shape) / CONTEXT**0.5
    save_file(decoupled, folder / "decoupled_attn.pth")


def random_part(size: tuple[int, int], seed: int, masked: bool) -> Any:
    """A part of latents (height, width); masked: all but a quarter of it."""
    from dhumandiff.methods.parts2whole import LABELS, Part

    generator = torch.Generator().manual_seed(seed)
    mask = None
    if masked:  # a quarter of the picture
        height, width = 8 * size[0], 8 * size[1]
        mask = torch.zeros(1, 1, height, width)
        mask[..., height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 1
    return Part(
        LABELS[seed % len(LABELS)],
        torch.randn(1, 4, *size, generator=generator),
        mask,
        torch.randn(1, 77, CONTEXT, generator=generator),
        torch.randn(1, CONTEXT, generator=generator),
    )


if __name__ == "__main__":
    main()
