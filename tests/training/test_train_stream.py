"""The order in which training reads shards: the same everywhere, and taken up again exactly."""

import json
import tarfile
from collections import Counter

import pytest
from support.refused import refused
from support.shards import make_shards

pytest.importorskip("webdataset", reason="install it with: pip install webdataset")

from training.data.config import FolderConfig
from training.data.dataset import open_dataset, open_datasets
from training.data.seeding import seeded_rng
from training.data.stream import Prefetcher, SampleStream


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(
        tmp_path_factory.mktemp("data") / "shards", samples=13, per_shard=4, buckets=((64, 64), (64, 96))
    )


@pytest.fixture(scope="module")
def folder(shards):
    return open_dataset(str(shards))


def stream_of(folder, **settings):
    datasets = folder if isinstance(folder, list) else [folder]
    weights = settings.pop("weights", [1.0] * len(datasets))
    return SampleStream(datasets, weights, **{"batch_size": 2, "buffer_size": 5, **settings})


def keys(samples):
    return [sample.name.rpartition(" ")[2] for sample in samples]


def take(stream, batches):
    out = []
    for _ in range(batches):
        samples, draws = next(stream)
        out.append((keys(samples), draws))
    return out


def test_the_same_seed_gives_the_same_order_and_another_seed_another(folder):
    assert take(stream_of(folder), 30) == take(stream_of(folder), 30)
    assert take(stream_of(folder), 30) != take(stream_of(folder, seed=1), 30)


def test_the_draws_do_not_depend_on_pythons_own_generator_or_hash_seed():
    assert seeded_rng("a", 1).random() == 0.4511573660418601  # a run goes on in another version of Python
    assert seeded_rng("a", 1).random() != seeded_rng("a", 2).random()


def test_every_sample_is_seen_once_an_epoch(folder):
    stream = stream_of(folder, batch_size=1, buffer_size=1)
    for _ in range(3):
        seen = Counter(key for names, _ in take(stream, 13) for key in names)
        assert set(seen.values()) == {1}
        assert len(seen) == 13


def test_epochs_go_through_the_shards_in_orders_of_their_own(folder):
    stream = stream_of(folder)
    orders = {tuple(stream.shard(0, epoch * 4 + place) for place in range(4)) for epoch in range(12)}
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(orders) > 4


def test_streams_share_the_shards_of_an_epoch(folder):
    streams = [stream_of(folder, index=index, streams=2) for index in range(2)]
    assert sorted(stream.shard(0, place) for stream in streams for place in range(2)) == [0, 1, 2, 3]


def test_a_batch_has_one_picture_size_and_one_number_of_chunks(tmp_path):
    short = open_dataset(str(make_shards(tmp_path / "short", samples=8, buckets=((64, 64), (96, 64)))))
    long = open_dataset(str(make_shards(tmp_path / "long", samples=8, buckets=((64, 64), (96, 64)), chunks=2, seed=1)))
    stream = stream_of([short, long], batch_size=3)
    groups = set()
    for _ in range(30):
        samples, _ = next(stream)
        assert len({sample.group for sample in samples}) == 1
        groups.add(samples[0].group)
    assert groups == {(64, 64, 1), (96, 64, 1), (64, 64, 2), (96, 64, 2)}


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 7, 12, 25])
def test_a_position_is_taken_up_exactly(folder, batches):
    stream = stream_of(folder, batch_size=3, index=1, streams=3)
    take(stream, batches)
    position = json.loads(json.dumps(stream.position()))
    assert take(stream_of(folder, batch_size=3, index=1, streams=3, position=position), 20) == take(stream, 20)


def test_a_position_in_several_folders_is_taken_up_exactly(tmp_path, folder):
    other = open_dataset(str(make_shards(tmp_path / "other", samples=6, per_shard=2, source="other", seed=3)))
    stream = stream_of([folder, other], weights=[1, 3])
    take(stream, 9)
    again = stream_of([folder, other], weights=[1, 3], position=json.loads(json.dumps(stream.position())))
    assert take(again, 20) == take(stream, 20)


def test_folders_are_drawn_by_their_weights(tmp_path, folder):
    other = open_dataset(str(make_shards(tmp_path / "other", samples=6, per_shard=3, seed=3)))
    stream = stream_of([folder, other], weights=[1, 3], batch_size=1)
    drawn = Counter(next(stream)[0][0].location[0] for _ in range(400))
    assert drawn[1] / 400 == pytest.approx(0.75, abs=0.08)


