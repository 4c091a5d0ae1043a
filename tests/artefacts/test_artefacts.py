"""What was made before still loads, and gives the same bits.

commit_4cd81fe/ was made by make.py with commit 4cd81fe, the last one before files, modules and names were moved:

    references/         people, saved: two photos, one with crop and landmarks, without recogniser, in half precision, two drawn
    adapters/           a native file, the four released files, an IP-Adapter Plus as .safetensors and as nested .bin
    configs/            the configurations that shipped, and two with every field that there was
    training.tar.xz     pictures, the shards that `prepare` made of them (with plan, journal and report), and two runs that were
                        ended at step 3 of 6: AdamW with averages, and Muon (two groups) from the first one's weights
    prompts/            two shipped workflows as ComfyUI's page queued them
    workflows.tar.xz    all shipped workflows and blueprints
    expected/           what that commit computed: digests of everything, and the smaller arrays themselves

On the machine and with the packages of made_with (expected.json) every bit has to agree. Elsewhere sums come out in another
order, and what is compared agrees to a tolerance: the first test says so.

What is computed is in artefact_measures.py, with the project's entries at its top, and artefact_comfyui.py; make.py ran the same
two files.
"""

import json
import shutil
import tarfile
from pathlib import Path

import artefact_bases as bases
import artefact_measures as measures
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dhumandiff.miniature.design import DESIGN, FIRST
from training.renamed import RENAMED_VALUES

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

MADE = Path(__file__).parent / "commit_4cd81fe"
REPOSITORY = Path(__file__).resolve().parents[2]
EXPECTED = json.loads((MADE / "expected" / "expected.json").read_text(encoding="utf-8"))
MADE_WITH = EXPECTED["made_with"]
HERE = measures.here()
EXACT = {name: HERE.get(name) for name in MADE_WITH if name != "comfyui"} == {
    name: value for name, value in MADE_WITH.items() if name != "comfyui"
}
NEAR = {"rtol": 1e-3, "atol": 1e-3}
needs_comfyui = pytest.mark.skipif(
    measures.comfyui() is None, reason="no ComfyUI: set COMFYUI_PATH to a ComfyUI checkout"
)


@pytest.fixture(autouse=True)
def one_thread():
    """More threads add up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bases, shards and runs side by side, as they lay when the artefacts were made."""
    place = tmp_path_factory.mktemp("artefacts")
    bases.write_base(place, bases.vocabulary(REPOSITORY))
    unpack(MADE / "training.tar.xz", place)
    return place


def unpack(file, place):
    with tarfile.open(file) as tar:
        tar.extractall(place, filter="data")


def check(name, found, exact=None, without=frozenset()):
    """Every tensor but some by its digest; elsewhere those whose arrays were kept, nearly."""
    assert {*found} | without == {*EXPECTED[name]}
    found = {key: one for key, one in found.items() if key not in without}
    if EXACT if exact is None else exact:
        now = measures.digests(found)
        assert [key for key in now if now[key] != EXPECTED[name][key]] == []
        return
    for key, wanted in load_file(MADE / "expected" / f"{name}.safetensors").items():
        if key in without:
            continue
        if wanted.dtype == torch.uint8:
            apart = (found[key].int() - wanted.int()).abs().float().mean()
            assert apart < 4, (key, apart)
        else:
            torch.testing.assert_close(
                found[key].float(), wanted.float(), **NEAR, msg=lambda text, key=key: f"{key}: {text}"
            )


def drawn_by_the_first_miniature(name):
    """What no other miniature can draw. References are seen by the same eyes."""
    if DESIGN == FIRST:
        return frozenset()
    return frozenset(key for key in EXPECTED[name] if key.startswith("mini") and "EncodeReference" not in key)


def same_losses(found, expected):
    """Equal numbers in equal steps; what the parts of the loss are called does not matter."""
    assert [one["step"] for one in found] == [one["step"] for one in expected]
    for now, then in zip(found, expected, strict=True):
        numbers = sorted(value for name, value in now.items() if name != "memory_gb")  # which runs of then did not log
        wanted = sorted(then.values())
        if EXACT:
            assert numbers == wanted, (now, then)
        else:
            assert np.allclose(numbers, wanted, rtol=0.02, atol=0.02), (now, then)


def test_where_this_runs():
    if not EXACT:
        differing = {name: (value, HERE.get(name)) for name, value in MADE_WITH.items() if HERE.get(name) != value}
        pytest.skip(f"compared to a tolerance only; made with and here: {differing}")


