"""Prepared data that lacks something, or holds other sizes or no numbers, is named before anything learns from it."""

import io
import json
import shutil
import tarfile

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from support.layouts import released_folder
from support.refused import refused
from support.shards import make_shards

for package in ("diffusers", "jsonargparse", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.data.batch import NO_AUGMENTATION, BatchMaker
from training.data.config import FolderConfig
from training.data.dataset import open_dataset
from training.data.seeding import seeded_rng
from training.data.shards import Manifest, ShardWriter
from training.data.stream import SampleStream
from training.run.config import InitConfig, OptimizerConfig
from training.run.init import init_adapter


@pytest.fixture
def shards(tmp_path):
    return make_shards(tmp_path / "shards", samples=2, references=2)


def changed(folder, change):
    """The folder with the first sample changed."""
    with tarfile.open(folder / "000000.tar") as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}
    metadata, tensors = json.loads(files["00000000.json"]), load(files["00000000.safetensors"])
    change(metadata, tensors)
    files["00000000.json"] = json.dumps(metadata).encode()
    files["00000000.safetensors"] = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    with tarfile.open(folder / "000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return open_dataset(str(folder))


def batch_of(dataset, count=2):
    stream = SampleStream([dataset], [1.0], batch_size=count, buffer_size=count)
    make = BatchMaker([dataset], NO_AUGMENTATION, "identity", lambda *names: seeded_rng(7, *names))
    return make(*next(stream), 0)


def without(name):
    return lambda metadata, tensors: tensors.pop(name)


def value(name, how):
    return lambda metadata, tensors: tensors.update({name: how(tensors[name])})


def field(name, content):
    return lambda metadata, tensors: metadata.update({name: content})


def person(name, content):
    return lambda metadata, tensors: metadata["persons"][1].update({name: content})


def nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[3] = float("nan")
    return tensor


@pytest.mark.parametrize(
    "change",
    [
        *(without(name) for name in ("latent_mean", "latent_std", "text", "pooled", "mask_1", "face_2")),
        *(without(f"ref_2.{name}") for name in ("clip_hidden", "identity", "identity_swapped")),
        *(value(name, nan) for name in ("latent_mean", "latent_std", "text", "pooled", "ref_1.clip_hidden", "ref_2.identity")),
        *(value(name, lambda tensor: tensor[:-1]) for name in ("text", "pooled", "ref_1.clip_hidden", "mask_1")),
        value("latent_mean", lambda tensor: tensor[:, :-1]),
        value("ref_1.identity", lambda tensor: tensor * 0),
        value("ids_l", lambda tensor: tensor - 60000),
        value("ids_l", lambda tensor: tensor + 400),
        value("ids_l", lambda tensor: tensor.float()),
        value("ref_1.identity", lambda tensor: tensor.to(torch.float8_e4m3fn)),
        *(field("bucket", bucket) for bucket in ([64, 96], [128, 64], [4, 4], [0, 0], [-64, -64])),
        *(field("crop", crop) for crop in ([0], [0, float("nan")], ["0", 0], None)),
        *(field("persons", persons) for persons in ([], None, [{}, {}])),
        *(person("tokens_first", [[0, position]]) for position in (-1, 0, 76, 77, 1.5, "2", None)),
        *(person("tokens_all", [[chunk, 2]]) for chunk in (-1, 1)),
        *(person("landmarks", points) for points in ([], [[0, 0]] * 4, [[0, float("inf")]] * 5)),
        person("references", []),
    ],
)  # fmt: skip
def test_a_sample_that_cannot_be_what_it_says_is_named(shards, change):
    with refused("damaged-sample", "sample 00000000"):
        batch_of(changed(shards, change))


def test_a_whole_sample_is_taken(shards):
    assert len(batch_of(changed(shards, lambda *_: None))) == 2


@pytest.mark.parametrize(
    "change",
    [
        *(lambda header, name=name: header.pop(name) for name in ("base", "vision", "recogniser", "shards", "buckets")),
        *(lambda header, name=name: header.update({name: []}) for name in ("base", "vision", "recogniser")),
        lambda header: header["base"].update(context_width="192"),
        lambda header: header["base"].update(latent_channels=0),
        lambda header: header["vision"].pop("clip_width"),
        lambda header: header["recogniser"].update(width=None),
        lambda header: header["shards"][0].update(samples=-2),
        lambda header: header["shards"][0].update(samples=2.5),
        lambda header: header["shards"][0].pop("name"),
        lambda header: header.update(shards=[["000000.tar", 2]]),
        lambda header: header.update(buckets=[[64]]),
        *(lambda header, weight=weight: header["sources"][0].update(weight=weight) for weight in (-1, float("nan"), float("inf"), "1")),
        lambda header: header["sources"][0].pop("name"),
    ],
)  # fmt: skip
def test_a_damaged_description_is_named(shards, change):
    header = json.loads((shards / "dataset.json").read_text())
    change(header)
    (shards / "dataset.json").write_text(json.dumps(header))
    with refused("dataset-damaged", "dataset.json"):
        open_dataset(str(shards))


@pytest.mark.parametrize("name", ["clip_hidden_zero", "empty_text", "empty_pooled"])
@pytest.mark.parametrize("how", [None, nan, lambda tensor: tensor[..., :-1]])
def test_damaged_common_tensors_are_named(shards, name, how):
    common = load_file(shards / "common.safetensors")
    tensor = common.pop(name)
    if how is not None:
        common[name] = how(tensor).contiguous()
    save_file(common, shards / "common.safetensors")
    with refused("unreadable-common", "common.safetensors", name):
        open_dataset(str(shards))


def test_weights_that_let_nothing_be_drawn_do_not_hang(shards):
    header = json.loads((shards / "dataset.json").read_text())
    header["sources"] = [{"name": "test", "weight": 0.0}, {"name": "another", "weight": 1.0}]
    (shards / "dataset.json").write_text(json.dumps(header))
    with refused("nothing-is-drawn", str(shards)):
        batch_of(open_dataset(str(shards)))


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -float("inf")])
def test_settings_that_are_no_number_are_refused(number):
    for name in ("learning_rate", "weight_decay", "max_grad_norm", "ema_decay", "muon_lr"):
        with refused("setting-out-of-range", name):
            OptimizerConfig(**{name: number})
    with refused("setting-out-of-range", "betas"):
        OptimizerConfig(betas=(0.9, number))
    with refused("setting-out-of-range", "weight"):
        FolderConfig(path="shards", weight=number)


