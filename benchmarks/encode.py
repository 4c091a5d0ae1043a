"""Time from photos to a reference: the first time, the second, and from a file.

    python -m benchmarks.encode --photos anna.jpg ben.jpg --face-root ~/.insightface
    python -m benchmarks.encode --photos anna.jpg ben.jpg --face-pack tiny     # without face models

Runs in a process that has loaded nothing: the first use is told with the loading of the models. The vision tower has CLIP ViT-H/14's
size and random weights, made anew for every run, since how long it takes does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from .results import machine, save

VIT_H = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", nargs="+", type=Path, required=True, help="one photo a person")
    parser.add_argument("--face-pack", default="buffalo_l", help="InsightFace pack, or tiny (default buffalo_l)")
    parser.add_argument("--face-root", type=Path, help="where models/<pack> is")
    parser.add_argument("--repeats", type=int, default=5, help="of everything but the first time (default 5)")
    given = parser.parse_args(arguments)

    from dhumandiff import FaceReference
    from dhumandiff.references.encode import encode_reference

    begin = time.perf_counter()
    vision, faces = _vision(), _faces(given)
    loaded = time.perf_counter()
    photos = [str(photo) for photo in given.photos]
    times: list[float] = []
    for _ in range(given.repeats + 1):
        start = time.perf_counter()
        references = [encode_reference(photo, vision, faces)[0] for photo in photos]
        times.append((time.perf_counter() - start) / len(photos))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "person.safetensors"
        references[0].save(path)
        loading = [_timed(lambda: FaceReference.load(path)) for _ in range(given.repeats)]
    told = {
        "load_models": loaded - begin,
        "first": times[0],
        "second": statistics.median(times[1:]),
        "saved": statistics.median(loading),
    }
    for name, seconds in told.items():
        print(f"{name:12} {seconds:8.3f} s")
    settings = {"pack": given.face_pack, "photos": len(photos), "repeats": given.repeats}
    save("encode", {"settings": settings, "machine": machine(), "seconds": told})


def _timed(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _vision() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from dhumandiff.hosts.diffusers.vision import ClipVision

    return ClipVision(CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT_H)).eval())


def _faces(given: argparse.Namespace) -> Any:
    if given.face_pack == "tiny":
        from dhumandiff.testing import tiny_faces

        return tiny_faces()
    from dhumandiff.faces import load_face_analysis

    root = {} if given.face_root is None else {"root": given.face_root}
    return load_face_analysis(given.face_pack, **root)


if __name__ == "__main__":
    main()
