"""Endless batches in an order that a checkpoint can take up again exactly.

A *lane* is a row of batches of its own: every optimiser step takes one micro batch from each of the `passes` lanes, and the
processes share the lanes. So neither the number of processes nor a restart changes what a step sees. Everything drawn by
chance (which sample comes next, its noise, what is dropped) is a pure function of (seed, lane, number of the draw): there
is no generator whose state could get lost.

A lane goes through the shards in an order of its own for each epoch, keeps some samples waiting to be drawn, and collects
drawn ones until a batch of one picture size is full. Its position is the places of these samples, not their content; going
on reads them again from their shards.
"""

from __future__ import annotations

import hashlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .batch import Batch
from .folder import Folder, Sample

__all__ = ["Lane", "Stream", "chance"]

Position = dict[str, Any]


def chance(*names: object) -> random.Random:
    """A generator that depends on `names` alone, alike on every machine and in every version of Python."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "little"))


@dataclass
class _Reader:
    """A lane's way through one folder: place `turn` of its row of shards, sample `index` of that shard comes next."""

    turn: int = 0
    index: int = 0
    open: Iterator | None = field(default=None, repr=False)


class Lane:
    """An endless row of groups of samples that fit into one batch.

    Args:
        folders: where samples come from.
        weights: the share of each folder.
        number, lanes: which lane this is, of how many.
        rows: samples of a group.
        shuffle: samples that wait for being drawn.
        seed: of the order.
        position: of an earlier lane with the same arguments, to go on behind its last group.
    """

    def __init__(
        self,
        folders: Sequence[Folder],
        weights: Sequence[float],
        *,
        number: int = 0,
        lanes: int = 1,
        rows: int = 1,
        shuffle: int = 1,
        seed: int = 0,
        position: Position | None = None,
    ) -> None:
        self.folders, self.weights = list(folders), list(weights)
        self.number, self.lanes, self.rows, self.shuffle, self.seed = number, lanes, rows, shuffle, seed
        self.source_weights = [folder.source_weights() for folder in folders]
        self.readers = [_Reader() for _ in folders]
        self.waiting: list[Sample] = []
        self.drawn: dict[tuple[int, int, int], list[Sample]] = {}
        self.taken = self.draws = 0
        if position is not None:
            self._go_on(position)

    def __next__(self) -> tuple[list[Sample], list[int]]:
        """The samples of the next batch, and the numbers of their draws."""
        while True:
            while len(self.waiting) < self.shuffle:
                self._take_in()
            place = chance(self.seed, self.number, "draw", self.draws).randrange(len(self.waiting))
            self.waiting[place], self.waiting[-1] = self.waiting[-1], self.waiting[place]
            sample = self.waiting.pop()
            self.draws += 1
            group = self.drawn.setdefault(sample.group, [])
            group.append((sample, self.draws))
            if len(group) == self.rows:
                del self.drawn[sample.group]
                return [sample for sample, _ in group], [draw for _, draw in group]

    def position(self) -> Position:
        """Where the lane is, as plain values."""
        return {
            "readers": [[reader.turn, reader.index] for reader in self.readers],
            "waiting": [list(sample.where) for sample in self.waiting],
            "drawn": [[list(sample.where), draw] for group in self.drawn.values() for sample, draw in group],
            "taken": self.taken,
            "draws": self.draws,
        }

    def shard(self, folder: int, turn: int) -> int:
        """The shard at place `turn` of this lane's row: all shards in a new order each epoch, dealt out to the lanes."""
        count = len(self.folders[folder].shards)
        epoch, place = divmod(self.number + self.lanes * turn, count)
        order = list(range(count))
        chance(self.seed, folder, "epoch", epoch).shuffle(order)
        return order[place]

    def _take_in(self) -> None:
        """Move one sample from a shard to those that wait; sources of small weight are passed over now and then."""
        chosen = chance(self.seed, self.number, "take", self.taken)
        self.taken += 1
        folder = chosen.choices(range(len(self.folders)), self.weights)[0]
        sample = self._read(folder)
        if chosen.random() < self.source_weights[folder].get(sample.meta.get("source"), 1.0):
            self.waiting.append(sample)

    def _read(self, folder: int) -> Sample:
        reader = self.readers[folder]
        while True:
            if reader.open is None:
                reader.open = self.folders[folder].read(self.shard(folder, reader.turn), reader.index)
            found = next(reader.open, None)
            if found is not None:
                index, *content = found
                reader.index = index + 1
                return Sample((folder, reader.turn, index), *content)
            reader.turn, reader.index, reader.open = reader.turn + 1, 0, None

    def _go_on(self, position: Position) -> None:
        """Take up a position: read the samples that were waiting and those already drawn again."""
        self.taken, self.draws = position["taken"], position["draws"]
        self.readers = [_Reader(turn, index) for turn, index in position["readers"]]
        wanted = {tuple(where) for where in position["waiting"]}
        wanted |= {tuple(where) for where, _ in position["drawn"]}
        found: dict[tuple[int, ...], Sample] = {}
        for folder, turn in sorted({where[:2] for where in wanted}):
            places = {where[2] for where in wanted if where[:2] == (folder, turn)}
            for index, *content in self.folders[folder].read(self.shard(folder, turn), min(places)):
                if index in places:
                    found[folder, turn, index] = Sample((folder, turn, index), *content)
                if index == max(places):
                    break
        self.waiting = [found[tuple(where)] for where in position["waiting"]]
        for where, draw in position["drawn"]:
            sample = found[tuple(where)]
            self.drawn.setdefault(sample.group, []).append((sample, draw))


@dataclass
class Step:
    """What a process needs for one optimiser step.

    batches: one a lane of this process. positions: number of the lane -> where it is behind these batches.
    """

    batches: list[Batch]
    positions: dict[int, Position]


class Stream:
    """Steps made ahead in a thread, so that the accelerator never waits for a disk.

    Args:
        lanes: those of this process.
        make: (samples, numbers of their draws, number of the lane) -> Batch.
        ahead: micro batches that may lie ready.
    """

    def __init__(
        self, lanes: Sequence[Lane], make: Callable[[list[Sample], list[int], int], Batch], ahead: int
    ) -> None:
        self._ready: queue.Queue[Step | BaseException] = queue.Queue(max(1, ahead // len(lanes)))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(list(lanes), make), daemon=True, name="stream")
        self._thread.start()

    def __next__(self) -> Step:
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; it is not waited for where it hangs on a slow disk or download."""
        self._over.set()
        patience = time.monotonic() + 2
        while self._thread.is_alive() and time.monotonic() < patience:
            with suppress(queue.Empty):
                self._ready.get_nowait()  # it may wait for room
            self._thread.join(0.02)

    def _work(self, lanes: list[Lane], make: Callable[[list[Sample], list[int], int], Batch]) -> None:
        try:
            while not self._over.is_set():
                batches = [make(*next(lane), lane.number) for lane in lanes]
                self._ready.put(Step(batches, {lane.number: lane.position() for lane in lanes}))
        except BaseException as error:  # raised again where the step is asked for
            self._ready.put(error)
