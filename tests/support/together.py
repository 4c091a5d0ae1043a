"""Processes that find each other over gloo, as `accelerate launch` starts them."""

import os
import socket

import torch


def run_together(context, processes, work, *args, seconds=400):
    """Call work(*args) in `processes` processes of a multiprocessing context; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [context.Process(target=_join, args=(rank, processes, port, work, args)) for rank in range(processes)]
    for process in together:
        process.start()
    for process in together:
        process.join(seconds)
        process.kill()  # nothing, unless they wait for each other
        process.join()
    return [process.exitcode for process in together]


def _join(rank, processes, port, work, args):
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in where.items()} | {"ACCELERATE_USE_CPU": "true"}
    work(*args)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
