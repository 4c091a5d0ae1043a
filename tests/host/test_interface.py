"""Shared workflows go on working: what they count on of the nodes is frozen in frozen_nodes.json."""

import copy

import pytest

from tools import interface

FROZEN = interface.read(interface.FROZEN)
NOW = interface.interface(interface.node_infos())


def test_nothing_that_shared_workflows_count_on_has_changed():
    found = interface.breaks(FROZEN, NOW)
    assert not found, (
        "workflows that people have saved would break:\n  "
        + "\n  ".join(found)
        + "\nIf they go on working all the same (a wider type, say), change tests/host/frozen_nodes.json by hand."
    )


def test_whatever_is_new_is_frozen_too():
    assert NOW == FROZEN, f"nodes have changed. Write that down with: {interface.COMMAND}"


def test_no_output_has_the_id_of_an_input():
    """ComfyUI 0.3.64 refuses the whole pack over one (later versions do not): give the output another id and a display name."""
    from dhd_pack.nodes import NODES

    for schema in (node.GET_SCHEMA() for node in NODES):
        assert not {i.id for i in schema.inputs} & {o.id for o in schema.outputs}, schema.node_id


def remove_node(nodes):
    del nodes["DHDSwapPersons"]


def rename_input(nodes):
    nodes["DHDApplyPair"]["optional"] = {
        {"mask_1": "mask_a"}.get(name, name): kind for name, kind in nodes["DHDApplyPair"]["optional"].items()
    }


def change_type(nodes):
    nodes["DHDDrawPerson"]["required"]["person"] = "STRING"


def require(nodes):
    nodes["DHDCascadeGuider"]["required"]["focus"] = nodes["DHDCascadeGuider"]["optional"].pop("focus")


def no_longer_require(nodes):
    nodes["DHDApplyPair"]["optional"]["end"] = nodes["DHDApplyPair"]["required"].pop("end")


def no_longer_require_and_rename(nodes):
    nodes["DHDApplyPair"]["optional"]["base"] = nodes["DHDApplyPair"]["required"].pop("model")


def no_longer_require_and_change_type(nodes):
    del nodes["DHDApplyPair"]["required"]["model"]
    nodes["DHDApplyPair"]["optional"]["model"] = "LATENT"


def reorder(nodes):
    required = nodes["DHDDrawPerson"]["required"]
    nodes["DHDDrawPerson"]["required"] = dict(reversed(required.items()))


def insert_before_the_others(nodes):
    nodes["DHDApplyPair"]["optional"] = {"mask_0": "MASK", **nodes["DHDApplyPair"]["optional"]}


def remove_output(nodes):
    del nodes["DHDEncodeReference"]["outputs"]["crop"]


def remove_choice(nodes):
    nodes["DHDCascadeKSampler"]["choices"]["mode"].remove("released")


@pytest.mark.parametrize(
    "change",
    [
        remove_node,
        rename_input,
        change_type,
        require,
        no_longer_require,
        no_longer_require_and_rename,
        no_longer_require_and_change_type,
        reorder,
        insert_before_the_others,
        remove_output,
        remove_choice,
    ],
)
def test_what_breaks_a_workflow_is_noticed(change):
    changed = copy.deepcopy(FROZEN)
    change(changed)
    assert interface.breaks(FROZEN, changed) != []


def test_additions_at_the_end_break_nothing():
    """New nodes, choices, outputs and optional inputs."""
    changed = copy.deepcopy(FROZEN)
    changed["DHDNew"] = changed["DHDSwapPersons"]
    changed["DHDApplyPair"]["optional"]["mask_9"] = "MASK"
    changed["DHDCascadeKSampler"]["choices"]["mode"].append("four_strength")
    changed["DHDSaveReference"]["outputs"]["path"] = "STRING"
    assert interface.breaks(FROZEN, changed) == []


def test_a_linked_input_that_is_not_required_any_more_breaks_nothing():
    """Links are found by name, wherever the input stands among the optional ones; values of widgets are kept by place."""
    changed = copy.deepcopy(FROZEN)
    pair = changed["DHDApplyPair"]
    pair["optional"] = {"model": pair["required"].pop("model"), **pair["optional"]}
    assert interface.breaks(FROZEN, changed) == []
