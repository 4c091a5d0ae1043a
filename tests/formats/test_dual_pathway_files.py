"""Files of the dual pathway: written, found out, read back bit for bit, joined and taken apart; and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.refused import refused
from support.tiny_dual import tiny_dual

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff import Adapter, formats
from dhumandiff import testing as tiny
from dhumandiff.__main__ import main
from dhumandiff.describe import as_text, describe, in_a_sentence
from dhumandiff.doctor.adapters import describe_file
from dhumandiff.doctor.findings import DAMAGED, OK
from dhumandiff.formats import dual_pathway
from dhumandiff.methods.dual_pathway import DualPathway, Gates, Router, TextConsistency

TRAINED = ("tca", "gates", "router")


@pytest.fixture(scope="module")
def adapter():
    return tiny.tiny_adapter()


@pytest.fixture(scope="module")
def files(adapter, tmp_path_factory):
    """A folder with whole.safetensors, trained.safetensors and pair.safetensors."""
    folder = tmp_path_factory.mktemp("dual")
    dual = tiny_dual(adapter)
    dual.save_pretrained(folder / "whole.safetensors")
    dual.save_pretrained(folder / "trained.safetensors", TRAINED)
    adapter.save_pretrained(folder / "pair.safetensors")
    return folder


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def alike(first, second):
    """Whether two files hold the same: safetensors does not keep the order of metadata."""
    (one, said), (other, also_said) = (read_file(path) for path in (first, second))
    return said == also_said and list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def read_file(path):
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


def rewritten(source, destination, change, **metadata):
    tensors, said = read_file(source)
    change(tensors)
    said |= metadata
    save_file(tensors, destination, {key: value for key, value in said.items() if value is not None})
    return destination


def test_a_file_is_found_out_and_read_bit_for_bit(adapter, files, tmp_path):
    dual = tiny_dual(adapter)
    path = files / "whole.safetensors"
    assert formats.detect(path) == dual_pathway.NAME
    read = DualPathway.from_pretrained(path)
    assert same(read, dual)
    assert read.info == dual.info
    assert read.identity.info == adapter.info
    read.save_pretrained(tmp_path / "again.safetensors")
    assert alike(tmp_path / "again.safetensors", path)
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_trained_parts_go_beside_an_adapter(adapter, files):
    path = files / "trained.safetensors"
    assert formats.detect(path) == dual_pathway.NAME
    assert same(DualPathway.from_pretrained(path, adapter), tiny_dual(adapter))
    with refused("dual-identity-missing", "trained.safetensors", "tca, gates, router"):
        DualPathway.from_pretrained(path)


def test_a_plain_adapter_in_any_format_is_untrained(adapter, files, tmp_path):
    adapter.save_released(tmp_path / "four")
    for path in (files / "pair.safetensors", tmp_path / "four"):
        dual = DualPathway.from_pretrained(path)
        assert not dual.trained
        assert dual.info.parts == ("identity",)
        assert same(dual.identity, adapter)


def test_half_precision_stays(adapter, tmp_path):
    dual = tiny_dual(adapter).half()
    dual.save_pretrained(tmp_path / "half.safetensors")
    read = DualPathway.from_pretrained(tmp_path / "half.safetensors")
    assert same(read, dual)
    assert describe(tmp_path / "half.safetensors")["dtypes"] == ["float16"]


def test_describe_says_what_is_in_it(files, capsys):
    whole, trained = (describe(files / f"{name}.safetensors") for name in ("whole", "trained"))
    assert whole["parts"] == ["identity", *TRAINED]
    assert trained["parts"] == list(TRAINED)
    for found in (whole, trained):
        assert (found["format"], found["layers"], found["rank"], found["router_width"]) == ("dual-pathway", 17, 4, 16)
        assert found["trained"]
        assert "dual pathway" in as_text(found)
    assert "an adapter beside it" in in_a_sentence(trained)
    assert main(["inspect", str(files / "trained.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gate_groups"] == trained["gate_groups"]


def test_convert_joins_and_takes_apart_bit_for_bit(files, tmp_path, capsys):
    joined, apart, pair = (tmp_path / f"{name}.safetensors" for name in ("joined", "apart", "pair"))
    assert (
        main(["convert", str(files / "pair.safetensors"), str(joined), "--pathway", str(files / "trained.safetensors")])
        == 0
    )
    assert alike(joined, files / "whole.safetensors")
    assert main(["convert", str(joined), str(apart), "--part", "pathway"]) == 0
    assert alike(apart, files / "trained.safetensors")
    assert main(["convert", str(joined), str(pair), "--part", "identity"]) == 0
    assert alike(pair, files / "pair.safetensors")
    assert main(["convert", str(joined), str(tmp_path / "four"), "--part", "identity"]) == 0
    assert same(Adapter.from_pretrained(tmp_path / "four"), Adapter.from_pretrained(files / "pair.safetensors"))


@pytest.mark.parametrize(
    ("source", "destination", "options", "words"),
    [
        ("whole", "new.safetensors", [], "say what to take out"),
        ("whole", "folder", ["--part", "pathway"], "ends in .safetensors"),
        ("pair", "new.safetensors", ["--part", "pathway"], "no file of the dual pathway"),
        ("pair", "trained.safetensors", ["--pathway", "trained"], "would be overwritten"),
        ("pair", "new.safetensors", ["--pathway", "pair"], "no file of the dual pathway"),
    ],
)
def test_what_convert_cannot_do_is_refused(files, tmp_path, capsys, source, destination, options, words):
    options = [str(files / f"{each}.safetensors") if each in ("trained", "pair") else each for each in options]
    to = files / destination if destination == "trained.safetensors" else tmp_path / destination
    assert main(["convert", str(files / f"{source}.safetensors"), str(to), *options]) == 1
    assert words in " ".join(capsys.readouterr().err.split())


def test_other_loaders_say_what_it_is(files):
    with refused("no-adapter-file", "dual pathway"):
        Adapter.from_pretrained(files / "whole.safetensors")
    with refused("no-dual-pathway-file", "pair.safetensors"):
        dual_pathway.load(files / "pair.safetensors")


def test_parts_of_another_base_are_refused_with_their_sizes(adapter):
    hidden = adapter.info.hidden
    other = [2 * width for width in hidden]
    with refused("dual-part-of-another-base", "of width 256", "of width 128", "17 cross-attention layers"):
        DualPathway(adapter, TextConsistency(other, adapter.info.context_width))
    with refused("dual-part-of-another-base", "width 64", "192"):
        DualPathway(adapter, TextConsistency(hidden, 64))
    with refused("dual-part-of-another-base", "width 33"):
        DualPathway(adapter, router=Router(hidden, 33))
    with refused("dual-part-of-another-base", "3 layers", "17"):
        DualPathway(adapter, gates=Gates([1, 2, 1]))
    with refused("dual-gates-of-other-heads", "3 groups"):
        DualPathway(adapter, gates=Gates([3] * len(hidden))).gates.factors(0, 2)


def test_trained_parts_of_another_base_are_refused_with_the_file(adapter, files):
    wide = tiny.random_adapter([96] * 17, adapter.info.context_width)
    with refused("dual-part-of-another-base", "trained.safetensors", "17 of width 96"):
        DualPathway.from_pretrained(files / "trained.safetensors", wide)


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, *shape):
    return lambda tensors: tensors.__setitem__(name, torch.zeros(shape))


@pytest.mark.parametrize(
    ("code", "change", "metadata", "words"),
    [
        ("tensor-missing", drop("tca.layers.3.to_v.up.weight"), {}, "tca.layers.3.to_v.up.weight"),
        ("tensor-of-another-shape", put("tca.layers.3.to_v.up.weight", 5, 4), {}, "[5, 4]"),
        ("dual-layers-not-numbered", drop("gates.layers.3"), {}, "gates"),
        ("dual-tensor", put("gates.layers.0", 2, 2), {}, "layers.0"),
        ("tensor-unknown", put("router.more", 2), {}, "router.more"),
        ("no-dual-pathway-file", put("more.weight", 2), {}, "more.weight"),
        ("dual-metadata-missing", lambda tensors: None, {"pathway_source": None}, "pathway_source"),
        ("dual-metadata-missing", lambda tensors: None, {"recogniser": None}, "recogniser"),
        ("dual-newer-format", lambda tensors: None, {"format_version": "2"}, "version 2"),
        ("dual-part-missing", lambda tensors: [tensors.pop(k) for k in list(tensors) if k[:4] == "tca."], {}, "'tca'"),
    ],
)
def test_a_damaged_file_is_refused_by_name(files, tmp_path, code, change, metadata, words):
    path = rewritten(files / "whole.safetensors", tmp_path / "damaged.safetensors", change, **metadata)
    with refused(code, "damaged.safetensors", words):
        DualPathway.from_pretrained(path)


def test_a_file_cut_off_is_refused(files, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes((files / "whole.safetensors").read_bytes()[:-100])
    with refused("file-cut-off", "cut.safetensors"):
        DualPathway.from_pretrained(path)
    with refused("dual-nothing-to-write"):
        tiny_dual(tiny.tiny_adapter(), router=False).save_pretrained(tmp_path / "new.safetensors", ["router"])


def test_doctor_says_what_the_files_are_and_which_is_damaged(files, tmp_path):
    whole, width = describe_file(files / "whole.safetensors", "Get it again.")
    trained, nothing = describe_file(files / "trained.safetensors", "Get it again.")
    assert (whole.state, trained.state, len(width), nothing) == (OK, OK, 1, set())
    assert "dual pathway" in whole.text
    assert "an adapter beside it" in trained.text
    damaged = rewritten(files / "whole.safetensors", tmp_path / "damaged.safetensors", drop("gates.layers.3"))
    found, _ = describe_file(damaged, "Get it again.")
    assert found.state == DAMAGED
    assert "damaged.safetensors" in found.text
