"""Makes the artefacts of commit 4cd81fe, and what that commit computes of them. Runs on that commit only.

    git worktree add BEFORE 4cd81fe
    OMP_NUM_THREADS=1 python tests/artefacts/make.py BEFORE tests/artefacts/commit_4cd81fe

BEFORE needs the packages of .ci/requirements.txt, and for prompts/ a ComfyUI (COMFYUI_PATH). What is computed, and how, is in
artefact_measures.py and artefact_comfyui.py, which the test runs too.
"""

# ruff: noqa: I001 (modules of a commit that is gone)

import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
BEFORE, OUT = (Path(path).resolve() for path in sys.argv[1:3])
HERE = Path(__file__).resolve().parent
sys.path[0] = str(BEFORE)
sys.path.append(str(HERE))

import artefact_bases as bases
import artefact_measures as measures
import torch
import yaml
from safetensors.torch import save_file

from dhumandiff.adapter import Adapter
from dhumandiff.encode import encode_reference
from dhumandiff.mini.base import mini_vision
from dhumandiff.mini.faces import mini_faces
from dhumandiff.mini.world import draw_reference, people, write_dataset
from dhumandiff.projections import FaceProjection, IdentityProjection, PairedKeysValues, SubjectMapping
from dhumandiff.references import FaceReference

torch.set_num_threads(1)
METADATA = {
    "base_family": "sdxl",
    "clip_tower": "none (random weights)",
    "recogniser": "none (random weights)",
    "identity_channels": "rgb-swapped",
    "licence": "Apache-2.0",
    "source": "tests/artefacts: random weights",
}


