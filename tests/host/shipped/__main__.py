"""Write workflows/*.json, and what else the command line asks for."""

import argparse
import sys
from pathlib import Path

HOST = Path(__file__).resolve().parents[1]
sys.path[0] = str(HOST)  # Python puts this folder there
sys.path += [str(HOST.parent), str(HOST.parents[1])]


def main() -> None:
    """The command."""
    import shipped

    parser = argparse.ArgumentParser(
        prog="python tests/host/shipped",
        description=shipped.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", nargs="*", metavar="NAME", choices=shipped.NAMES, help="of all, or of these")
    parser.add_argument("--nodes", nargs="*", metavar="TYPE", help="those that are used, and these")
    asked = parser.parse_args()
    if asked.nodes is not None:
        from shipped.known import update_nodes

        update_nodes(asked.nodes)
    for name, text in shipped.texts().items():
        (shipped.WORKFLOWS / f"{name}.json").write_text(text, encoding="utf-8")
    if asked.pictures is not None:
        from shipped.pictures import make

        make(asked.pictures or shipped.NAMES)


if __name__ == "__main__":
    main()
