"""What `python -m dhumandiff` can do, one module a command: `add_parser(subparsers)` and `run(args)`, which may return an exit code.

Importing a command imports nothing heavy, so that --help answers at once; `run` imports what it needs.
"""

from . import convert, demo, doctor, download, generate, inspect

__all__ = ["COMMANDS"]

COMMANDS = (demo, generate, doctor, download, inspect, convert)