def test_sources_inside_a_folder_are_drawn_by_their_weights(tmp_path):
    path = make_shards(tmp_path / "mixed", samples=8, per_shard=4)
    header = json.loads((path / "dataset.json").read_text())
    header["sources"] = [{"name": "test", "weight": 0.5}, {"name": "other", "weight": 2.0}]
    (path / "dataset.json").write_text(json.dumps(header))
    stream = stream_of(open_dataset(str(path)), batch_size=1, buffer_size=1)
    for _ in range(100):
        next(stream)
    assert stream.draw_index / stream.read_index == pytest.approx(
        0.25, abs=0.08
    )  # a quarter of the samples of "test" is let through


def test_folders_without_a_weight_count_by_their_samples(tmp_path, shards):
    other = make_shards(tmp_path / "other", samples=5)
    assert open_datasets([FolderConfig(str(shards)), FolderConfig(str(other))])[1] == [13, 5]


def test_a_weight_for_only_some_folders_is_refused(shards):
    with refused("folders-without-weight", "data.folders"):
        open_datasets([FolderConfig(str(shards)), FolderConfig(str(shards), weight=2.0)])


def test_folders_prepared_with_different_models_are_refused(tmp_path, shards):
    other = make_shards(tmp_path / "other", samples=2, sizes={"clip_width": 32})
    with refused("datasets-of-different-models", "other", "(vision"):
        open_datasets([FolderConfig(str(shards)), FolderConfig(str(other))])


@pytest.mark.parametrize("scheme", ["file://{}", "pipe:cat {}"])
def test_shards_are_read_from_urls_too(shards, folder, scheme):
    there = open_dataset(scheme.format(shards))
    assert take(stream_of(there), 10) == take(stream_of(folder), 10)


def test_a_shard_that_is_cut_off_is_named_with_how_much_could_be_read(tmp_path):
    path = make_shards(tmp_path / "cut", samples=4, per_shard=4)
    shard = path / "000000.tar"
    shard.write_bytes(shard.read_bytes()[: int(shard.stat().st_size * 0.6)])
    with refused("damaged-shard", "000000.tar", "2 of 4 samples"):
        list(open_dataset(str(path)).read(0))


def test_a_shard_that_ends_between_two_samples_is_noticed(tmp_path):
    path = make_shards(tmp_path / "cut", samples=4, per_shard=4)
    with tarfile.open(path / "000000.tar") as tar:
        third = next(member for member in tar if member.name.startswith("00000002")).offset
    (path / "000000.tar").write_bytes((path / "000000.tar").read_bytes()[:third])
    with refused("damaged-shard", "ends too early", "2 of 4 samples"):
        list(open_dataset(str(path)).read(0))


def test_a_missing_shard_is_found_before_training(tmp_path):
    path = make_shards(tmp_path / "lost", samples=8, per_shard=4)
    (path / "000001.tar").unlink()
    with refused("shard-missing", "000001.tar"):
        open_dataset(str(path))


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda path: (path / "dataset.json").unlink(), "cannot-open", "dataset.json"),
        (lambda path: (path / "dataset.json").write_text("{"), "unreadable-dataset", "dataset.json"),
        (
            lambda path: (path / "dataset.json").write_text('{"format": "x", "format_version": "1"}'),
            "data-of-another-version",
            "x 1",
        ),
        (lambda path: (path / "common.safetensors").write_bytes(b"no"), "unreadable-common", "common.safetensors"),
    ],
)
def test_what_is_no_prepared_folder_is_refused(tmp_path, change, code, named):
    path = make_shards(tmp_path / "bad", samples=2)
    change(path)
    with refused(code, named):
        open_dataset(str(path))


def test_an_error_in_the_thread_that_reads_ahead_is_raised_where_batches_are_taken(tmp_path):
    path = make_shards(tmp_path / "cut", samples=4, per_shard=4)
    (path / "000000.tar").write_bytes((path / "000000.tar").read_bytes()[:2000])
    with (
        Prefetcher([stream_of(open_dataset(str(path)))], lambda *_: None, 2) as steps,
        refused("damaged-shard", "000000.tar"),
    ):
        next(steps)


def test_the_position_of_a_step_is_that_behind_its_own_batches_however_far_ahead_is_read(folder):
    with Prefetcher([stream_of(folder)], lambda samples, draws, number: (keys(samples), draws), 8) as steps:
        first = [next(steps) for _ in range(3)]
        rest = [next(steps).batches[0] for _ in range(5)]
    again = stream_of(folder, position=first[-1].positions[0])
    assert take(again, 5) == rest
