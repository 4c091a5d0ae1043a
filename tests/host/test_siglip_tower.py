"""SigLIP in ComfyUI: the same numbers as transformers', and references that are encoded with it."""

from types import SimpleNamespace

import comfy.clip_vision
import folder_paths
import pytest
import torch
from dhd_pack.dhumandiff.formats import siglip
from dhd_pack.nodes.comfy.vision import ClipVisionEncoder, SiglipEncoder, load_siglip, make_siglip
from dhd_pack.nodes.miniature import DHDDrawPerson
from dhd_pack.nodes.references import DHDEncodeReference, DHDLoadReference, DHDLoadSigLIP, DHDSaveReference
from safetensors.torch import save_file
from support import tiny_comfy
from support.refused import refused
from support.siglip import SMALL, siglip_tensors, siglip_tower

from tools import interface

ONE_LAYER = {"num_hidden_layers": 1, "intermediate_size": 64}
"""As wide as the published tower and with its tokens, but not as deep."""


def in_comfyui(tower, **sizes):
    return make_siglip(siglip_tensors(tower), {**siglip.CONFIG, **sizes})


@pytest.fixture(scope="module")
def tower():
    return in_comfyui(siglip_tower(**ONE_LAYER), **ONE_LAYER)


@pytest.fixture(scope="module")
def clip_vision():
    return tiny_comfy.clip_vision()


def encode(analyzer, clip_vision=None, siglip_vision=None, image=None):
    image = DHDDrawPerson.execute(3, "any", 0, 384).args[0] if image is None else image
    given = {"clip_vision": clip_vision, "siglip_vision": siglip_vision, "face_analysis": analyzer, "name": "Ann"}
    return DHDEncodeReference.execute(image, **given).args


@pytest.fixture(scope="module")
def analyzer():
    from dhd_pack.nodes.comfy.miniature import mini_face_analysis

    return mini_face_analysis()


class TestTower:
    @pytest.mark.parametrize("sizes", [SMALL, pytest.param({}, marks=pytest.mark.slow)])
    def test_hidden_states_are_transformers_own(self, sizes):
        theirs = siglip_tower(**sizes)
        side = sizes.get("image_size", 256)
        pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        ours = in_comfyui(theirs, **sizes)
        expected = theirs(pixels).last_hidden_state
        torch.testing.assert_close(ours.model(pixel_values=pixels)[0], expected, atol=1e-5, rtol=1e-5)
        halved = make_siglip({k: v.half() for k, v in siglip_tensors(theirs).items()}, {**siglip.CONFIG, **sizes})
        assert (halved.model(pixel_values=pixels)[0] - expected).abs().max() < 0.01

    def test_comfyui_s_own_loader_does_not_know_it(self):
        """Else this node would not be needed."""
        names = siglip_tensors(siglip_tower(**ONE_LAYER, hidden_size=48, num_attention_heads=3))
        assert comfy.clip_vision.load_clipvision_from_sd(dict(names)) is None

    def test_it_is_under_comfyui_s_memory_management(self, tower):
        assert tower.patcher.model is tower.model
        assert tower.patcher.model_size() > 1e6
        SiglipEncoder(tower)(torch.zeros(1, 3, 256, 256))


class TestWhatIsConnected:
    def test_towers_that_are_exchanged_are_refused(self, tower, clip_vision):
        with refused("siglip-for-clip", "Connect it to siglip_vision"):
            ClipVisionEncoder(tower)
        with refused("not-siglip-vision", "CLIP ViT-H/14 to clip_vision"):
            SiglipEncoder(clip_vision)
        for encoder in (ClipVisionEncoder, SiglipEncoder):
            with refused("no-vision-model", "The CLIP_VISION input holds no vision model"):
                encoder(None)

    def test_siglip_of_another_size_is_refused(self):
        with refused("siglip-vision-of-another-size", "16 tokens, 48 wide, pictures of 64 px"):
            SiglipEncoder(in_comfyui(siglip_tower(**SMALL), **SMALL))