def noise(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- references ---------------------------------------------------------------------------------------------------------


def make_references(folder):
    folder.mkdir(parents=True)
    zero = noise(1, 50, 64, seed=0)

    def unit(photos, seed):
        return torch.nn.functional.normalize(noise(photos, 512, seed=seed), dim=-1)

    FaceReference(unit(2, 1), noise(2, 50, 64, seed=2), zero, identity_swapped=unit(2, 3), name="Two Photos, é").save(
        folder / "two_photos.safetensors"
    )
    FaceReference(
        unit(1, 4),
        noise(1, 50, 64, seed=5),
        zero,
        identity_swapped=unit(1, 6),
        crop=torch.rand(1, 24, 24, 3, generator=torch.Generator().manual_seed(7)),
        box=torch.tensor([[3.0, 4.0, 20.0, 21.0]]),
        landmarks=noise(1, 5, 2, seed=8),
        name="one photo",
    ).save(folder / "one_photo.safetensors")
    FaceReference(None, noise(1, 50, 64, seed=9), zero).save(folder / "no_recogniser.safetensors")
    FaceReference(unit(1, 10).half(), noise(1, 50, 64, seed=11).half(), zero.half(), name="half").save(
        folder / "half.safetensors"
    )
    vision, faces = mini_vision(), mini_faces()
    known = [who for who in people("test", 20) if who.age != "child"]
    for gender in ("woman", "man"):
        who = next(one for one in known if one.gender == gender)
        photo = draw_reference(who, 0).picture
        reference, _ = encode_reference(photo, vision, faces, name=who.name, minimum_size=32)
        FaceReference(
            reference.identity,
            reference.clip_hidden.half(),
            reference.clip_hidden_zero.half(),
            identity_swapped=reference.identity_swapped,
            name=who.name,
        ).save(folder / f"drawn_{gender}.safetensors")


# --- adapters -----------------------------------------------------------------------------------------------------------


def small_adapter(persons=2):
    inside = {"width": 16, "hidden_width": 64, "inner": 64, "ffn_width": 32, "depth": 1}
    parts = {
        "face_projection": FaceProjection(tokens=4, out_width=48, **inside),
        "attention": torch.nn.ModuleList(PairedKeysValues(48, 32, persons) for _ in range(4)),
    }
    if persons:
        parts["identity_projection"] = IdentityProjection(512, 32, 16, {**inside, "out_width": 16})
        parts["mapping"] = SubjectMapping(16 + 16, 16, 16)
    tensors = {}
    for part, module in sorted(parts.items()):
        bases.filled(module, len(tensors))
        tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    tensors["face_projection.latents"] = noise(1, 4, 16, seed=30)
    return tensors


def make_adapters(folder):
    folder.mkdir(parents=True)
    tensors = small_adapter()
    Adapter.from_tensors(tensors, METADATA).save_pretrained(folder / "native.safetensors")
    half = {name: value.half() for name, value in tensors.items()}
    Adapter.from_tensors(half, METADATA).save_released(folder / "released")
    (folder / "released" / "adapter.json").unlink()  # the authors' folder has none
    parts = {"image_proj": {}, "ip_adapter": {}}
    for name, value in small_adapter(persons=None).items():
        part, _, rest = name.partition(".")
        if part == "attention":
            number, _, rest = rest.partition(".")
            parts["ip_adapter"][f"{2 * int(number) + 1}.{rest}"] = value
        else:
            parts["image_proj"][rest] = value
    flat = {f"{part}.{name}": value.bfloat16() for part, inner in parts.items() for name, value in inner.items()}
    save_file(flat, folder / "ip_adapter_plus.safetensors")
    torch.save(
        {p: {n: v.half() for n, v in inner.items()} for p, inner in parts.items()}, folder / "ip_adapter_plus.bin"
    )


# --- shards, runs, configurations --------------------------------------------------------------------------------------

PREPARE = """\
# Everything that could be set at commit 4cd81fe.
base: base
vision: vision
faces: {pack: mini, root: "", provider: CPU, min_size: 12, third: 0.5, same_person: 1.0}
references: {augmented: 1, paired: 1, min_similarity: 0.0, flip: 0.5, light: 1.0, colour: 0.15}
resolution: 112
bucket_step: 32
max_aspect: 2.0
min_side: 64
unknown_gender: set_aside
pictures: true
shard_size: 3
seed: 5
workers: 0
batch_size: 2
device: cpu
dtype: auto
sources: [{path: pictures, name: drawn, weight: 1.5, kind: auto, annotations: "", captions: "", masks: "", references: ""}]
"""


def every_key():
    """A configuration with every field that there was."""
    from training.config import (
        BaseConfig,
        CheckpointConfig,
        DataConfig,
        FaceRegionConfig,
        FolderConfig,
        LocalisationConfig,
        ObjectivesConfig,
        OptimiserConfig,
        StartConfig,
        TrainConfig,
        WatchConfig,
    )
    from training.parsing import as_dict

    return as_dict(
        TrainConfig(
            run="run",
            steps=6,
            seed=3,
            precision="no",
            base=BaseConfig(path="base"),
            data=DataConfig(
                folders=[FolderConfig("shards", 1.0)],
                validation=[FolderConfig("shards", 1.0)],
                validation_batches=2,
                batch=4,
                micro_batch=2,
                shuffle=4,
                prefetch=2,
            ),
            start=StartConfig(
                train=["mapping", "attention"],
                tokens=4,
                face_width=64,
                face_depth=1,
                token_width=64,
                identity_depth=1,
                mapping_width=64,
            ),
            objectives=ObjectivesConfig(
                localisation=LocalisationConfig(weight=0.1, words=0.01, smallest=16),
                face_region=FaceRegionConfig(weight=0.5, margin=1),
            ),
            optimiser=OptimiserConfig(rate=1e-3, schedule="cosine", warmup=2, ema=0.9),
            checkpoints=CheckpointConfig(every=3, keep=5),
            watch=WatchConfig(every=1, tensorboard=False, samples_every=0),
        )
    )


MUON = """\
--config every_key.yaml --run run_muon --start.weights run --optimiser.kind muon --optimiser.turn 0.01
--optimiser.ema_device cpu --objectives.identity.weight 0.1 --objectives.identity.recogniser mini
--objectives.identity.below 1.0 --objectives.diffusion.levels rising --augment.swap_order 0.5
"""


def make_training(out, folder, expected):
    write_dataset(folder / "pictures", range(20_000_000, 20_000_006), people("train", 12), references=2)
    (folder / "prepare.yaml").write_text(PREPARE)
    text = yaml.safe_dump(every_key(), sort_keys=False)
    (folder / "every_key.yaml").write_text("# Every field that there was at commit 4cd81fe.\n" + text)
    measures.training(BEFORE, folder, "prepare", "--config", "prepare.yaml", "--out", "shards")
    print("shards", {path.name: path.stat().st_size for path in (folder / "shards").iterdir()})
    expected["shards"] = measures.file_digests(folder / "shards", "*.tar")
    expected["common"] = measures.file_digests(folder / "shards", "common.safetensors")
    for name in ("contact_sheet.png", "report.png"):  # to look at; nothing reads them
        (folder / "shards" / name).unlink()
    measures.training(BEFORE, folder, "train", "--config", "every_key.yaml")
    measures.training(BEFORE, folder, "train", *MUON.split())
    measures.training(BEFORE, folder, *measures.FRESH.split())
    expected["fresh"] = measures.losses(folder / "fresh")
    for name in ("run", "run_muon"):
        run = folder / name
        whole = measures.checkpoint_digests(run / "checkpoints" / measures.CONTINUED)
        numbers = measures.losses(run)
        shutil.rmtree(run / "checkpoints" / measures.CONTINUED)
        log = (run / "log.jsonl").read_text().splitlines(keepends=True)
        (run / "log.jsonl").write_text("".join(line for line in log if json.loads(line)["step"] <= 3))
        for path in run.iterdir():
            if path.name not in ("config.yaml", "log.jsonl", "checkpoints"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        # Going on has to give what not stopping gave, or the artefact is worth nothing.
        shutil.copytree(run, folder / "again")
        measures.training(BEFORE, folder, "train", "--config", "again/config.yaml", "--run", "again")
        assert measures.losses(folder / "again") == numbers
        assert measures.checkpoint_digests(folder / "again" / "checkpoints" / measures.CONTINUED) == whole
        shutil.rmtree(folder / "again")
        expected[name] = {"losses": numbers, "checkpoint": whole}
        measures.training(BEFORE, folder, "export", "--run", name, "--out", "exported", "--licence", "Apache-2.0")
        native = next((folder / "exported").glob("*.safetensors"))
        expected[name]["exported"] = measures.digests(measures.load_file(native))
        shutil.rmtree(folder / "exported")
    configs = out / "configs"
    configs.mkdir()
    for path in sorted((BEFORE / "training" / "configs").glob("*.yaml")):
        shutil.copyfile(path, configs / path.name)
    for name in ("prepare.yaml", "every_key.yaml"):
        shutil.copyfile(folder / name, configs / ("every_key_prepare.yaml" if name == "prepare.yaml" else name))
    expected["configs"] = {}
    for path in sorted(configs.glob("*.yaml")):
        kind = "prepare" if "prepare" in path.stem else "train"
        expected["configs"][path.name] = measures.settings_read(BEFORE, folder, kind, path)
    pack(folder, out / "training.tar.xz", ["pictures", "shards", "run", "run_muon", "prepare.yaml", "every_key.yaml"])


def pack(folder, file, names):
    def plain(entry):
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(file, "w:xz") as tar:
        for name in names:
            tar.add(folder / name, name, filter=plain)


# --- workflows ----------------------------------------------------------------------------------------------------------


def make_workflows(out):
    sys.path.append(str(BEFORE / "tests"))
    sys.path.append(str(BEFORE / "tests" / "host"))
    from server import api_form

    (out / "prompts").mkdir()
    for name in ("mini_dual_portrait", "mini_score"):
        prompt = api_form(json.loads((BEFORE / "workflows" / f"{name}.json").read_text()))
        for node in prompt.values():
            if "steps" in node["inputs"]:
                node["inputs"]["steps"] = 3
            if "batch_size" in node["inputs"]:
                node["inputs"]["batch_size"] = min(2, node["inputs"]["batch_size"])
        (out / "prompts" / f"{name}.json").write_text(json.dumps(prompt, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        for place in ("workflows", "subgraphs"):
            (Path(folder) / place).mkdir()
            for path in (BEFORE / place).glob("*.json"):
                shutil.copyfile(path, Path(folder) / place / path.name)
        pack(Path(folder), out / "workflows.tar.xz", ["workflows", "subgraphs"])


def keep(file, arrays, largest=20_000):
    """The smaller arrays themselves, for machines that add up in another order; digests are kept of all."""
    save_file({name: value.contiguous().clone() for name, value in arrays.items() if value.numel() <= largest}, file)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    expected = {"made_with": measures.here()}
    make_references(OUT / "references")
    make_adapters(OUT / "adapters")
    make_workflows(OUT)
    save = OUT / "expected"
    save.mkdir()
    read = measures.references_read(OUT)
    expected["names"] = {name: read.pop(f"{name}.name") for name in measures.REFERENCES}
    expected["references"] = measures.digests(read)
    expected["tokens"] = measures.digests(tokens := measures.adapter_tokens(OUT))
    keep(save / "tokens.safetensors", {name: value for name, value in tokens.items() if "one_photo" in name})
    predicted = measures.predictions(OUT)
    expected["predictions"] = measures.digests(predicted)
    keep(
        save / "predictions.safetensors", {n: value for n, value in predicted.items() if "." not in n or "native" in n}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases.write_base(folder, bases.vocabulary(BEFORE))
        portraits = {}
        for way in measures.PORTRAITS:
            portraits |= measures.portrait(way, OUT, folder)
        expected["portraits"] = measures.digests(portraits)
        keep(save / "portraits.safetensors", portraits)
        (folder / "comfyui_out").mkdir()
        kept, told = measures.in_comfyui(BEFORE, OUT, folder / "comfyui_out")
        expected["comfyui"] = measures.digests(kept)
        keep(save / "comfyui.safetensors", kept, largest=4_000)
        (save / "nodes.json").write_text(json.dumps(told, indent=1) + "\n")
        make_training(OUT, folder, expected)
    (save / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


main()
