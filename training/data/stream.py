"""Endless batches in an order that a checkpoint can take up again exactly.

A *stream* is a sequence of micro batches of its own: every optimizer step takes one micro batch from each of the
`gradient_accumulation_steps` streams, and the processes share the streams. So neither the number of processes nor a restart
changes what a step sees. Everything random (which sample comes next, its noise, what is dropped) is a pure function of
(seed, stream, draw index): there is no generator whose state could get lost.

A stream goes through the shards in an order of its own for each epoch, draws samples from a shuffle buffer, and collects
the drawn ones in bucket buffers until a batch of one picture size is full. Its position is the locations of these samples,
not their content; resuming reads them again from their shards.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .. import TrainingError
from .balance import Balance
from .batch import Batch
from .dataset import PreparedDataset, Sample
from .seeding import seeded_rng

__all__ = ["Prefetcher", "SampleStream", "StepBatches"]

Position = dict[str, Any]
"""Where a stream is, as plain values for a checkpoint. Its keys are on disk and stay as they are."""


@dataclass
class _ShardReader:
    """A stream's way through one dataset: its `turn`-th shard is open, sample `index` of that shard comes next."""

    turn: int = 0
    index: int = 0
    open: Iterator | None = field(default=None, repr=False)


class SampleStream:
    """An endless sequence of groups of samples that fit into one batch.

    Args:
        datasets: where samples come from.
        weights: the share of each dataset.
        index: which stream this is, from 0.
        streams: of how many.
        batch_size: samples of a group.
        buffer_size: samples in the shuffle buffer.
        seed: of the order.
        balance: how often which people are drawn; None: as the data have them.
        position: of an earlier stream with the same arguments, to resume behind its last group.
    """

    def __init__(
        self,
        datasets: Sequence[PreparedDataset],
        weights: Sequence[float],
        *,
        index: int = 0,
        streams: int = 1,
        batch_size: int = 1,
        buffer_size: int = 1,
        seed: int = 0,
        balance: Balance | None = None,
        position: Position | None = None,
    ) -> None:
        self.datasets, self.weights = list(datasets), list(weights)
        self.index, self.streams, self.batch_size = index, streams, batch_size
        self.buffer_size, self.seed, self.balance = buffer_size, seed, balance
        self.source_weights = [dataset.source_weights() for dataset in datasets]
        self.readers = [_ShardReader() for _ in datasets]
        self.shuffle_buffer: list[Sample] = []
        self.bucket_buffers: dict[tuple[int, int, int], list[tuple[Sample, int]]] = {}
        self.read_index = self.draw_index = self.passed_over = 0
        if position is not None:
            self._resume(position)

    def __next__(self) -> tuple[list[Sample], list[int]]:
        """The samples of the next batch, and the draw index of each."""
        while True:
            while len(self.shuffle_buffer) < self.buffer_size:
                self._fill()
            buffer = self.shuffle_buffer
            chosen = seeded_rng(self.seed, self.index, "draw", self.draw_index).randrange(len(buffer))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            sample = buffer.pop()
            self.draw_index += 1
            bucket = self.bucket_buffers.setdefault(sample.group, [])
            bucket.append((sample, self.draw_index))
            if len(bucket) == self.batch_size:
                del self.bucket_buffers[sample.group]
                return [sample for sample, _ in bucket], [draw for _, draw in bucket]

    def position(self) -> Position:
        """Where the stream is, as plain values."""
        drawn = (entry for bucket in self.bucket_buffers.values() for entry in bucket)
        return {
            "readers": [[reader.turn, reader.index] for reader in self.readers],
            "waiting": [list(sample.location) for sample in self.shuffle_buffer],
            "drawn": [[list(sample.location), draw] for sample, draw in drawn],
            "taken": self.read_index,
            "draws": self.draw_index,
        }

    def shard(self, dataset: int, turn: int) -> int:
        """The `turn`-th shard that this stream reads of a dataset: all shards in a new order each epoch, dealt out to the streams."""
        count = len(self.datasets[dataset].shards)
        epoch, rank = divmod(self.index + self.streams * turn, count)
        order = list(range(count))
        seeded_rng(self.seed, dataset, "epoch", epoch).shuffle(order)
        return order[rank]

    def _fill(self) -> None:
        """Move one sample from a shard to the shuffle buffer; those of small weight are skipped now and then."""
        rng = seeded_rng(self.seed, self.index, "take", self.read_index)
        self.read_index += 1
        dataset = rng.choices(range(len(self.datasets)), self.weights)[0]
        sample = self._read(dataset)
        weight = self.source_weights[dataset].get(sample.metadata.get("source"), 1.0)
        if self.balance is not None:
            weight *= self.balance.weight(sample.metadata["persons"])
        if rng.random() < weight:
            self.shuffle_buffer.append(sample)
            self.passed_over = 0
            return
        self.passed_over += 1
        if self.passed_over > 100 * (sum(dataset.samples for dataset in self.datasets) + 100):
            raise TrainingError(
                f"{self.datasets[dataset].path}: none of its samples is drawn, because the weights of their sources are 0 or "
                "nearly so. Correct dataset.json.",
                code="nothing-is-drawn",
            )

    def _read(self, dataset: int) -> Sample:
        reader = self.readers[dataset]
        while True:
            if reader.open is None:
                reader.open = self.datasets[dataset].read(self.shard(dataset, reader.turn), reader.index)
            found = next(reader.open, None)
            if found is not None:
                index, *content = found
                reader.index = index + 1
                return Sample((dataset, reader.turn, index), *content)
            reader.turn, reader.index, reader.open = reader.turn + 1, 0, None

    def _resume(self, position: Position) -> None:
        """Take up a position: read the samples of the shuffle buffer and of the bucket buffers again."""
        self.read_index, self.draw_index = position["taken"], position["draws"]
        self.readers = [_ShardReader(turn, index) for turn, index in position["readers"]]
        wanted = {tuple(location) for location in position["waiting"]}
        wanted |= {tuple(location) for location, _ in position["drawn"]}
        found: dict[tuple[int, ...], Sample] = {}
        for dataset, turn in sorted({location[:2] for location in wanted}):
            indices = {location[2] for location in wanted if location[:2] == (dataset, turn)}
            for index, *content in self.datasets[dataset].read(self.shard(dataset, turn), min(indices)):
                if index in indices:
                    found[dataset, turn, index] = Sample((dataset, turn, index), *content)
                if index == max(indices):
                    break
        self.shuffle_buffer = [found[tuple(location)] for location in position["waiting"]]
        for location, draw in position["drawn"]:
            sample = found[tuple(location)]
            self.bucket_buffers.setdefault(sample.group, []).append((sample, draw))


