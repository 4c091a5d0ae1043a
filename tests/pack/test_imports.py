"""Who may import whom: the rooms of the house, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.comfyui import REPOSITORY

from dhumandiff.methods.parts2whole.model import HOST

PACK = ("dhumandiff", "nodes")
ROOMS = (*PACK, "training", "benchmarks")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))}


def imports(name: str, anywhere: bool = True) -> Iterator[str]:
    """Full names of what a module imports; with `anywhere` also inside functions, but never for types only."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
        if anywhere or not isinstance(node, ast.FunctionDef | ast.ClassDef):
            todo.extend(ast.iter_child_nodes(node))


IMPORTS = {name: set(imports(name)) for name in MODULES}


def inside(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def test_no_circle():
    known = {name: {other for other in imports(name, anywhere=False) if other in MODULES} for name in MODULES}
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("who", "never", "but"),
    [
        ("dhumandiff", ("nodes", "training", "benchmarks", "comfy", "comfy_api", "folder_paths"), ()),
        ("nodes", ("training", "benchmarks", "diffusers", "transformers"), ()),
        ("training", ("nodes", "comfy", "comfy_api", "benchmarks"), ()),
        ("nodes", ("comfy", "folder_paths", "latent_preview", "server"), ("nodes.comfy",)),
        (
            "dhumandiff",
            ("diffusers", "transformers"),
            ("dhumandiff.hosts", "dhumandiff.miniature", "dhumandiff.testing", "dhumandiff.cli"),
        ),
        ("dhumandiff.hosts", ("dhumandiff.miniature", "dhumandiff.testing", "dhumandiff.cli"), ()),
        ("nodes", ("dhumandiff.testing", "dhumandiff.cli", "dhumandiff.hosts"), ()),
        ("dhumandiff", ("dhumandiff.cli",), ("dhumandiff.cli", "dhumandiff.__main__")),
        ("training", ("dhumandiff.cli",), ()),
        ("dhumandiff.methods", ("dhumandiff.hosts", "dhumandiff.miniature", "dhumandiff.testing"), ()),
        (
            "dhumandiff.conditioning",
            ("dhumandiff.methods", "dhumandiff.hosts", "dhumandiff.miniature", "dhumandiff.testing"),
            (),
        ),
        *[
            (f"dhumandiff.{room}", ("dhumandiff.methods", "dhumandiff.hosts", "dhumandiff.conditioning"), ())
            for room in ("formats", "references", "faces", "prompts", "layout")
        ],
        ("dhumandiff.evaluation", ("dhumandiff.methods", "dhumandiff.hosts"), ()),
        ("dhumandiff.miniature", ("dhumandiff.testing",), ()),
    ],
)
def test_arrows_go_one_way(who: str, never: tuple[str, ...], but: tuple[str, ...]):
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        if inside(name, who) and not inside(name, *but)
        for other in others
        if inside(other, *never)
    ]
    assert not wrong


def test_no_method_imports_another():
    methods = {path.name for path in (REPOSITORY / "dhumandiff" / "methods").iterdir() if path.is_dir()}
    for name, others in IMPORTS.items():
        for own in methods:
            if inside(name, f"dhumandiff.methods.{own}"):
                assert not [
                    other for other in others if inside(other, *(f"dhumandiff.methods.{m}" for m in methods - {own}))
                ]


def test_one_method_reaches_its_host_by_name_and_no_other_does():
    """What the syntax of imports does not show; docs/architecture.md says why."""
    rooms = ("conditioning", "formats", "methods", "references", "faces", "prompts", "layout", "evaluation")
    by_name = {
        name
        for name in MODULES
        if inside(name, *(f"dhumandiff.{room}" for room in rooms))
        and "import_module" in MODULES[name].read_text(encoding="utf-8")
    }
    assert by_name == {"dhumandiff.methods.parts2whole.model"}
    assert HOST == "...hosts.diffusers.parts2whole"
    assert "dhumandiff.hosts.diffusers.parts2whole" in MODULES


def test_inside_the_pack_imports_are_relative():
    """ComfyUI loads the pack under a name of its own, and has a module `nodes` itself."""
    for room in PACK:
        for path in (REPOSITORY / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not [name for name in names if inside(name or "", *PACK)], path
