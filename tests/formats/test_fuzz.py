"""Damage of every kind, drawn from a seed: each file is refused by an error of the project, or loaded.

What is loaded has the names and shapes of the whole file. Other values than those of the whole file are what nothing can
detect: no format has a checksum of them. Another exception, a hang, or memory for what is not there is a fault.

    DHUMANDIFF_FUZZ=5000 python -m pytest -m slow tests/formats/test_fuzz.py         more of it
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import layouts
from support.memory import peak_growth
from support.shards import make_shards
from support.small_base import make_base, make_config
from support.withanyone_files import branch_file, withanyone_file

from dhumandiff import Adapter
from dhumandiff.errors import DHumanDiffError
from dhumandiff.faces import load_photo
from dhumandiff.methods.withanyone import WithAnyone
from dhumandiff.references.reference import FaceReference

pytestmark = pytest.mark.slow

EACH = int(os.environ.get("DHUMANDIFF_FUZZ", "320")) // 8
"""Mutations of each format."""
SLACK = 24 << 20
"""Bytes that the process may grow beside three times the file: what libraries keep for themselves at their first use."""


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def flip(content, chance):
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]


def overwrite(content, chance):
    place, length = chance.randrange(len(content)), chance.choice([1, 4, 8, 64, 512])
    piece = chance.choice([bytes(length), b"\xff" * length, chance.randbytes(length)])
    return content[:place] + piece + content[place + length :]


def insert(content, chance):
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(chance.choice([1, 8, 100])) + content[place:]


def leave_out(content, chance):
    place = chance.randrange(len(content))
    return content[:place] + content[place + chance.choice([1, 8, 100]) :]


def another_number(content, chance):
    """A digit of some text (a header, a description) becomes others."""
    places = [place for place, byte in enumerate(content[:20_000]) if 48 <= byte <= 57]
    if not places:
        return flip(content, chance)
    place = chance.choice(places)
    return (
        content[:place]
        + chance.choice([b"0", b"9", b"-1", b"1e3", b"99999999999", b"null", b'"7"'])
        + content[place + 1 :]
    )


def two_places(content, chance):
    first, second = sorted(chance.randrange(len(content)) for _ in range(2))
    piece = min(32, second - first)
    moved = content[second : second + piece]
    return content[:first] + moved + content[first + len(moved) :]


MUTATIONS = [cut, flip, flip, overwrite, insert, leave_out, another_number, another_number, two_places]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Half of the time near the beginning, where headers are; otherwise anywhere."""
    change = chance.choice(MUTATIONS)
    if change is not cut and chance.random() < 0.5:
        head = min(len(content), chance.choice([16, 256, 4096]))
        return change(content[:head], chance) + content[head:]
    return change(content, chance)


def adapter(path):
    return lambda: dict(Adapter.from_pretrained(path).state_dict())


def native(folder):
    path = folder / "a.safetensors"
    layouts.small_adapter().save_pretrained(path)
    return [path], adapter(path)


def released(folder):
    path = folder / "a"
    layouts.small_adapter().save_released(path)
    return sorted(path.iterdir()), adapter(path)


def old_torch(folder):
    path = layouts.released_folder(folder / "a")
    for file in path.iterdir():
        torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)
    return sorted(path.iterdir()), adapter(path)


def ip_adapter_safetensors(folder):
    path = layouts.ip_adapter_file(folder / "a.safetensors")
    return [path], adapter(path)


def ip_adapter_torch(folder):
    path = layouts.ip_adapter_file(folder / "a.bin")
    return [path], adapter(path)


def withanyone_merged(folder):
    path = withanyone_file(folder / "withanyone.safetensors", blocks=2)
    return [path], lambda: dict(WithAnyone.from_pretrained(path, dtype=torch.bfloat16).state_dict())


def withanyone_branch(folder):
    path = folder / "sig.bin"
    torch.save(load_file(branch_file(folder / "sig.safetensors", "sig", blocks=2)), path)
    return [path], lambda: dict(WithAnyone.from_pretrained(path).state_dict())


def reference(folder):
    path = folder / "a.safetensors"
    FaceReference(
        torch.randn(2, 512), torch.randn(2, 5, 8), torch.randn(1, 5, 8), torch.randn(2, 512), torch.rand(2, 8, 8, 3)
    ).save(path)
    names = ("identity", "clip_hidden", "clip_hidden_zero", "identity_swapped", "crop")
    return [path], lambda: {name: getattr(FaceReference.load(path), name) for name in names}


