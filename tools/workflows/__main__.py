"""Write workflows/*.json, and what else the command line asks for."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))  # for the server and the small files


def main() -> None:
    """The command."""
    from tools import workflows

    parser = argparse.ArgumentParser(
        prog="python -m tools.workflows",
        description=workflows.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", nargs="*", metavar="NAME", choices=workflows.NAMES, help="of all, or of these")
    parser.add_argument("--nodes", nargs="*", metavar="TYPE", help="those that are used, and these")
    asked = parser.parse_args()
    if asked.nodes is not None:
        from tools.workflows.known import update_nodes

        update_nodes(asked.nodes)
    for name, text in workflows.texts().items():
        (workflows.WORKFLOWS / f"{name}.json").write_text(text, encoding="utf-8")
    if asked.pictures is not None:
        from tools.workflows.pictures import make

        make(asked.pictures or workflows.NAMES)


if __name__ == "__main__":
    main()
