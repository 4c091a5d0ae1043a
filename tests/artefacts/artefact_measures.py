"""What is computed of the artefacts: by make.py with the commit that made them, by test_artefacts.py with the code under test.

Both run these very lines. The project is entered where its users enter it: files, command lines, nodes by their ids, and the
few names under "the project's entries", the one place to mend when a name changes. Bases are built in artefact_bases.py, so that
no change of the project's helpers can change them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from artefact_bases import small_unet
from PIL import Image
from safetensors.torch import load_file

# --- the project's entries ----------------------------------------------------------------------------------------------


def load_reference(path):
    from dhumandiff import FaceReference

    return FaceReference.load(path)


def load_adapter(path):
    from dhumandiff import Adapter

    return Adapter.from_pretrained(path)


def attached(unet, adapter, references, strength, **options):
    """options: person_strengths, masks, guidance."""
    from dhumandiff.hosts.diffusers import attach

    return attach(unet, adapter, references, strength, **options)


def tokens_of(adapter, reference, words):
    """Everything that an adapter makes of a person."""
    with torch.no_grad():
        made = {"face": adapter.face_tokens(reference), "unconditional": adapter.unconditional_tokens(reference)}
        keys, values = adapter.keys_values(1, made["face"][:, None])
        made |= {"keys": keys, "values": values}
        if adapter.has_subject_path and reference.identity is not None:
            made["identity"] = adapter.identity_token(reference)
            made["subject"] = adapter.subject_token(words, reference)
    return made


def focus_as_released(maps):
    from dhumandiff.cascade import released_focus_mask

    return released_focus_mask(maps, (24, 16), shapes=[(12, 8), (6, 4)])


REFERENCE_FIELDS = ("identity", "clip_hidden", "clip_hidden_zero", "identity_swapped", "crop", "box", "landmarks")
CONTINUED = "step-00000006"
"""The checkpoint that a run which goes on to step 6 ends with."""

# --- references, adapters, the pair with diffusers ----------------------------------------------------------------------------

ADAPTERS = ("native.safetensors", "released", "ip_adapter_plus.safetensors", "ip_adapter_plus.bin")
REFERENCES = ("two_photos", "one_photo", "no_recogniser", "half")


def references_read(made):
    """All fields of all saved references, as read."""
    out = {}
    for name in REFERENCES:
        reference = load_reference(made / "references" / f"{name}.safetensors")
        out |= {f"{name}.name": reference.name}
        for field in REFERENCE_FIELDS:
            if getattr(reference, field) is not None:
                out[f"{name}.{field}"] = getattr(reference, field)
    return out


def adapter_tokens(made):
    words = torch.randn(2, 16, generator=torch.Generator().manual_seed(11))
    out = {}
    for file in ADAPTERS:
        adapter = load_adapter(made / "adapters" / file)
        for name in REFERENCES:
            reference = load_reference(made / "references" / f"{name}.safetensors")
            for kind, value in tokens_of(adapter, reference, words).items():
                out[f"{file}.{name}.{kind}"] = value
    return out


def predictions(made):
    """One prediction of a diffusers UNet with the pair, in several ways."""
    unet = small_unet()
    people = [load_reference(made / "references" / f"{name}.safetensors") for name in ("two_photos", "one_photo")]
    random = torch.Generator().manual_seed(12)
    given = {
        "sample": torch.randn(4, 4, 12, 8, generator=random),
        "timestep": 500,
        "encoder_hidden_states": torch.randn(4, 77, 48, generator=random),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(4, 32, generator=random),
            "time_ids": torch.tensor([[96.0, 64, 0, 0, 96, 64]]).expand(4, -1),
        },
    }
    left = torch.zeros(1, 24, 16)
    left[..., :8] = 1
    masks = torch.stack([left, 1 - left])
    ways = {
        "strength_1": (1.0, {}),
        "strength_0": (0.0, {}),
        "masks": (1.0, {"masks": masks}),
        "masks_by_picture": (0.8, {"masks": torch.cat([masks, masks.flip(0)], dim=1)}),
        "person_strengths": (0.7, {"person_strengths": (0.5, 1.5)}),
        "no_guidance": (1.0, {"guidance": False, "masks": masks, "person_strengths": (1.0, 0.3)}),
    }
    out = {}
    for file in ADAPTERS:
        adapter = load_adapter(made / "adapters" / file)
        for way, (strength, options) in ways.items():
            with attached(unet, adapter, people, strength, **options), torch.no_grad():
                out[f"{file}.{way}"] = unet(**given).sample
    with torch.no_grad():
        out["plain"] = unet(**given).sample
    maps = [torch.rand(2, places, 5, generator=random) for places in (96, 24)]
    out["released_focus_mask"] = focus_as_released(maps).to(torch.uint8)
    return out


# --- portraits by the command line ----------------------------------------------------------------------------------------------

_SMALL = "--base tiny --size 64x96 --steps 3 --seed 3"
PORTRAITS = {
    "none": f"{_SMALL} --mode none",
    "none_strengths": f"{_SMALL} --mode none --strength 0.8 --strength-1 0.5 --strength-2 1.5",
    "one_pass": _SMALL,
    "one_pass_masks": f"{_SMALL} --mask-1 LEFT --mask-2 RIGHT --scene-strength 0.3",
    "one_pass_focus": f"{_SMALL} --focus LEFT --face-strength 1.4",
    "one_pass_part": f"{_SMALL} --start 0.2 --end 0.7 --focus-share 0.3",
    "one_pass_ancestral_swapped": f"{_SMALL} --sampler euler_ancestral --swap --mentions all",
    "one_pass_no_guidance": f"{_SMALL} --cfg 1",
    "two_strength": f"{_SMALL} --mode two_strength",
    "two_strength_strengths": f"{_SMALL} --mode two_strength --strength-1 0.5 --scene-strength 0.2",
    "released": f"{_SMALL} --mode released",
    "released_focus": f"{_SMALL} --mode released --focus LEFT",
    "own_base_native": "--base BASE --adapter NATIVE --size 64x96 --steps 2",
    "own_base_released": "--base BASE --adapter RELEASED --size 64x96 --steps 2 --mode two_strength",
    "miniature": "--base mini --steps 3",
}
PROMPT = "A man@1 and a (woman@2:1.2) in a garden. The man@1 smiles"
PROMPT_MINI = "A woman@1 on the left in a red dress and a man@2 on the right in a blue suit stand on a beach."


def portrait(name, made, folder):
    """Pixels uint8 and the focus mask's, if there is one."""
    half = np.zeros((96, 64), dtype=np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save(folder / "left.png")
    Image.fromarray(255 - half).save(folder / "right.png")
    places = {
        "LEFT": folder / "left.png",
        "RIGHT": folder / "right.png",
        "BASE": folder / "base",
        "NATIVE": made / "adapters" / "native.safetensors",
        "RELEASED": made / "adapters" / "released",
    }
    mini = name == "miniature"
    people = ("drawn_woman", "drawn_man") if mini else ("two_photos", "one_photo")
    out, focus = folder / f"{name}.png", folder / f"{name}_focus.png"
    line = ["generate", "--prompt", PROMPT_MINI if mini else PROMPT, "--out", str(out), "--device", "cpu"]
    for number, person in enumerate(people, 1):
        line += [f"--person-{number}", str(made / "references" / f"{person}.safetensors")]
    line += [str(places.get(word, word)) for word in PORTRAITS[name].split()]
    if "--mode none" not in PORTRAITS[name]:
        line += ["--focus-out", str(focus)]
    command("dhumandiff", line)
    found = {f"{name}.pixels": torch.from_numpy(np.asarray(Image.open(out)).copy())}
    if focus.exists():
        # At the latent's size: eight px of the picture a place.
        found[f"{name}.focus"] = torch.from_numpy(np.asarray(Image.open(focus))[4::8, 4::8].copy())
    return found


def command(module, line):
    """`python -m module line...` in this process."""
    before = sys.argv
    sys.argv = [module, *line]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{module} {line} ended with {ended.code}") from None
    finally:
        sys.argv = before


# --- training ---------------------------------------------------------------------------------------------------------------------


def training(repository, folder, *line):
    """`python -m training line...` in a folder, with a process of its own; what it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", "training", *map(str, line)],
        cwd=folder,
        env=environment(repository),
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise RuntimeError(
            f"training {line} ended with {ended.returncode}:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
        )
    return ended.stdout


def environment(repository):
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    return {**os.environ, **own}


def losses(run):
    """Of every step in the log, all its numbers but the clock's; a validation's are entries of their own."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {
            name: value
            for name, value in one.items()
            if name not in ("samples_per_second", "outside", "data_wait_fraction")
        }
        for one in entries
    ]