@dataclass
class StepBatches:
    """What a process needs for one optimizer step.

    Attributes:
        batches: one a stream of this process.
        positions: index of the stream -> where it is behind these batches.
    """

    batches: list[Batch]
    positions: dict[int, Position]


class Prefetcher:
    """Steps made ahead in a thread, so that the accelerator never waits for a disk.

    Args:
        streams: those of this process.
        make: (samples, their draw indices, index of the stream) -> Batch.
        prefetch: micro batches that may lie ready.
    """

    def __init__(
        self, streams: Sequence[SampleStream], make: Callable[[list[Sample], list[int], int], Batch], prefetch: int
    ) -> None:
        self._ready: queue.Queue[StepBatches | BaseException] = queue.Queue(max(1, prefetch // len(streams)))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(list(streams), make), daemon=True, name="prefetch")
        self._thread.start()

    def __next__(self) -> StepBatches:
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; it is not waited for where it hangs on a slow disk or download."""
        self._over.set()
        patience = time.monotonic() + 2
        while self._thread.is_alive() and time.monotonic() < patience:
            with suppress(queue.Empty):
                self._ready.get_nowait()  # it may wait for room
            self._thread.join(0.02)

    def _work(self, streams: list[SampleStream], make: Callable[[list[Sample], list[int], int], Batch]) -> None:
        try:
            while not self._over.is_set():
                batches = [make(*next(stream), stream.index) for stream in streams]
                self._ready.put(StepBatches(batches, {stream.index: stream.position() for stream in streams}))
        except BaseException as error:  # raised again where the step is asked for
            self._ready.put(error)
