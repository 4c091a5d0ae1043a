"""The nodes of WithAnyone: files, people, where they are, and what is refused before sampling."""

import comfy.model_base
import comfy.supported_models
import folder_paths
import pytest
import torch
from dhd_pack.dhumandiff.conditioning.masks import resize_masks
from dhd_pack.nodes.comfy.flux import flux_people_of
from dhd_pack.nodes.comfy.flux_patch import read_boxes
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.conditioning import DHDApplyPair
from dhd_pack.nodes.layout import DHDPortraitLayout
from dhd_pack.nodes.withanyone import DHDApplyWithAnyone, DHDLoadWithAnyone
from support import tiny_comfy, tiny_flux, tiny_withanyone
from support.flux_prompts import fill, text_to_image, with_people, with_photos
from support.refused import refused
from support.sampling import guider, predict

PEOPLE = [tiny_withanyone.person(seed) for seed in (1, 2, 3, 4)]
BOXES = tiny_withanyone.BOXES["disjoint"]


@pytest.fixture(scope="module")
def flux():
    return tiny_flux.model_patcher()


@pytest.fixture(scope="module")
def weights():
    return tiny_withanyone.adapter()


def apply(model, weights, count=2, boxes=BOXES[:2], people=PEOPLE, **more):
    """`boxes`: as tuples, for those who are there."""
    references = {f"reference_{k}": person for k, person in enumerate(people[:count], 1)}
    if boxes is not None:
        more = {"boxes": tiny_withanyone.bounding_boxes(boxes), **more}
    [patched] = DHDApplyWithAnyone.execute(model, weights, **references, **{"form": 0.5, "strength": 1.0, **more}).args
    return patched