class TestEncodeReference:
    def test_both_towers_give_one_reference_for_all(self, analyzer, tower, clip_vision, tmp_path, monkeypatch):
        reference, _, report = encode(analyzer, clip_vision, tower)
        assert reference.siglip_hidden.shape == (1, 256, 768)
        assert torch.equal(reference.clip_hidden, encode(analyzer, clip_vision)[0].clip_hidden)
        assert reference.recognizer == "mini"
        assert reference.identity_length[0] > 0
        assert "encoded with: CLIP of width 64, SigLIP base-patch16-256, mini" in report
        assert "serves: DHumanDiff, IP-Adapter Plus" in report.splitlines()
        assert "WithAnyone refuses this reference: it reads embeddings of antelopev2/glintr100" in report
        assert "and these are mini's" in report
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "dhumandiff", ([str(tmp_path)], set()))
        DHDSaveReference.execute(reference, "ann", overwrite=False)
        back = DHDLoadReference.execute("ann").args[0]
        assert torch.equal(back.siglip_hidden, reference.siglip_hidden)
        assert torch.equal(back.raw_identity(), reference.raw_identity())
        DHDSaveReference.execute(reference, "ann", overwrite=False)  # the same person
        with refused("another-reference-of-that-name"):
            DHDSaveReference.execute(encode(analyzer, clip_vision)[0], "ann", overwrite=False)

    def test_siglip_alone_is_enough(self, analyzer, tower):
        ours = SimpleNamespace(
            name="antelopev2/glintr100",
            detect=analyzer.detect,
            identity=analyzer.identity,
            identity_and_length=analyzer.identity_and_length,
        )
        reference, _, report = encode(ours, siglip_vision=tower)
        assert reference.clip_hidden is None
        assert "serves: WithAnyone" in report.splitlines()
        with refused("reference-without-clip", "'Ann'", "which DHumanDiff reads"):
            reference.require("clip_hidden", by="DHumanDiff")

    def test_a_batch_of_photos_has_a_row_each(self, analyzer, tower):
        photos = torch.cat([DHDDrawPerson.execute(3, "any", view, 384).args[0] for view in (0, 1, 2)])
        reference = encode(analyzer, siglip_vision=tower, image=photos)[0]
        assert reference.siglip_hidden.shape == (3, 256, 768)
        one = encode(analyzer, siglip_vision=tower, image=photos[1:2])[0]
        assert torch.allclose(reference.siglip_hidden[1], one.siglip_hidden[0], atol=1e-4)
        assert torch.allclose(reference.identity_length[1], one.identity_length[0], rtol=1e-4)

    def test_no_tower_is_refused(self, analyzer):
        with refused("no-image-encoder", "clip_vision", "siglip_vision"):
            encode(analyzer)


class TestLoadSigLIP:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", ([str(tmp_path)], {".safetensors"}))
        return tmp_path

    def test_files_of_siglip_are_offered_first(self, folder):
        for name in ("clip_h.safetensors", "google/SigLIP.safetensors", "notes.txt"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"")
        choices = interface.inputs_of({"input": DHDLoadSigLIP.GET_NODE_INFO_V1()["input"]})["siglip_name"][1]["options"]
        assert choices == ["google/SigLIP.safetensors", "clip_h.safetensors"]

    def test_the_chosen_file_is_loaded(self, folder, monkeypatch):
        for name, value in SMALL.items():
            monkeypatch.setitem(siglip.CONFIG, name, value)
        tower = siglip_tower(**SMALL)
        save_file(siglip_tensors(tower), folder / "s.safetensors")
        made = DHDLoadSigLIP.execute("s.safetensors").args[0]
        pixels = torch.randn(1, 3, 64, 64)
        assert torch.allclose(SiglipEncoder(made)(pixels), tower(pixels).last_hidden_state, atol=1e-5)
        assert DHDLoadSigLIP.fingerprint_inputs("s.safetensors") == (folder / "s.safetensors").stat().st_mtime

    def test_a_file_that_is_not_there_or_something_else_is_named(self, folder):
        assert "siglip-base-patch16-256-i18n" in DHDLoadSigLIP.validate_inputs("gone.safetensors")
        with refused("siglip-missing", "gone.safetensors"):
            DHDLoadSigLIP.execute("gone.safetensors")
        save_file({"vision_model.embeddings.class_embedding": torch.zeros(1280)}, folder / "h.safetensors")
        with refused("clip-for-siglip", "h.safetensors", "Load CLIP Vision"):
            load_siglip(folder / "h.safetensors")