# --- files ------------------------------------------------------------------------------------------------------------------


def test_saved_references_are_read_bit_for_bit():
    found = measures.references_read(MADE)
    assert {name: found.pop(f"{name}.name") for name in measures.REFERENCES} == EXPECTED["names"]
    check("references", found, exact=True)


def test_a_reference_saved_again_is_the_same_file(tmp_path):
    for file in sorted((MADE / "references").glob("*.safetensors")):
        measures.load_reference(file).save(tmp_path / file.name)
        first, again = load_file(file), load_file(tmp_path / file.name)
        assert measures.digests(first) == measures.digests(again)


def test_an_adapter_saved_again_holds_the_same_tensors(tmp_path):
    adapter = measures.load_adapter(MADE / "adapters" / "native.safetensors")
    adapter.save_pretrained(tmp_path / "again.safetensors")
    first, again = (
        load_file(file) for file in (MADE / "adapters" / "native.safetensors", tmp_path / "again.safetensors")
    )
    assert measures.digests(first) == measures.digests(again)
    measures.load_adapter(MADE / "adapters" / "released").save_released(tmp_path / "released")
    for file in sorted((MADE / "adapters" / "released").glob("*.pt")):
        first, again = (torch.load(path, weights_only=True) for path in (file, tmp_path / "released" / file.name))
        assert measures.digests(first) == measures.digests(again)


def test_adapters_make_the_same_tokens_of_the_saved_references():
    check("tokens", measures.adapter_tokens(MADE))


# --- with diffusers -----------------------------------------------------------------------------------------------------------


def test_a_unet_predicts_the_same_with_the_pair():
    check("predictions", measures.predictions(MADE))


@pytest.mark.slow
def test_portraits_are_the_same(folder, tmp_path):
    for name in ("base", "vision"):
        (tmp_path / name).symlink_to(folder / name)
    found = {}
    for name in measures.PORTRAITS:
        found |= measures.portrait(name, MADE, tmp_path)
    check("portraits", found, without=drawn_by_the_first_miniature("portraits"))


# --- training -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXPECTED["configs"]))
def test_a_configuration_of_then_means_the_same(name, tmp_path):
    """Every value that it led to is there still, a choice maybe by its new name; there may be more."""
    kind = "prepare" if "prepare" in name else "train"
    found = measures.settings_read(REPOSITORY, tmp_path, kind, MADE / "configs" / name)
    called_now = {
        repr(old): repr(new) for choices in RENAMED_VALUES.get(kind, {}).values() for old, new in choices.items()
    }
    missing = [called_now.get(value, value) for value in EXPECTED["configs"][name]]
    for value in found:
        if value in missing:
            missing.remove(value)
    assert missing == []


@pytest.mark.slow
def test_a_configuration_of_then_trains_as_then(folder):
    measures.training(REPOSITORY, folder, *measures.FRESH.split())
    same_losses(measures.losses(folder / "fresh"), EXPECTED["fresh"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "run_muon"])
def test_a_run_goes_on_to_the_same_weights(folder, name):
    run = folder / f"{name}_again"
    shutil.copytree(folder / name, run)
    measures.training(REPOSITORY, folder, "train", "--config", run / "config.yaml", "--run", run)
    same_losses(measures.losses(run), EXPECTED[name]["losses"])
    found, expected = (
        measures.checkpoint_digests(run / "checkpoints" / measures.CONTINUED),
        EXPECTED[name]["checkpoint"],
    )
    if not EXACT:
        return
    for file in ("adapter.safetensors", "average.safetensors"):
        assert found[file] == expected[file]
    left = list(found["state"])
    for one in expected["state"]:  # the optimiser's tensors; there may be more
        left.remove(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "run_muon"])
def test_a_run_is_exported_to_the_same_weights(folder, name):
    out = folder / f"{name}_exported"
    measures.training(
        REPOSITORY, folder, "export", "--run", name, "--out", out, "--licence", "Apache-2.0", "--dtype", "float32"
    )
    assert measures.digests(load_file(next(out.glob("*.safetensors")))) == EXPECTED[name]["exported"]


