"""What installers, ComfyUI's registry, manager and template browser read: requirements, versions, files, pictures, workflows."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from itertools import chain

import pytest
from PIL import Image
from support.comfyui import COMFYUI, REPOSITORY
from support.published import copy_published, left_out, published, tracked

import dhumandiff

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli there

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))

TORCH = {"torch", "torchvision", "torchaudio"}
GPU_RUNTIMES = {"onnxruntime-gpu", "onnxruntime-directml"}
# insightface itself asks for the CPU runtime.
CPU_RUNTIMES = {"onnxruntime", "insightface"}
# Without the repository itself on the path.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
PAGE_ONLY = {"MarkdownNote", "Note", "PrimitiveNode", "Reroute"}


def names(requirements):
    """Package names of requirement lines, as an index would look them up."""
    lines = (line.partition("#")[0].strip() for line in requirements)
    return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in lines if line}


def requirement_lines():
    return (REPOSITORY / "requirements.txt").read_text().splitlines()


# --- requirements -----------------------------------------------------------------------------------------------------


def test_nothing_but_the_demo_names_torch():
    everything = {
        "requirements.txt": requirement_lines(),
        ".ci/requirements.txt": (REPOSITORY / ".ci" / "requirements.txt").read_text().splitlines(),
        "build": PROJECT["build-system"]["requires"],
        "dependencies": PROJECT["project"]["dependencies"],
        **{name: extra for name, extra in EXTRAS.items() if name != "demo"},
    }
    for where, requirements in everything.items():
        assert not names(requirements) & TORCH, where
    assert names(EXTRAS["demo"]) == names(EXTRAS["diffusers"]) | {"torch", "opencv-python-headless"}


def test_both_ways_to_install_bring_the_same():
    assert names(requirement_lines()) == names(PROJECT["project"]["dependencies"])


def test_no_extra_brings_both_runtimes():
    """And only one brings each."""
    for extra, requirements in EXTRAS.items():
        assert not (names(requirements) & CPU_RUNTIMES and names(requirements) & GPU_RUNTIMES), extra
    bringing = [extra for extra, r in EXTRAS.items() if names(r) & (CPU_RUNTIMES | GPU_RUNTIMES)]
    assert bringing == ["cpu", "gpu"]  # so that cpu or gpu goes with any other extra
    always = chain(requirement_lines(), PROJECT["project"]["dependencies"])
    assert not names(always) & (CPU_RUNTIMES | GPU_RUNTIMES)


def test_the_gpu_runtime_is_asked_for_where_it_has_wheels():
    (gpu,) = [line for line in EXTRAS["gpu"] if line.startswith("onnxruntime-gpu")]
    assert "sys_platform != 'darwin'" in gpu


def test_requirements_are_as_loose_as_can_be():
    assert not [line for line in chain(requirement_lines(), *EXTRAS.values()) if re.match(r"[^#]*(==|<|~=)", line)]


# --- names and versions -----------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == dhumandiff.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", dhumandiff.__version__)


def test_the_changelog_tells_of_this_version():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## \[(.+?)\](.*)$", text, re.MULTILINE)
    unreleased = text.partition("## [Unreleased]")[2].partition("\n## ")[0]
    assert releases[0][0] == "Unreleased"
    assert dhumandiff.__version__ in unreleased or releases[1][0] == dhumandiff.__version__
    for number, date in releases[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", number)
        assert re.fullmatch(r" - \d{4}-\d\d-\d\d", date)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"\[([^\]]+)\]: https://", text)) == {number for number, _ in releases}


# --- ComfyUI's registry (docs.comfy.org/registry/specifications) --------------------------------------------------------


def test_what_comfyui_s_registry_asks_for_is_there():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    name = project["name"]
    assert "comfyui" not in name.lower()
    assert len(name) < 100
    assert re.fullmatch(r"[A-Za-z]+([-_.]?[A-Za-z0-9]+)*", name)
    assert (REPOSITORY / project["license"]["file"]).read_text().lstrip().startswith("Apache License")
    assert (REPOSITORY / project["readme"]).is_file()
    assert all(url.startswith("https://") for url in project["urls"].values())
    assert {"Repository", "Documentation", "Issues"} <= set(project["urls"])
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} == set(comfy)
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert comfy["requires-comfyui"].removeprefix(">=") in (REPOSITORY / "README.md").read_text()


def test_the_oldest_comfyui_is_the_same_for_registry_and_doctor():
    from dhumandiff.doctor.versions import OLDEST_COMFYUI

    assert PROJECT["tool"]["comfy"]["requires-comfyui"] == f">={OLDEST_COMFYUI}"


def test_classifiers_are_among_those_that_the_registry_reads():
    systems = ("Microsoft", "POSIX", "MacOS", "OS Independent")
    graphics = ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")
    known = tuple(f"Operating System :: {name}" for name in systems)
    known += tuple(f"Environment :: GPU :: {name}" for name in graphics)
    classifiers = PROJECT["project"]["classifiers"]
    assert classifiers
    assert [one for one in classifiers if not one.startswith(known)] == []


@pytest.mark.parametrize("field", ["Icon", "Banner"])
def test_the_registry_finds_our_pictures(field):
    """Each is a file of the repository that can be opened, beside the drawing it was made of."""
    raw = PROJECT["project"]["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    url = PROJECT["tool"]["comfy"][field]
    assert url.startswith(raw)
    name = url.removeprefix(raw)
    assert {name, name.replace(".png", ".svg")} <= set(tracked())
    with Image.open(REPOSITORY / name) as picture:
        picture.load()


def test_only_what_a_user_needs_is_published():
    """Somebody in front of the graph."""
    tops = {name.partition("/")[0] for name in published()}
    assert tops == {
        *("__init__.py", "nodes", "dhumandiff", "web", "locales", "workflows", "subgraphs", "examples"),
        *("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "requirements.txt"),
    }


def test_published_code_does_nothing_that_the_registry_forbids():
    forbidden = {"eval", "exec", "__import__", "os.system", "os.popen"}
    found = []
    for name in published():
        tree = (
            ast.parse((REPOSITORY / name).read_text(encoding="utf-8")) if name.endswith(".py") else ast.Module([], [])
        )
        for node in ast.walk(tree):
            used = {ast.unparse(node.func)} & forbidden if isinstance(node, ast.Call) else set()
            if isinstance(node, ast.Import):
                used = {alias.name for alias in node.names} & {"subprocess", "pip"}
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                used = {node.module} & {"subprocess", "pip"}
            found += [f"{name}:{node.lineno}: {what}" for what in used]
    assert found == []


def test_published_pages_find_their_pictures():
    kept = published()
    pages = [name for name in kept if name.endswith(".md") and name.startswith(("web/", "examples/"))]
    pictures = []
    for page in pages:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        pictures += [f"{page.rpartition('/')[0]}/{path}" for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)]
    assert pictures
    assert [path for path in pictures if path not in kept] == []


IMPORT_ALL = """
import importlib, pkgutil
import dhumandiff
for module in pkgutil.walk_packages(dhumandiff.__path__, "dhumandiff."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print("lacks", error.name)
print("from", dhumandiff.__file__)
"""


def test_no_module_that_is_published_needs_one_that_is_not(tmp_path):
    copy_published(tmp_path)
    out = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert f"from {tmp_path}" in out.stdout, out.stderr[-2000:]
    lacking = {line.removeprefix("lacks ").split(".")[0] for line in out.stdout.splitlines() if "lacks" in line}
    assert not lacking & {"dhumandiff", "nodes", *(name.split("/")[0] for name in left_out())}
    for command in ([], ["doctor"]):
        line = [sys.executable, "-m", "dhumandiff", *command, "--help"]
        assert subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=120).returncode == 0


# --- what a wheel carries ---------------------------------------------------------------------------------------------


def test_package_data_holds_every_data_file_of_the_packages():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    left_out = []
    for name in tracked():
        top, *_ = name.split("/")
        if top not in ("dhumandiff", "training") or name.endswith(".py"):
            continue
        covered = (f"{package.replace('.', '/')}/{p}" for package, globs in patterns.items() for p in globs)
        if not any(fnmatch(name, pattern) for pattern in covered):
            left_out.append(name)
    assert left_out == []
    tokenizer = REPOSITORY / "dhumandiff" / "tokenizer"
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= {path.name for path in tokenizer.iterdir()}
    assert "*.json" in patterns["dhumandiff.tokenizer"]


def test_every_folder_with_modules_is_a_package():
    folders = {name.rpartition("/")[0] for name in tracked() if name.endswith(".py")}
    packages = {folder for folder in folders if folder.split("/")[0] in ("dhumandiff", "training", "nodes")}
    assert "dhumandiff/testing" in packages
    assert [folder for folder in sorted(packages) if not (REPOSITORY / folder / "__init__.py").is_file()] == []


# --- workflows --------------------------------------------------------------------------------------------------------


def kinds(workflow):
    """Node types of a workflow, also inside its subgraphs."""
    graph = json.loads(workflow.read_text())
    subgraphs = (graph.get("definitions") or {}).get("subgraphs", [])
    inside = {node["type"] for part in (graph, *subgraphs) for node in part["nodes"]}
    return inside - {part["id"] for part in subgraphs}


def node_ids(*sources):
    """Ids that node classes in these files define, old style and new."""
    found = set()
    for source in sources:
        text = source.read_text(errors="replace")
        found |= set(re.findall(r"node_id\s*=\s*[\"']([^\"']+)", text))
        for mapping in re.findall(r"NODE_CLASS_MAPPINGS\s*=\s*\{(.*?)\n\}", text, re.DOTALL):
            found |= set(re.findall(r"^\s*[\"']([^\"']+)[\"']\s*:", mapping, re.MULTILINE))
    return found


def test_there_is_a_workflow():
    assert WORKFLOWS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_a_picture_beside_it(workflow):
    pictures = [path for path in workflow.parent.glob(f"{workflow.stem}.*") if path.suffix in (".jpg", ".png", ".webp")]
    assert [path.suffix for path in pictures] == [".jpg"]  # what the template browser looks for
    with Image.open(pictures[0]) as picture:
        picture.load()
        assert min(picture.size) >= 200


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_nothing_but_stock_nodes_and_ours(workflow):
    ours = node_ids(*(REPOSITORY / "nodes").glob("*.py"))
    assert len(ours) >= 10
    assert {kind for kind in kinds(workflow) if kind.startswith("DHD")} <= ours
    if not (COMFYUI / "nodes.py").is_file():
        pytest.skip(f"our own nodes are there; the others cannot be looked up: no ComfyUI at {COMFYUI}")
    stock = node_ids(COMFYUI / "nodes.py", *(COMFYUI / "comfy_extras").glob("*.py"))
    assert {"KSampler", "SamplerCustomAdvanced"} <= stock
    assert kinds(workflow) - ours - stock - PAGE_ONLY == set()


# --- nothing of the machine it was written on -----------------------------------------------------------------------------


def test_no_text_file_names_a_path_of_somebody_s_machine():
    machine = re.compile(r"(?<![\w.~$}])/(?:root|home|Users|work|mnt|media)/\w|\b[A-Za-z]:\\+(?:Users|Documents)")
    found = []
    for name in tracked():
        content = (REPOSITORY / name).read_bytes()
        if b"\0" in content:
            continue
        lines = content.decode(errors="replace").splitlines()
        found += [
            f"{name}:{number}: {line.strip()[:120]}" for number, line in enumerate(lines, 1) if machine.search(line)
        ]
    assert found == []
