"""`python -m benchmarks.gpu` with tiny models on the CPU."""

import json

from benchmarks.gpu import __main__ as command


def run_small(part, folder):
    """Run a part into folder/out; its cases."""
    places = ["--out", str(folder / "out"), "--work", str(folder / "work")]
    assert command.main(["--small", "--device", "cpu", "--part", part, *places]) == 0
    [file] = (folder / "out").glob(f"*/{part}.json")
    return json.loads(file.read_text())["cases"]