def checkpoint(folder):
    pytest.importorskip("accelerate", reason="install it with: pip install '.[train]'")
    from training.run.checkpoint import RunFolder
    from training.run.loop import train

    shards = make_shards(folder / "shards", samples=4)
    run = RunFolder(train(make_config(make_base(folder / "base"), shards, folder / "run", steps=1)).run)

    def load():
        run.best()
        return run.load(1).state["adapter"]

    return sorted(run.path(1).iterdir()), load


def prepared(folder):
    pytest.importorskip("webdataset", reason="install it with: pip install webdataset")
    from training.data.batch import NO_AUGMENTATION, BatchMaker
    from training.data.dataset import open_dataset
    from training.data.seeding import seeded_rng
    from training.data.stream import SampleStream

    shards = make_shards(folder / "shards", samples=2)

    def load():
        data = open_dataset(str(shards))
        make = BatchMaker([data], NO_AUGMENTATION, "identity", lambda *names: seeded_rng(7, *names))
        batch = make(*next(SampleStream([data], [1.0], batch_size=2, buffer_size=2)), 0)
        return {"text": batch.text, "ids": batch.ids, "hidden": batch.hidden, "masks": batch.masks}

    return sorted(shards.iterdir()), load


def face_pack(folder, faces_root, photo):
    """Loaded is a pack that finds faces and tells their identity, or says that it cannot."""
    from dhumandiff.faces import InsightFaceAnalyzer

    path = shutil.copytree(faces_root / "models" / "mini", folder / "pack")
    for file in path.iterdir():
        file.chmod(0o644)

    def load():
        analyzer = InsightFaceAnalyzer.from_pack(path, provider="CPU")
        found = analyzer.detect(photo)
        identity = analyzer.identity(photo, found[0]) if found else np.zeros(512, np.float32)
        return {"identity": torch.from_numpy(identity)}

    return sorted(path.iterdir()), load


@pytest.mark.parametrize(
    "make",
    [
        native,
        released,
        old_torch,
        ip_adapter_safetensors,
        ip_adapter_torch,
        withanyone_merged,
        withanyone_branch,
        reference,
        checkpoint,
        prepared,
    ],
)
def test_damage_of_every_kind_is_refused_or_loaded(tmp_path: Path, make):
    torch.manual_seed(0)
    try_mutations(make.__name__, *make(tmp_path), same_shapes=make is not prepared)


def test_damaged_face_packs_are_refused_or_work(tmp_path: Path, faces_root, face_photos):
    pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    files, load = face_pack(tmp_path, faces_root, load_photo(face_photos / "obama.jpg").pixels)
    try_mutations("face_pack", files, load, least=EACH // 8)


def try_mutations(what, files, load, *, same_shapes=True, least=EACH // 5):
    whole = {name: tensor.clone() for name, tensor in load().items()}
    outcomes, most = Counter(), []
    for number in range(EACH):
        chance = random.Random(f"{what} {number}")
        path = chance.choice(files)
        content = path.read_bytes()
        damaged = mutated(content, chance)
        path.unlink()  # a mapped file is not changed under whoever has it open
        path.write_bytes(damaged)
        began = time.monotonic()
        try:
            with peak_growth() as grown:
                found = {name: tensor.clone() for name, tensor in load().items()}
        except DHumanDiffError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(
                f"{path.name}, mutation {number}: {type(error).__name__} instead of a refusal"
            ) from error
        else:
            shapes = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (found, whole))
            same = next(shapes) == next(shapes)
            assert same or not same_shapes, f"{path.name}, mutation {number}: other tensors"
            outcomes["the same" if all(torch.equal(found[n], whole[n]) for n in whole) else "other values"] += 1
        assert time.monotonic() - began < 10, f"{path.name}, mutation {number}: it took too long"
        limit = 3 * sum(file.stat().st_size for file in files) + SLACK
        assert max(grown, default=0) < limit, f"{path.name}, mutation {number}: {max(grown) >> 20} MiB of memory"
        most.append(max(grown, default=0))
        path.unlink()
        path.write_bytes(content)
    print(what, dict(outcomes), f"{max(most) >> 20} MiB at most")
    assert outcomes["refused"] >= least
