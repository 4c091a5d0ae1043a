"""A person as tensors: checked, compared, saved and loaded."""

import dataclasses
import errno

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.refused import refused

from dhumandiff import FaceReference
from dhumandiff.errors import DHumanDiffError, FaceError, FaceReferenceError, HostError, ImageError
from dhumandiff.references import reference as references
from dhumandiff.references.reference import same_person_warning
from dhumandiff.references.report import serves

PERSONS = torch.eye(512)  # rows as unlike as can be


def unit(*parts: tuple[int, float]) -> torch.Tensor:
    """A unit vector [1, 512] made of so much of those persons."""
    return torch.nn.functional.normalize(sum(weight * PERSONS[index : index + 1] for index, weight in parts), dim=-1)


def reference(identity: torch.Tensor | None = None, photos: int = 1, **more) -> FaceReference:
    hidden = torch.randn(photos, 5, 8, generator=torch.Generator().manual_seed(0))
    return FaceReference(identity, hidden, torch.ones(1, 5, 8), **more)


class TestFaceReference:
    def test_three_tensors_are_enough(self):
        made = reference(unit((0, 1)))
        assert made.name == ""
        assert made.crop is None
        assert reference(None).identity is None

    def test_shapes_that_do_not_belong_together(self):
        hidden, zero = torch.zeros(2, 5, 8), torch.zeros(1, 5, 8)
        cases = [
            ({"identity": torch.ones(3, 512)}, "reference-rows-differ", "identity has 3 rows for 2 photos"),
            ({"identity": torch.ones(512)}, "reference-shape", "identity has shape [512]; [photos, width] is needed"),
            ({"identity": torch.zeros(2, 512)}, "identity-without-direction", "row of zeros, which is nobody's face"),
            ({"clip_hidden": hidden[0]}, "reference-shape", "clip_hidden has shape [5, 8]"),
            (
                {"clip_hidden": None},
                "reference-of-half-an-encoder",
                "clip_hidden_zero is there and clip_hidden is missing",
            ),
            ({"clip_hidden": None, "clip_hidden_zero": None}, "reference-empty", "nothing that a method reads"),
            ({"clip_hidden": hidden[:0]}, "reference-shape", "clip_hidden has shape [0, 5, 8]"),
            (
                {"clip_hidden_zero": hidden},
                "reference-shape",
                "clip_hidden_zero has shape [2, 5, 8]; [1, tokens, width]",
            ),
            ({"clip_hidden_zero": torch.zeros(1, 4, 8)}, "reference-of-two-encoders", "[1, 5, 8] is needed"),
            ({"clip_hidden": hidden / 0}, "reference-not-finite", "clip_hidden holds NaN"),
            ({"clip_hidden": hidden.int()}, "reference-not-floating", "int32"),
            ({"crop": torch.zeros(2, 64, 64, 4)}, "reference-shape", "crop has shape"),
            ({"box": torch.zeros(2, 5)}, "reference-shape", "box has shape"),
            ({"landmarks": torch.zeros(1, 5, 2)}, "reference-rows-differ", "landmarks has 1 rows"),
            ({"identity_swapped": [1]}, "reference-not-tensor", "identity_swapped is a list"),
            ({"siglip_hidden": torch.zeros(2, 256)}, "reference-shape", "[photos, tokens, width] is needed"),
            ({"siglip_hidden": torch.zeros(3, 256, 768)}, "reference-rows-differ", "siglip_hidden has 3 rows"),
            ({"identity_length": torch.ones(2)}, "length-of-no-identity", "without identity"),
            *(
                ({"identity": torch.ones(2, 512), "identity_length": torch.tensor(lengths)}, code, named)
                for lengths, code, named in (
                    ([20.0], "reference-rows-differ", "identity_length has 1 rows"),
                    ([20.0, 0.0], "identity-length-not-positive", "holds 0;"),
                    ([20.0, -1.0], "identity-length-not-positive", "holds -1;"),
                    ([20.0, torch.nan], "reference-not-finite", "identity_length holds NaN"),
                )
            ),
        ]
        for change, code, message in cases:
            values = {"identity": None, "clip_hidden": hidden, "clip_hidden_zero": zero, "name": "Ann", **change}
            with refused(code, "The reference 'Ann': ", message, error=FaceReferenceError):
                FaceReference(**values)

    def test_every_tensor_it_holds_is_checked_and_saved(self):
        assert set(references._SHAPES) == {
            field.name for field in dataclasses.fields(FaceReference) if field.type != "str"
        }

    def test_a_reference_may_be_of_any_encoder_or_of_none(self):
        siglip, identity = torch.zeros(1, 256, 768), unit((0, 1))
        assert FaceReference(identity, siglip_hidden=siglip).clip_hidden is None
        assert FaceReference(identity).siglip_hidden is None
        with refused("reference-rows-differ", "identity has 1 rows for 2 photos"):
            FaceReference(identity, siglip_hidden=torch.zeros(2, 256, 768))

    def test_what_is_lacking_is_said_with_the_way_to_get_it(self):
        only_clip = reference(None, name="Ann")
        for part, code, advice in [
            ("siglip_hidden", "reference-without-siglip", "Connect Load SigLIP Vision to siglip_vision"),
            ("identity", "no-identity", "Encode the photos again with face analysis connected"),
            ("identity_swapped", "no-swapped-identity", "Encode the photos again with face analysis connected"),
            ("identity_length", "reference-without-length", "with Load Face Analysis"),
        ]:
            with refused(code, "The reference 'Ann' ", "which WithAnyone reads", advice, error=FaceReferenceError):
                only_clip.require("clip_hidden", part, by="WithAnyone")
        with refused("reference-without-clip", "Connect Load CLIP Vision (CLIP ViT-H/14) to clip_vision"):
            FaceReference(unit((0, 1))).require("clip_hidden")
        only_clip.require("clip_hidden", "clip_hidden_zero")

    def test_the_methods_that_it_serves(self):
        parts = {"siglip_hidden": torch.zeros(1, 256, 768), "identity_length": torch.ones(1)}
        assert serves(reference(None)) == ("IP-Adapter Plus",)
        assert serves(reference(unit((0, 1)))) == ("DHumanDiff", "IP-Adapter Plus")
        assert serves(reference(unit((0, 1)), **parts)) == ("DHumanDiff", "IP-Adapter Plus", "WithAnyone")
        assert serves(FaceReference(unit((0, 1)), identity_length=torch.ones(1))) == ("WithAnyone's ArcFace branch",)
        assert serves(FaceReference(None, siglip_hidden=parts["siglip_hidden"])) == ()
        both = reference(unit((0, 1)), **parts)
        for made_by, able in [
            (("antelopev2/glintr100", ""), True),
            (("mine/net", "4ab1d6435d639628"), True),
            (("antelopev2/glintr100", "a" * 16), False),
            (("mini", ""), False),
        ]:
            known = dataclasses.replace(both, recognizer=made_by[0], recognizer_hash=made_by[1])
            assert ("WithAnyone" in serves(known)) is able
            assert "DHumanDiff" in serves(known)

    def test_the_embedding_s_length_is_kept(self):
        raw = torch.randn(2, 512) * 20
        lengths = raw.norm(dim=-1)
        made = reference(raw / lengths[:, None], photos=2, identity_length=lengths)
        assert torch.allclose(made.raw_identity(), raw, atol=1e-5)
        with refused("reference-without-length", "how long its face embedding was"):
            reference(unit((0, 1))).raw_identity()

    def test_identity_rows_are_directions(self):
        exact = torch.nn.functional.normalize(torch.randn(1, 512), dim=-1)
        assert reference(exact).identity is exact
        assert torch.allclose(reference(exact * 20).identity, exact, atol=1e-6)

    def test_mean_identity_is_the_mean_on_the_sphere(self):
        mean = reference(torch.cat([unit((0, 1)), unit((1, 1))]), photos=2).mean_identity()
        assert mean.shape == (1, 512)
        assert torch.allclose(mean, unit((0, 1), (1, 1)), atol=1e-6)

    def test_swapped_identities_are_kept_apart(self):
        both = reference(unit((0, 1)), identity_swapped=unit((1, 1)))
        assert both.mean_identity(swapped=True)[0, 1] == 1
        with refused("no-swapped-identity", "Encode the photos again"):
            reference(unit((0, 1))).mean_identity(swapped=True)

    def test_without_identity_no_mean_and_no_similarity(self):
        with refused("no-identity", "The reference 'Ann'"):
            reference(None, name="Ann").mean_identity()
        assert reference(None).similarity(reference(unit((0, 1)))) is None
        with refused("identities-cancel"):
            reference(torch.cat([unit((0, 1)), unit((0, -1))]), photos=2).mean_identity()

    def test_similarity_is_the_cosine_of_the_means(self):
        a, b = reference(unit((0, 1))), reference(unit((0, 3), (1, 4)))
        assert a.similarity(b) == pytest.approx(0.6)
        with refused("recognizers-differ", "widths 512 and 128"):
            a.similarity(reference(torch.ones(1, 128)))

    def test_recognizers_that_are_known_to_differ_are_not_compared(self):
        a = reference(unit((0, 1)), recognizer="antelopev2/glintr100", recognizer_hash="a" * 16)
        b = reference(unit((0, 1)), recognizer="buffalo_l/w600k_r50", recognizer_hash="b" * 16)
        with refused("recognizers-differ", "antelopev2/glintr100", "buffalo_l/w600k_r50"):
            a.similarity(b)
        assert same_person_warning(a, b) is None
        renamed = dataclasses.replace(b, recognizer_hash=a.recognizer_hash)
        assert a.similarity(renamed) == a.similarity(reference(unit((0, 1)))) == pytest.approx(1)

    def test_the_same_person_twice_is_warned_about(self):
        a = reference(unit((0, 1)))
        assert "similarity 0.60" in same_person_warning(a, reference(unit((0, 3), (1, 4))))
        assert same_person_warning(a, reference(unit((0, 1), (1, 4)))) is None
        assert same_person_warning(a, reference(None)) is None


