"""What is imported when ComfyUI loads the pack: nothing beyond requirements.txt and what ComfyUI itself has."""

import ast
import re
import sys

from support.comfyui import REPOSITORY

COMFYUI_HAS = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "comfyui_version",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "torch",
}
NAMES = {"pillow": "PIL"}  # of packages that are imported by another name


def allowed():
    lines = (line.partition("#")[0].strip() for line in (REPOSITORY / "requirements.txt").read_text().splitlines())
    packages = {re.match(r"[\w.-]+", line)[0] for line in lines if line}
    return COMFYUI_HAS | {NAMES.get(name, name) for name in packages} | set(sys.stdlib_module_names)


def at_import(body):
    """Import statements that run when a module is imported: not those in functions, nor those for a type checker."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from at_import([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def file_of(parts):
    path = REPOSITORY.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def loaded():
    """Walk from ComfyUI's door: the pack's modules that are loaded, and the names of others' that they import."""
    waiting, ours, others = [("nodes",)], {}, {}
    while waiting:
        parts = waiting.pop()
        path = file_of(parts)
        if path in ours or not path.is_file():
            continue
        ours[path] = parts
        waiting += [parts[:end] for end in range(1, len(parts))]
        package = parts if path.name == "__init__.py" else parts[:-1]
        for node in at_import(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
                base = tuple(part for part in base if part)
                waiting += [base, *((*base, alias.name) for alias in node.names)]
                continue
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                others.setdefault(name.partition(".")[0], path.relative_to(REPOSITORY).as_posix())
    return ours, others


def test_loading_the_pack_imports_nothing_beyond_its_requirements_and_comfyui():
    ours, others = loaded()
    files = {path.relative_to(REPOSITORY).as_posix() for path in ours}
    assert {"nodes/sampling.py", "nodes/comfy/patch.py", "dhumandiff/errors.py"} <= files
    assert {name: where for name, where in others.items() if name not in allowed()} == {}