@pytest.mark.slow
def test_unfinished_shards_go_on_to_the_same_bytes(folder):
    """The plan of then is taken for the same settings, and the shard that is missing comes out the same."""
    shards = folder / "unfinished"
    shutil.copytree(folder / "shards", shards)
    (shards / "000001.tar").unlink()
    for path in [*shards.glob("journal/*000001*"), shards / "dataset.json"]:
        path.unlink()
    measures.training(REPOSITORY, folder, "prepare", "--config", "prepare.yaml", "--out", shards)
    assert measures.file_digests(shards, "common.safetensors") == EXPECTED["common"]
    found = measures.file_digests(shards, "*.tar")
    if EXACT:
        assert found == EXPECTED["shards"]
    else:
        assert found.keys() == EXPECTED["shards"].keys()
    before, after = (json.loads((one / "dataset.json").read_text()) for one in (folder / "shards", shards))
    counts = before.pop("counts")
    assert before == {name: after[name] for name in before}  # there may be more
    assert counts == {name: after["counts"][name] for name in counts}


# Pictures with an area beside the prompt: the negative of then got the faces, which was a fault (nodes/comfy/ids.py).
MENDED = frozenset(
    f"{case}.latent"
    for case in ("apply_area_batch", "apply_one_pass_area_batch", "guider_one_pass_area", "guider_two_strength_area")
)
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


# --- ComfyUI ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_comfyui(tmp_path_factory):
    return measures.in_comfyui(REPOSITORY, MADE, tmp_path_factory.mktemp("comfyui"))


@pytest.mark.slow
@needs_comfyui
def test_prompts_of_then_sample_the_same(in_comfyui):
    """Outputs may be added."""
    found = {name: value for name, value in in_comfyui[0].items() if name in EXPECTED["comfyui"]}
    without = MENDED | drawn_by_the_first_miniature("comfyui")
    check("comfyui", found, exact=EXACT and HERE["comfyui"] == MADE_WITH["comfyui"], without=without)


@pytest.mark.slow
@needs_comfyui
def test_nodes_take_and_give_what_they_did(in_comfyui):
    """Inputs in their order, types and choices; more choices and optional inputs behind them are welcome, and a link may be
    left open that had to be there."""
    now, then = in_comfyui[1], json.loads((MADE / "expected" / "nodes.json").read_text(encoding="utf-8"))
    for kind, node in then.items():
        assert kind in now
        for name, given in node["inputs"].items():
            found = now[kind]["inputs"][name]
            assert found["type"] == given["type"], (kind, name)
            assert found["required"] <= given["required"], (kind, name)
            if given["choices"] is not None and kind not in (
                "DHDLoadAdapter",
                "DHDLoadReference",
                "DHDLoadFaceAnalysis",
            ):
                assert set(given["choices"]) <= set(found["choices"]), (kind, name)
        eased = [n for n, one in node["inputs"].items() if one["required"] > now[kind]["inputs"][n]["required"]]
        assert not {node["inputs"][n]["type"] for n in eased} & set(WIDGETS), kind  # values are kept by their place
        for part in ("required", "optional"):
            names = [
                [
                    n
                    for n, one in side[kind]["inputs"].items()
                    if one["required"] == (part == "required") and n not in eased
                ]
                for side in (then, now)
            ]
            assert names[1][: len(names[0])] == names[0], (kind, part)
            if part == "required":
                assert names[0] == names[1], kind
        for part in ("outputs", "output_names"):
            assert now[kind][part][: len(node[part])] == node[part], (kind, part)


@pytest.mark.slow
@needs_comfyui
def test_workflows_of_then_fit_the_nodes(in_comfyui, tmp_path):
    """Every node, socket and widget that a shipped workflow or blueprint names is there, in its place."""
    unpack(MADE / "workflows.tar.xz", tmp_path)
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 16
    for file in files:
        workflow = json.loads(file.read_text(encoding="utf-8"))
        inside = [one for graph in workflow.get("definitions", {}).get("subgraphs", []) for one in graph["nodes"]]
        for node in [*workflow["nodes"], *inside]:
            if not node["type"].startswith("DHD"):
                continue
            known = in_comfyui[1][node["type"]]
            widgets = [one["name"] for one in node["inputs"] if "widget" in one]
            places = [name for name, one in known["inputs"].items() if one["type"] in WIDGETS]
            assert places[: len(widgets)] == widgets, (file.name, node["type"])
            for one in node["inputs"]:
                assert set(str(one["type"]).split(",")) <= set(str(known["inputs"][one["name"]]["type"]).split(",")), (
                    file.name,
                    one,
                )
            for number, one in enumerate(node.get("outputs", [])):
                assert known["outputs"][number] == one["type"], (file.name, node["type"], one["name"])
                assert known["output_names"][number] == one["name"], (file.name, node["type"], one["name"])