def run(model, picture=None):
    picture = tiny_flux.picture() if picture is None else picture
    return predict(guider(model, tiny_flux.conditioning(1), cfg=1.0), picture, torch.tensor(0.7))


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """models/withanyone of this test's own."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "withanyone", ([str(tmp_path)], set()))
    return tmp_path


def test_files_of_the_model_folder_are_choices(folder):
    tiny_withanyone.write_file(folder / "deep" / "withanyone.safetensors")
    assert DHDLoadWithAnyone.define_schema().inputs[0].options == ["deep/withanyone.safetensors"]
    assert DHDLoadWithAnyone.validate_inputs("deep/withanyone.safetensors") is True
    [loaded] = DHDLoadWithAnyone.execute("deep/withanyone.safetensors").args
    assert (loaded.model.info.blocks, loaded.model.info.width) == (5, tiny_flux.WIDTH)
    assert loaded.model.ipa_arc[0].to_q.weight.dtype == torch.float32  # on the CPU
    [half] = DHDLoadWithAnyone.execute("deep/withanyone.safetensors", "bf16").args
    assert half.model.ipa_arc[0].to_q.weight.dtype == torch.bfloat16
    message = DHDLoadWithAnyone.validate_inputs("gone.safetensors")
    assert "gone.safetensors" in message
    assert str(folder) in message
    with refused("not-a-choice", "precision"):
        DHDLoadWithAnyone.execute("deep/withanyone.safetensors", "int8")
    (folder / "wrong.safetensors").write_bytes((folder / "deep" / "withanyone.safetensors").read_bytes()[:5000])
    with refused("file-cut-off", "wrong.safetensors"):
        DHDLoadWithAnyone.execute("wrong.safetensors")


# --- models ---------------------------------------------------------------------------------------------------------


class NoFlux(torch.nn.Module):
    """A model as far as it is looked at."""

    def __init__(self, family, network=None):
        super().__init__()
        self.diffusion_model = network or torch.nn.Linear(1, 1)
        self.model_config = type("Config", (), {"unet_config": {"image_model": family}})()


@pytest.mark.parametrize("family", ["chroma", "flux2", "sd3"])
def test_another_family_is_refused(flux, weights, family):
    network = flux.model.diffusion_model if family == "flux2" else None  # FLUX.2 is of the same class
    other = comfy.model_patcher.ModelPatcher(NoFlux(family, network), torch.device("cpu"), torch.device("cpu"))
    with refused("withanyone-no-flux", family, "Load FLUX.1"):
        apply(other, weights)


def test_each_method_names_the_other_s_node(flux, weights):
    with refused("withanyone-on-unet", "Apply Disparity-Aware Conditioning"):
        apply(tiny_comfy.model_patcher(), weights)
    with refused("no-unet", "Apply WithAnyone"):
        DHDApplyPair.execute(flux, tiny_comfy.adapter_patcher(), PEOPLE[0], 1.0, 1.0, 1.0, 0.0, 1.0)
    with refused("cascade-on-flux", "KSampler"):
        CascadeGuider(apply(flux, weights)).set_cascade()


def test_weights_for_another_flux_are_refused(weights):
    with refused("withanyone-other-flux", "5 blocks, 256 wide", "19 + 38 blocks"):
        apply(tiny_flux.model_patcher("flux"), weights)


def test_weights_of_one_branch_have_one_end_of_the_slider(flux):
    arc = tiny_withanyone.adapter(branches=("arc",))
    apply(flux, arc, form=0.0)
    with refused("withanyone-branch-missing", "slider"):
        apply(flux, arc, form=0.5)
    with refused("withanyone-branch-missing", "slider"):  # not told to fetch an encoder for a branch that is not there
        apply(flux, arc, 1, BOXES[:1], people=[tiny_withanyone.person(1, siglip_hidden=None)], form=0.5)


# --- people ---------------------------------------------------------------------------------------------------------


def test_what_a_reference_lacks_matters_only_where_it_is_read(flux, weights):
    spirit = [tiny_withanyone.person(1, siglip_hidden=None)]
    apply(flux, weights, 1, BOXES[:1], people=spirit, form=0.0)
    with refused("reference-without-siglip", "person 1"):
        apply(flux, weights, 1, BOXES[:1], people=spirit, form=0.1)
    with refused("reference-without-length"):
        apply(flux, weights, 1, BOXES[:1], people=[tiny_withanyone.person(1, identity_length=None)])
    with refused("withanyone-other-recognizer", "buffalo_l"):
        apply(flux, weights, 1, BOXES[:1], people=[tiny_withanyone.person(1, recognizer="buffalo_l/w600k_r50")])


def test_an_unknown_recognizer_and_one_person_twice_are_told(flux, weights, caplog):
    apply(flux, weights, people=[PEOPLE[0], tiny_withanyone.person(1, recognizer="")])
    assert "which face recognizer made reference 2" in caplog.text
    assert "same person" in caplog.text


def test_people_come_in_order(flux, weights):
    with refused("reference-gap", "reference_3", "reference_2"):
        apply(flux, weights, 1, BOXES[:1], reference_3=PEOPLE[2])
    with refused("mask-without-person", "mask_3"):
        apply(flux, weights, mask_3=torch.ones(1, 192, 160))
    apply(flux, weights, mask_3=torch.zeros(1, 192, 160))  # Portrait Layout's, where nobody is


def test_numbers_that_make_no_picture_are_refused(flux, weights):
    with refused("withanyone-form-out-of-range", "1.5"):
        apply(flux, weights, form=1.5)
    with refused("input-of-another-kind", "strength_2"):
        apply(flux, weights, strength_2=float("nan"))
    with refused("start-not-before-end"):
        apply(flux, weights, start=0.6, end=0.4)
    assert "before end" in DHDApplyWithAnyone.validate_inputs(start=0.6, end=0.4)


# --- where they are -------------------------------------------------------------------------------------------------


def test_whoever_has_neither_box_nor_mask_is_refused(flux, weights):
    with refused("withanyone-nowhere", "person 1 and person 2", "Portrait Layout", "faces only"):
        apply(flux, weights, boxes=None)
    with refused("withanyone-nowhere", "person 3"):
        apply(flux, weights, 3, boxes=BOXES[:2])
    with refused("withanyone-more-boxes", "4 boxes for 2 people"):
        apply(flux, weights, boxes=BOXES)
    with refused("withanyone-mask-black", "mask_2"):
        apply(flux, weights, mask_2=torch.zeros(1, 192, 160))
    with refused("withanyone-box-twice"):
        run(apply(flux, weights, boxes=[BOXES[0], BOXES[0]]))
    with refused("withanyone-box-outside", "160 x 192"):
        run(apply(flux, weights, boxes=[BOXES[0], (400, 0, 500, 100)]))
    with refused("withanyone-box-thin"):
        run(apply(flux, weights, boxes=[BOXES[0], (100, 0, 110, 100)]))
    with refused("mask-of-another-shape"):
        run(apply(flux, weights, mask_2=torch.ones(1, 64, 160)))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_preset_places_people_where_that_is_chosen(flux, weights, count):
    """The same boxes as Portrait Layout has for a picture of that shape."""
    picture = tiny_flux.picture(32, 24)
    placed = run(apply(flux, weights, count, boxes=None, placement="faces only"), picture)
    layout = DHDPortraitLayout.execute("faces only", width=192, height=256, people=count).args[2]
    boxes = [(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in layout[0]]
    drawn = run(apply(flux, weights, count, boxes=boxes), picture)
    assert torch.equal(placed, drawn)
    with refused("not-a-choice", "placement"):
        apply(flux, weights, placement="anywhere")


def test_a_mask_takes_the_place_of_a_box(flux, weights):
    mask = torch.zeros(1, 192, 160)
    x0, y0, x1, y1 = BOXES[1]
    mask[:, y0:y1, x0:x1] = 1
    elsewhere = [BOXES[0], (0, 0, 32, 32)]
    assert torch.equal(run(apply(flux, weights, boxes=elsewhere, mask_2=mask)), run(apply(flux, weights)))
    assert torch.equal(run(apply(flux, weights, boxes=BOXES[:1], mask_2=mask)), run(apply(flux, weights)))


def test_boxes_are_read_as_other_nodes_give_them():
    box = {"x": 1, "y": 2, "width": 30, "height": 40}
    for given in (box, [box], [[box]], ({**box, "label": "face"},)):
        assert read_boxes(given) == ([(1, 2, 31, 42)], None)
    sized = {**box, "picture_width": 64, "picture_height": 96}
    assert read_boxes([[sized, sized]]) == ([(1, 2, 31, 42)] * 2, (64, 96))
    with refused("withanyone-boxes-of-pictures", "2 pictures"):
        read_boxes([[box], [box]])
    with refused("withanyone-boxes-of-sizes"):
        read_boxes([[box, sized]])
    for wrong in ("boxes", [1, 2], [{"x": 1}], 7, [["x"]]):
        with refused("withanyone-boxes-unread"):
            read_boxes(wrong)


def test_portrait_layout_s_masks_do_as_well_as_boxes(flux, weights):
    first, second, _, _, third, fourth = DHDPortraitLayout.execute("faces only", width=160, height=192).args
    masks = {"mask_1": first, "mask_2": second, "mask_3": third, "mask_4": fourth}
    patched = apply(flux, weights, boxes=None, **masks)
    [applied] = flux_people_of(patched)
    expected = resize_masks(torch.stack([first, second]), (24, 20), 1)
    assert torch.equal(applied.people.latent_masks((24, 20), 1), expected)
    assert (run(patched) - run(flux)).abs().max() > 0.01


# --- a server -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_people_are_drawn_on_a_server(workflow_server, count):
    fill(workflow_server.base)
    result = workflow_server.run(with_people(text_to_image(), count))
    assert result["error"] is None
    assert len(result["outputs"]["save"]["images"]) == 1


def test_photos_become_people_on_a_server_and_are_encoded_once(server):
    fill(server.base)
    prompt = with_photos(with_people(text_to_image(), 2), server.base)
    assert server.run(prompt)["error"] is None
    again = server.run(
        {**prompt, "sampler": {**prompt["sampler"], "inputs": {**prompt["sampler"]["inputs"], "seed": 2}}}
    )
    assert again["error"] is None
    assert {"person_1", "person_2", "weights", "people"} <= again["cached"]