class TestFiles:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_what_was_saved_is_loaded_bit_for_bit(self, tmp_path, dtype):
        made = FaceReference(
            identity=torch.randn(2, 512).to(dtype),
            clip_hidden=torch.randn(2, 5, 8, dtype=dtype),
            clip_hidden_zero=torch.randn(1, 5, 8, dtype=dtype),
            identity_swapped=torch.randn(2, 512),
            crop=torch.rand(2, 8, 8, 3),
            box=torch.rand(2, 4),
            landmarks=torch.rand(2, 5, 2).transpose(1, 2).contiguous().transpose(1, 2),
            name="Ann Ørsted",
            siglip_hidden=torch.randn(2, 256, 24, dtype=dtype),
            identity_length=torch.tensor([21.5, 19.0]),
            recognizer="antelopev2/glintr100",
            recognizer_hash="0123456789abcdef",
            image_encoder="CLIP ViT-H/14",
            siglip_encoder="SigLIP base-patch16-256",
        )
        made.save(tmp_path / "ann.safetensors")
        back = FaceReference.load(tmp_path / "ann.safetensors")
        assert back.name == "Ann Ørsted"
        for key in references._SHAPES:
            assert getattr(back, key).dtype == getattr(made, key).dtype
            assert torch.equal(getattr(back, key), getattr(made, key))
        for field in dataclasses.fields(FaceReference):
            if field.type == "str":
                assert getattr(back, field.name) == getattr(made, field.name) != ""
        assert [file.name for file in tmp_path.iterdir()] == ["ann.safetensors"]

    def test_only_what_older_readers_do_not_know_makes_a_file_of_version_2(self, tmp_path):
        path, identity = tmp_path / "a.safetensors", unit((0, 1))
        siglip = {"siglip_hidden": torch.zeros(1, 256, 24)}
        for made, version in [
            (reference(identity), "1"),
            (reference(identity, recognizer="mini"), "1"),
            (reference(identity, identity_length=torch.ones(1)), "2"),
            (reference(identity, **siglip), "2"),
            (FaceReference(identity, **siglip), "2"),
            (FaceReference(identity), "2"),
        ]:
            made.save(path)
            with safe_open(path, framework="pt") as file:
                assert file.metadata()["format_version"] == version
            back = FaceReference.load(path)
            assert [getattr(back, key) is None for key in references._SHAPES] == [
                getattr(made, key) is None for key in references._SHAPES
            ]

    def test_a_file_without_clip_has_to_say_that_it_is_one(self, tmp_path):
        path, label = tmp_path / "x.safetensors", {"format": references.FORMAT, "format_version": "1"}
        save_file({"identity": unit((0, 1))}, path, metadata=label)
        with refused("reference-incomplete", "clip_hidden and clip_hidden_zero is missing"):
            FaceReference.load(path)
        save_file({"siglip_hidden": torch.zeros(1, 2)}, path, metadata={**label, "format_version": "2"})
        with refused("reference-damaged", "siglip_hidden has shape [1, 2]"):
            FaceReference.load(path)

    def test_parts_that_are_missing_stay_missing(self, tmp_path):
        reference(None).save(tmp_path / "a.safetensors")
        back = FaceReference.load(tmp_path / "a.safetensors")
        assert (back.identity, back.crop, back.name) == (None, None, "")

    def test_a_file_that_is_no_reference_is_named(self, tmp_path):
        path = tmp_path / "x.safetensors"
        with refused("reference-file-missing", "x.safetensors"):
            FaceReference.load(path)
        path.write_bytes(b"junk")
        with refused("reference-unreadable", "x.safetensors"):
            FaceReference.load(path)
        save_file({"lora_up.weight": torch.zeros(2)}, path)
        with refused("not-a-reference", "x.safetensors", "lora_up.weight"):
            FaceReference.load(path)
        reference(None).save(path)
        whole, tensors = path.read_bytes(), load_file(path)
        path.write_bytes(whole[:-20])
        with refused("reference-unreadable", "x.safetensors"):
            FaceReference.load(path)
        label = {"format": references.FORMAT, "format_version": "1"}
        save_file(tensors, path, metadata={**label, "format_version": "9"})
        with refused("reference-of-another-version", "format 9, this version reads 1 and 2"):
            FaceReference.load(path)
        save_file({"clip_hidden": tensors["clip_hidden"]}, path, metadata=label)
        with refused("reference-incomplete", "clip_hidden_zero is missing"):
            FaceReference.load(path)
        save_file({**tensors, "box": torch.zeros(1, 3)}, path, metadata=label)
        with refused("reference-damaged", "x.safetensors is damaged. ", "box has shape"):
            FaceReference.load(path)

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        with refused("reference-not-written", "nowhere", "the folder does not exist: make it"):
            reference(None).save(tmp_path / "nowhere" / "a.safetensors")
        with refused("reference-not-written", "the name is too long"):
            reference(None).save(tmp_path / f"{'漢' * 83}.safetensors")
        (tmp_path / "b.safetensors").mkdir()
        with refused("reference-not-written", "b.safetensors", "there is a folder of this name"):
            reference(None).save(tmp_path / "b.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]

    def test_a_full_disk_is_called_so(self, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full)
        with refused("reference-not-written", "no space left on the disk: make room"):
            reference(None).save(tmp_path / "a.safetensors")

    @pytest.mark.parametrize(
        ("change", "code", "named"),
        [
            ({"identity": torch.ones(1, 512).to(torch.float8_e4m3fn)}, "reference-damaged", "float8_e4m3fn"),
            ({"clip_hidden": torch.ones(1, 2, 3).to(torch.float8_e5m2)}, "reference-damaged", "float8_e5m2"),
            ({"clip_hidden_zero": torch.ones(1, 2, 3, dtype=torch.int32)}, "reference-damaged", "int32"),
            ({"crop": torch.full((1, 4, 4, 3), -50.0)}, "reference-damaged", "from -50 to -50"),
            ({"crop": torch.full((1, 4, 4, 3), 255.0)}, "reference-damaged", "255"),
            ({"idendity": torch.ones(1, 512)}, "reference-with-unknown-parts", "idendity"),
            (
                {"siglip_hidden": torch.full((1, 4, 2), torch.inf)},
                "reference-damaged",
                "siglip_hidden holds NaN or infinite",
            ),
            ({"siglip_hidden": torch.ones(3, 4, 2)}, "reference-damaged", "siglip_hidden has 3 rows for 1 photos"),
            ({"identity_length": torch.ones(1)}, "reference-damaged", "identity_length without identity"),
            *(
                ({"identity": torch.ones(1, 512), "identity_length": length}, "reference-damaged", named)
                for length, named in (
                    (torch.zeros(1), "identity_length holds 0"),
                    (torch.full((1,), torch.nan), "identity_length holds NaN"),
                    (torch.ones(1, 1), "identity_length has shape [1, 1]"),
                    (torch.ones(1, dtype=torch.int64), "int64"),
                )
            ),
        ],
    )
    def test_exotic_dtypes_and_values_and_damaged_names_are_refused(self, tmp_path, change, code, named):
        path = tmp_path / "x.safetensors"
        tensors = {"clip_hidden": torch.ones(1, 2, 3), "clip_hidden_zero": torch.ones(1, 2, 3), **change}
        save_file(tensors, path, metadata={"format": references.FORMAT, "format_version": "1"})
        with refused(code, "x.safetensors", named):
            FaceReference.load(path)

    def test_a_reference_ends_in_safetensors(self, tmp_path):
        with refused("reference-not-safetensors", "a.pt"):
            reference(None).save(tmp_path / "a.pt")


def test_all_errors_are_of_one_family():
    assert all(issubclass(error, DHumanDiffError) for error in (FaceError, ImageError, FaceReferenceError, HostError))
