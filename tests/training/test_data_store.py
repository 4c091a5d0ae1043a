"""Pictures and shards on a store instead of a disk, and a store that goes away."""

import http.server
import json
import threading
from functools import partial

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset", "fsspec"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from support.drawn import analyzer, draw, encoders, prepared, samples, settings_for, skin, world
from support.refused import refused

from training import TrainingError
from training.data import store
from training.data.config import FolderConfig
from training.data.dataset import open_dataset, open_datasets
from training.data.pipeline import merge_slices, prepare
from training.data.plan import describe
from training.data.settings import PrepareSettings, Source
from training.data.sources import list_pictures, reference_photos


@pytest.fixture
def memory():
    """An empty store, alike for everything in this process."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(store, "WAITS", (0.0, 0.0))


def upload(system, folder, to):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe_file(f"{to}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture
def data(tmp_path):
    """Five couples with annotations, further photos of one person, masks of one picture, and a text."""
    folder = world(tmp_path / "data", good=5, refused=False)
    draw(folder / "sub" / "z.png", [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))])
    (folder / "sub" / "z.txt").write_text("A man@1 hugs another man@2")
    return folder


def parts_of(pictures):
    return [(one.name, one.caption, len(one.masks), one.image.read(), one.read_annotation()) for one in pictures]


def test_a_folder_on_a_store_is_read_as_one_on_a_disk(data, memory):
    upload(memory, data, "/bucket/photos")
    here, there = (list_pictures(Source(path))[0] for path in (str(data), "memory://bucket/photos"))
    assert parts_of(there) == parts_of(here)
    assert [*reference_photos(Source("memory://bucket/photos"))] == ["anna"]
    with refused("no-references-folder", "memory://bucket/none", error=TrainingError):
        reference_photos(Source("memory://bucket/photos", references="memory://bucket/none"))
    with refused("source-without-pictures", "memory://bucket/none", error=TrainingError):
        list_pictures(Source("memory://bucket/none"))


def test_shards_of_pictures_on_a_store_are_those_of_a_disk(data, tmp_path, memory):
    upload(memory, data, "/photos")
    prepared(data, tmp_path / "here", sources=[])
    prepared("", tmp_path / "there", sources=[Source("memory://photos", name="data")])
    ours, theirs = (
        {path.name: path.read_bytes() for path in (tmp_path / one).glob("*.tar")} for one in ("here", "there")
    )
    assert ours == theirs


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_packed_files_on_a_store_are_read(data, tmp_path, memory, ending):
    import io
    import tarfile

    path = data / "000.png"
    content = io.BytesIO()
    if ending == "tar":
        with tarfile.open(fileobj=content, mode="w") as tar:
            tar.add(path, "000.png")
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist([{"image": {"bytes": path.read_bytes()}}]), content)
    memory.pipe_file(f"/packed/0.{ending}", content.getvalue())
    for pattern in (f"memory://packed/0.{ending}", f"memory://packed/*.{ending}", "memory://packed"):
        ((picture,), _) = list_pictures(Source(pattern, kind="webdataset" if ending == "tar" else "parquet"))
        assert picture.image.read() == path.read_bytes()
    with refused("no-such-source", "memory://packed/*.zip", error=TrainingError):
        list_pictures(Source("memory://packed/*.zip"))


def test_pictures_are_read_over_http(data, tmp_path):
    pytest.importorskip("aiohttp", reason="install it with: pip install aiohttp")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(data)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        there = list_pictures(Source(f"http://127.0.0.1:{server.server_port}"))[0]
        assert parts_of(there) == parts_of(list_pictures(Source(str(data)))[0])
    finally:
        server.shutdown()
        server.server_close()


def upath():
    return pytest.importorskip("upath", reason="install it with: pip install universal_pathlib")


def test_slices_of_several_machines_go_to_one_store(data, tmp_path, memory):
    upath()
    prepared(data, tmp_path / "whole", shard_size=2)
    for part in (2, 3, 1):
        told = prepared(data, "memory://shards/couples", shard_size=2, slice=f"{part}/3")
        assert ("6 samples from 6 pictures" in told) is (part == 1)
    kept = ("tar", "dataset.json", "common.safetensors", "people.safetensors")
    for path in (tmp_path / "whole").iterdir():
        if path.name.endswith(kept):
            assert memory.cat_file(f"/shards/couples/{path.name}") == path.read_bytes(), path.name
    assert memory.exists("/shards/couples/contact_sheet.png")
    assert "3 shards, 3 of them finished" in describe(settings_for(data, "memory://shards/couples", shard_size=2))
    merge_slices(PrepareSettings(merge="memory://shards/couples", validation=0.3))
    dataset = open_dataset("memory://shards/couples")
    assert [shard["samples"] for shard in dataset.header["shards"]] == [2, 2, 2]


def test_training_reads_shards_from_any_store(data, tmp_path, memory):
    prepared(data, tmp_path / "out")
    upload(memory, tmp_path / "out", "/shards")
    (dataset,), _ = open_datasets([FolderConfig("memory://shards")])
    assert [told["picture"] for _, _, told, _ in dataset.read(0)] == [
        told["picture"] for told, _ in [*samples(tmp_path / "out").values()][:4]
    ]
    with refused("cannot-open", "memory://nowhere/dataset.json", error=TrainingError):
        open_dataset("memory://nowhere")


def test_a_store_that_goes_away_while_it_trains_is_named(data, tmp_path, memory, monkeypatch):
    prepared(data, tmp_path / "out")
    upload(memory, tmp_path / "out", "/shards")
    dataset = open_dataset("memory://shards")

    class Gone(Exception):
        """As a store's own package raises it."""

    stored = memory.open("/shards/000000.tar", "rb")

    def read(*_):
        if stored.tell() > 20_000:
            raise Gone("the network is down")
        return real(*_)

    real, stored.read = stored.read, read
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda *_, **__: stored)
    with refused("damaged-shard", "memory://shards/000000.tar", "network is down", "checkpoint", error=TrainingError):
        list(dataset.read(0))


