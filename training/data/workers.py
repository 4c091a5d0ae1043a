"""Processes that open pictures and look for faces, ahead of the encoders; results come in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

from dhumandiff.faces import FaceAnalyzer

from .. import TrainingError
from .encode import load_faces
from .extract import ExtractedSample, SkippedSample, Task, extract
from .settings import PrepareSettings

__all__ = ["iter_extracted"]

_AHEAD = 3  # tasks a worker has waiting: enough to be busy while the encoders run, few enough to fit in memory


@contextmanager
def iter_extracted(
    tasks: Iterable[Task], settings: PrepareSettings, faces: FaceAnalyzer, latent_factor: int, vision_size: int
) -> Iterator[Iterator[ExtractedSample | SkippedSample]]:
    """What is seen on each picture, in order.

    With `settings.workers` 0 in this process, with `faces`; else in that many, each with face models of its own.
    """
    if settings.workers == 0:
        yield (extract(task, settings, faces, latent_factor, vision_size) for task in tasks)
        return
    # spawn: a fork of a process that holds CUDA or threads is not safe
    pool = ProcessPoolExecutor(
        settings.workers,
        multiprocessing.get_context("spawn"),
        _start,
        (settings, latent_factor, vision_size),
    )
    try:
        yield _in_order(pool, iter(tasks), settings.workers * _AHEAD)
    except BrokenProcessPool as error:
        raise TrainingError(
            "A worker process died, most likely because memory ran out. Nothing finished is lost: run the same "
            f"command with fewer --workers than {settings.workers}.",
            code="worker-died",
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, tasks: Iterator[Task], ahead: int
) -> Iterator[ExtractedSample | SkippedSample]:
    waiting: deque[Future] = deque(pool.submit(_work, task) for task in islice(tasks, ahead))
    while waiting:
        done = waiting.popleft().result()
        waiting.extend(pool.submit(_work, task) for task in islice(tasks, 1))
        yield done


_job: tuple = ()  # of a worker process: what `look` needs beside the task


def _start(settings: PrepareSettings, latent_factor: int, vision_size: int) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's affair
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)  # the processes are the parallelism
    _job = (settings, load_faces(settings.faces), latent_factor, vision_size)


def _end_with_parent() -> None:
    """A killed main process cannot end its workers, and they would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(task: Task) -> ExtractedSample | SkippedSample:
    return extract(task, *_job)