def test_initial_weights_that_are_no_numbers_are_refused(tmp_path):
    path = released_folder(tmp_path / "a")
    mapping = torch.load(path / "mapping.pt")
    mapping["fc2.weight"][0] = float("nan")
    torch.save(mapping, path / "mapping.pt")
    with refused("initial-weights-not-finite", str(path), "mapping.fc2.weight"):
        init_adapter(InitConfig(weights=str(path)), None, None, 0)


# What `prepare` says is finished


def finished(folder):
    writer = ShardWriter(folder, 0, pictures=False)
    writer.path.write_bytes(b"content")
    writer.samples, writer.size = 1, 7
    writer.sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    manifest = Manifest(folder)
    manifest.write(writer, 0, [], [{"source": "a", "bucket": [64, 64]}])
    return manifest, folder / "journal" / "000000.json"


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"samples": 0}', "[" * 100_000, "null"])
def test_an_entry_that_says_nothing_is_no_finished_shard(tmp_path, content):
    manifest, path = finished(tmp_path)
    assert manifest.is_finished(0)
    path.write_text(content)
    assert not manifest.is_finished(0)


def test_a_shard_changed_at_the_same_size_is_made_again(tmp_path):
    manifest, _ = finished(tmp_path)
    (tmp_path / "000000.tar").write_bytes(b"confent")
    assert not manifest.is_finished(0)
    shutil.rmtree(tmp_path / "journal")
    assert not manifest.is_finished(0)