def checkpoint_digests(folder):
    """Of every tensor in a checkpoint: weights and averages by name, the optimiser's as they come."""
    found = {file: digests(load_file(folder / file)) for file in ("adapter.safetensors", "average.safetensors")}
    state = torch.load(folder / "state.pt", weights_only=True)
    state.pop("random", None)
    found["state"] = sorted(digest(tensor) for tensor in _tensors(state))
    return found


def _tensors(values):
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (dict, list, tuple)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)


def digest(tensor):
    tensor = tensor.detach().contiguous()
    kind = f"{tensor.dtype} {list(tensor.shape)} ".encode()
    return hashlib.sha256(kind + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:24]


def digests(tensors):
    return {name: digest(tensor) for name, tensor in sorted(tensors.items())}


def file_digests(folder, pattern):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:24]
        for path in sorted(folder.glob(pattern))
    }


FRESH = "train --config every_key.yaml --run fresh --steps 2 --optimiser.rate 5e-4 --augment.swap_order 0.5"
"""A run of its own with a configuration of that commit, and fields overridden by their names of then."""


def settings_read(repository, folder, command_name, config):
    """All values that a configuration file leads to, without their names, sorted."""
    printed = training(repository, folder, command_name, "--config", config, "--print_config")
    import yaml

    return sorted(_leaves(yaml.safe_load(printed)))