def test_a_store_that_goes_away_ends_the_run_and_loses_nothing(data, tmp_path, memory, hasty, monkeypatch):
    upload(memory, data, "/photos")
    source, served = [Source("memory://photos", name="data")], []
    real = MemoryFileSystem.cat_file

    def until_it_is_gone(self, path, *arguments, **more):
        if path.endswith(".png"):
            served.append(path)
            if len(served) > 4:
                raise ConnectionError("the network is down")
        return real(self, path, *arguments, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", until_it_is_gone)
    with refused("store-does-not-answer", "memory://photos/0", "3 times", "network is down", error=TrainingError):
        prepared("", tmp_path / "out", sources=source, shard_size=2)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert len([*(tmp_path / "out").glob("*.tar")]) == 1  # nothing is set aside for the store's sake
    monkeypatch.setattr(MemoryFileSystem, "cat_file", real)
    assert "6 samples from 6 pictures" in prepared("", tmp_path / "out", sources=source, shard_size=2)


def test_a_store_that_answers_the_second_time_is_enough(data, memory, hasty, monkeypatch):
    upload(memory, data, "/photos")
    real, failed = MemoryFileSystem.cat_file, []

    def at_the_second_time(self, path, *arguments, **more):
        if path not in failed:
            failed.append(path)
            raise TimeoutError
        return real(self, path, *arguments, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", at_the_second_time)
    assert parts_of(list_pictures(Source("memory://photos"))[0]) == parts_of(list_pictures(Source(str(data)))[0])


def test_a_picture_that_is_gone_from_a_store_is_set_aside(data, tmp_path, memory, monkeypatch):
    upload(memory, data, "/photos")
    real = MemoryFileSystem.cat_file

    def one_is_gone(self, path, *arguments, **more):
        if path.endswith("001.png"):
            raise FileNotFoundError(path)
        return real(self, path, *arguments, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", one_is_gone)
    prepared("", tmp_path / "out", sources=[Source("memory://photos", name="data")])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(one["name"], one["reason"]) for one in report["set_aside_pictures"]] == [("001.png", "corrupt")]


def test_a_text_that_goes_while_the_store_is_listed_is_named(data, memory, monkeypatch):
    upload(memory, data, "/photos")
    real = MemoryFileSystem.cat_file

    def texts_are_gone(self, path, *arguments, **more):
        if path.endswith(".txt"):
            raise FileNotFoundError(path)
        return real(self, path, *arguments, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", texts_are_gone)
    with refused("store-changed", "z.txt", error=TrainingError):
        list_pictures(Source("memory://photos"))


def test_a_store_that_cannot_be_written_is_named(data, tmp_path, memory, hasty, monkeypatch):
    upath()

    real = MemoryFileSystem._open

    def read_only(self, path, mode="rb", *arguments, **more):
        if "w" in mode:
            raise PermissionError("the token is read-only")
        return real(self, path, mode, *arguments, **more)

    monkeypatch.setattr(MemoryFileSystem, "_open", read_only)
    with refused(
        "store-does-not-answer", "memory://shards/common.safetensors", "once", "read-only", error=TrainingError
    ):
        prepare(settings_for(data, "memory://shards"), encoders(), analyzer())


@pytest.mark.parametrize(("url", "named"), [("nosuch://bucket/photos", "nosuch"), ("oss://bucket/photos", "ossfs")])
def test_a_store_that_needs_another_package_is_named_with_it(hasty, url, named):
    with refused("store-not-known", url, named, error=TrainingError):
        list_pictures(Source(url))