def _leaves(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield repr(value)


# --- ComfyUI ---------------------------------------------------------------------------------------------------------------------


def comfyui():
    """The ComfyUI tree, or None."""
    folder = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
    return folder if (folder / "comfy").is_dir() else None


def in_comfyui(repository, made, folder):
    """Latents and pictures of all cases, and what the nodes say of themselves; see artefact_comfyui.py."""
    script = Path(__file__).with_name("artefact_comfyui.py")
    line = [sys.executable, str(script), str(comfyui()), str(repository), str(made), str(folder)]
    ended = subprocess.run(
        line, cwd=folder, env={**environment(repository), "PYTHONPATH": ""}, capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"{ended.stdout[-3000:]}\n{ended.stderr[-6000:]}")
    return load_file(folder / "comfyui.safetensors"), json.loads((folder / "nodes.json").read_text(encoding="utf-8"))


# --- where it was computed ----------------------------------------------------------------------------------------------------------


def here():
    """What bits depend on."""
    packages = ("torch", "numpy", "diffusers", "transformers", "accelerate", "onnxruntime", "pillow")
    known = {}
    for name in packages:
        with contextlib.suppress(Exception):
            known[name] = version(name)
    processor = platform.processor()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        processor = found[1] if found else processor
    known |= {"processor": processor, "instructions": torch.backends.cpu.get_cpu_capability()}
    tree = comfyui()
    if tree is not None:
        known["comfyui"] = re.search(r'"(.+)"', (tree / "comfyui_version.py").read_text())[1]
    return known
