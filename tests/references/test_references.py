"""What is known of one person: made from photos, checked, compared, saved and loaded."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dhumandiff import FaceReference
from dhumandiff.errors import DHumanDiffError, FaceError, FaceReferenceError, HostError, ImageError
from dhumandiff.faces import ARCFACE_TEMPLATE, Face, load_photo
from dhumandiff.references import reference as references
from dhumandiff.references.encode import CLIP_MEAN, CLIP_STD, EncodeReport, clip_pixels, encode_reference
from dhumandiff.references.reference import same_person_warning

PERSONS = torch.eye(512)  # rows as unlike as can be


def unit(*parts: tuple[int, float]) -> torch.Tensor:
    """A unit vector [1, 512] made of so much of those persons."""
    return torch.nn.functional.normalize(sum(weight * PERSONS[index : index + 1] for index, weight in parts), dim=-1)


def reference(identity: torch.Tensor | None = None, photos: int = 1, **more) -> FaceReference:
    hidden = torch.randn(photos, 5, 8, generator=torch.Generator().manual_seed(0))
    return FaceReference(identity, hidden, torch.ones(1, 5, 8), **more)


class Tower:
    """A vision tower of one linear layer on four patches; remembers what it was shown."""

    image_size = 224

    def __init__(self):
        self.shown = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.shown.append(pixels)
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(2).transpose(1, 2)


class Analyzer:
    """Finds one upright face of a given size in the middle; who it is, is the picture's red value."""

    name = "red"

    def __init__(self, size: float = 200, faces: int = 1):
        self.size, self.faces = size, faces

    def detect(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        corner = np.array([width / 2, height / 2]) - self.size / 2
        box = np.concatenate([corner, corner + self.size]).astype(np.float32)
        landmarks = (ARCFACE_TEMPLATE - ARCFACE_TEMPLATE.mean(axis=0)) * self.size / 91 + corner + self.size / 2
        return [Face(box, landmarks.astype(np.float32))] * self.faces

    def identity(self, image: np.ndarray, face: Face, swap_channels: bool = False) -> np.ndarray:
        return PERSONS[int(image[0, 0, 2 if swap_channels else 0])].numpy()


def picture(red: float, blue: float = 0.5) -> torch.Tensor:
    return torch.tensor([red / 255, 0.5, blue]).repeat(600, 500, 1)


class TestFaceReference:
    def test_three_tensors_are_enough(self):
        made = reference(unit((0, 1)))
        assert made.name == ""
        assert made.crop is None
        assert reference(None).identity is None

    def test_shapes_that_do_not_belong_together_are_refused(self):
        hidden, zero = torch.zeros(2, 5, 8), torch.zeros(1, 5, 8)
        cases = [
            ({"identity": torch.ones(3, 512)}, "identity has 3 rows for 2 photos"),
            ({"identity": torch.ones(512)}, r"identity has shape \[512\]; \[photos, width\] is needed"),
            ({"identity": torch.zeros(2, 512)}, "row of zeros, which is nobody's face"),
            ({"clip_hidden": hidden[0]}, r"clip_hidden has shape \[5, 8\]"),
            ({"clip_hidden": None}, "clip_hidden is a NoneType"),
            ({"clip_hidden": hidden[:0]}, r"clip_hidden has shape \[0, 5, 8\]"),
            ({"clip_hidden_zero": hidden}, r"clip_hidden_zero has shape \[2, 5, 8\]; \[1, tokens, width\]"),
            ({"clip_hidden_zero": torch.zeros(1, 4, 8)}, r"one vision tower, so \[1, 5, 8\] is needed"),
            ({"clip_hidden": hidden / 0}, "clip_hidden holds NaN"),
            ({"clip_hidden": hidden.int()}, "int32"),
            ({"crop": torch.zeros(2, 64, 64, 4)}, "crop has shape"),
            ({"box": torch.zeros(2, 5)}, "box has shape"),
            ({"landmarks": torch.zeros(1, 5, 2)}, "landmarks has 1 rows"),
            ({"identity_swapped": [1]}, "identity_swapped is a list"),
        ]
        for change, message in cases:
            values = {"identity": None, "clip_hidden": hidden, "clip_hidden_zero": zero, "name": "Ann", **change}
            with pytest.raises(FaceReferenceError, match=f"The reference 'Ann': .*{message}"):
                FaceReference(**values)

    def test_every_tensor_it_holds_is_checked_and_saved(self):
        assert set(references._SHAPES) == {field.name for field in dataclasses.fields(FaceReference)} - {"name"}

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
        with pytest.raises(FaceReferenceError, match=r"no identity of channel-swapped faces.*Encode the photos again"):
            reference(unit((0, 1))).mean_identity(swapped=True)

    def test_without_an_identity_there_is_no_mean_and_no_similarity(self):
        with pytest.raises(FaceReferenceError, match=r"The reference 'Ann': there is no identity\. Encode"):
            reference(None, name="Ann").mean_identity()
        assert reference(None).similarity(reference(unit((0, 1)))) is None
        with pytest.raises(FaceReferenceError, match="cancel each other out"):
            reference(torch.cat([unit((0, 1)), unit((0, -1))]), photos=2).mean_identity()

    def test_similarity_is_the_cosine_of_the_means(self):
        a, b = reference(unit((0, 1))), reference(unit((0, 3), (1, 4)))
        assert a.similarity(b) == pytest.approx(0.6)
        with pytest.raises(FaceReferenceError, match=r"different face recognizers .widths 512 and 128"):
            a.similarity(reference(torch.ones(1, 128)))

    def test_the_same_person_twice_is_warned_about_with_the_similarity(self):
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
        )
        made.save(tmp_path / "ann.safetensors")
        back = FaceReference.load(tmp_path / "ann.safetensors")
        assert back.name == "Ann Ørsted"
        for key in references._SHAPES:
            assert getattr(back, key).dtype == getattr(made, key).dtype
            assert torch.equal(getattr(back, key), getattr(made, key))
        assert [file.name for file in tmp_path.iterdir()] == ["ann.safetensors"]

    def test_parts_that_are_missing_stay_missing(self, tmp_path):
        reference(None).save(tmp_path / "a.safetensors")
        back = FaceReference.load(tmp_path / "a.safetensors")
        assert (back.identity, back.crop, back.name) == (None, None, "")

    def test_a_file_that_is_no_reference_is_named(self, tmp_path):
        path = tmp_path / "x.safetensors"
        with pytest.raises(FaceReferenceError, match=r"no reference file .*x\.safetensors"):
            FaceReference.load(path)
        path.write_bytes(b"junk")
        with pytest.raises(FaceReferenceError, match=r"x\.safetensors cannot be read"):
            FaceReference.load(path)
        save_file({"lora_up.weight": torch.zeros(2)}, path)
        with pytest.raises(
            FaceReferenceError, match=r"x\.safetensors is not a saved reference \(it holds lora_up\.weight"
        ):
            FaceReference.load(path)
        reference(None).save(path)
        whole, tensors = path.read_bytes(), load_file(path)
        path.write_bytes(whole[:-20])
        with pytest.raises(FaceReferenceError, match=r"x\.safetensors cannot be read"):
            FaceReference.load(path)
        label = {"format": references.FORMAT, "format_version": "1"}
        save_file(tensors, path, metadata={**label, "format_version": "9"})
        with pytest.raises(FaceReferenceError, match="format 9, this version reads 1"):
            FaceReference.load(path)
        save_file({"clip_hidden": tensors["clip_hidden"]}, path, metadata=label)
        with pytest.raises(FaceReferenceError, match="clip_hidden_zero is missing"):
            FaceReference.load(path)
        save_file({**tensors, "box": torch.zeros(1, 3)}, path, metadata=label)
        with pytest.raises(FaceReferenceError, match=r"x\.safetensors is damaged\. .*box has shape"):
            FaceReference.load(path)

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        with pytest.raises(FaceReferenceError, match=r"cannot be saved to .*nowhere"):
            reference(None).save(tmp_path / "nowhere" / "a.safetensors")
        with pytest.raises(FaceReferenceError, match=r"not as a\.pt"):
            reference(None).save(tmp_path / "a.pt")


class TestClipPixels:
    @pytest.mark.parametrize("shape", [(512, 512), (300, 300), (100, 100), (333, 512), (512, 301)])
    def test_they_are_what_clips_own_preprocessing_makes(self, shape):
        module = pytest.importorskip("transformers.models.clip")
        processor = getattr(module, "CLIPImageProcessorPil", None) or module.CLIPImageProcessor
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(noise).resize((9, 9)).resize(shape[::-1]))
        for image in (noise, smooth):
            theirs = processor()(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"]
            ours = clip_pixels(torch.from_numpy(image.copy())[None].float() / 255)
            assert ours.shape == (1, 3, 224, 224)
            assert torch.allclose(ours, theirs, atol=1e-5)

    def test_the_mean_colour_becomes_zero(self):
        crops = torch.tensor(CLIP_MEAN).expand(1, 50, 50, 3)
        assert clip_pixels(crops).abs().max() < 0.5 / 255 / min(CLIP_STD) + 1e-6
        with pytest.raises(ImageError, match=r"\[1, 3, 50, 50\]"):
            clip_pixels(crops.permute(0, 3, 1, 2))


class TestEncoding:
    def test_a_person_of_several_photos_has_one_row_each(self):
        tower = Tower()
        photos = [picture(3, blue=7 / 255), picture(3, blue=9 / 255)]
        made, report = encode_reference(photos, tower, Analyzer(), name="Ann")
        assert made.name == "Ann"
        assert torch.equal(made.identity, PERSONS[[3, 3]])
        assert torch.equal(made.identity_swapped, PERSONS[[7, 9]])
        assert made.crop.shape == (2, 512, 512, 3)
        assert made.box[0].tolist() == [150, 200, 350, 400]
        assert made.landmarks.shape == (2, 5, 2)
        assert [tuple(pixels.shape) for pixels in tower.shown] == [(2, 3, 224, 224), (1, 3, 224, 224)]
        assert (tower.shown[1] == 0).all()
        assert torch.equal(made.clip_hidden, Tower()(clip_pixels(made.crop)))
        assert made.clip_hidden_zero.shape == (1, 4, 3)
        assert [photo.similarity for photo in report.photos] == pytest.approx([1, 1])

    def test_one_photo_a_batch_and_paths_are_taken_alike(self, tmp_path):
        pixels = (picture(3) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "a.png")
        ways = [picture(3), picture(3)[None], [picture(3)], tmp_path / "a.png", str(tmp_path / "a.png"), pixels]
        made = [encode_reference(way, Tower(), Analyzer())[0] for way in (*ways, load_photo(tmp_path / "a.png"))]
        assert all(torch.equal(made[0].clip_hidden, other.clip_hidden) for other in made)

    def test_the_tower_may_want_another_size_and_answer_in_half_precision(self):
        tower = Tower()
        tower.image_size = 336
        made, _ = encode_reference(picture(3), lambda pixels: tower(pixels).half(), Analyzer())
        assert made.clip_hidden.dtype == torch.float32
        tower.shown.clear()
        encode_reference(picture(3), tower, Analyzer())
        assert tower.shown[0].shape[-1] == 336

    def test_a_photo_of_someone_else_is_reported_and_kept(self):
        made, report = encode_reference([picture(3), picture(3), picture(4)], Tower(), Analyzer())
        assert len(made.identity) == 3
        assert [photo.is_outlier for photo in report.photos] == [False, False, True]
        assert any(
            "photo 3 (image 3): its face is unlike the other photos (similarity 0.00" in w for w in report.warnings()
        )

    def test_the_report_says_what_was_found_and_done(self):
        text = str(encode_reference(picture(3), Tower(), Analyzer(size=100, faces=2), name="Ann")[1])
        assert "Ann: 1 photo(s)" in text
        assert "photo 1 (image 1, 500 x 600 px): face 100 px" in text
        assert "note: 2 faces were found; the one used is: largest" in text
        assert "warning: the face is small" in text
        assert str(EncodeReport(())) == "Nothing to improve."

    def test_light_normalisation_changes_the_crop_and_not_the_identity(self):
        photo = picture(30)
        photo[:, :250] *= 0.5
        plain, _ = encode_reference(photo, Tower(), Analyzer())
        even, _ = encode_reference(photo, Tower(), Analyzer(), normalize_light=True)
        assert not torch.equal(plain.crop, even.crop)
        assert torch.equal(plain.identity, even.identity)

    def test_photos_that_cannot_be_used_are_all_named_and_none_is_dropped(self, tmp_path):
        with pytest.raises(FaceError, match=r"^The photo of 'Ann' cannot be used\. photo 1: No face was found"):
            encode_reference(picture(3), Tower(), Analyzer(faces=0), name="Ann")
        with pytest.raises(ImageError, match=r"1 of 3 photos cannot be used\. photo 2 \(gone\.png\): .*does not exist"):
            encode_reference([picture(3), tmp_path / "gone.png", picture(3)], Tower(), Analyzer())
        with pytest.raises(ImageError, match=r"1 of 2 photos cannot be used\. photo 2: image 2 holds NaN"):
            encode_reference([picture(3), picture(torch.nan)], Tower(), Analyzer())
        with pytest.raises(
            FaceError, match=r"2 of 2 photos.* photo 1: The face is 50 px .* photo 2: The face is 50 px"
        ):
            encode_reference(torch.stack([picture(3)] * 2), Tower(), Analyzer(size=50))
        encode_reference(picture(3), Tower(), Analyzer(size=50), minimum_size=50)
        with pytest.raises(FaceError, match="There is no face with index 2"):
            encode_reference(picture(3), Tower(), Analyzer(), which=2)
        for nothing in ([], torch.zeros(0, 8, 8, 3)):
            with pytest.raises(ImageError, match="There is no photo"):
                encode_reference(nothing, Tower(), Analyzer())

    def test_without_face_analysis_the_message_says_what_to_connect(self):
        with pytest.raises(FaceError, match="Connect a face analysis"):
            encode_reference(picture(3), Tower(), None)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda pixels: pixels.flatten(1), r"gave \[1, 150528\] for 1 picture"),
            (lambda pixels: None, "gave NoneType for 1"),
            (lambda pixels: Tower()(pixels) / 0, "NaN or infinite"),
        ],
    )
    def test_a_tower_that_answers_nonsense_is_refused(self, answer, message):
        with pytest.raises(HostError, match=message):
            encode_reference(picture(3), answer, Analyzer())


@pytest.mark.faces
class TestRealPhotos:
    def test_two_photos_of_one_person_and_another_person(self, face_photos, face_analyzer):
        both, report = encode_reference(
            [face_photos / "obama.jpg", face_photos / "obama2.jpg"], Tower(), face_analyzer, name="A"
        )
        other, _ = encode_reference(face_photos / "biden.jpg", Tower(), face_analyzer, name="B")
        assert report.warnings() == []
        assert report.photos[0].similarity > 0.6
        assert both.similarity(other) < 0.3
        assert same_person_warning(both, other) is None
        first, _ = encode_reference(face_photos / "obama.jpg", Tower(), face_analyzer)
        assert "look like the same person" in same_person_warning(both, first)

    def test_progress_names_each_photo_before_it_is_read(self, face_photos, face_analyzer):
        photos, told = [face_photos / "obama.jpg", face_photos / "obama2.jpg"], []
        encode_reference(photos, Tower(), face_analyzer, progress=lambda *which: told.append(which))
        assert told == [(1, 2), (2, 2)]

    def test_a_stranger_among_photos_is_pointed_out(self, face_photos, face_analyzer):
        photos = [face_photos / name for name in ("obama.jpg", "biden.jpg", "obama2.jpg")]
        made, report = encode_reference(photos, Tower(), face_analyzer)
        assert len(made.clip_hidden) == 3
        assert report.photos[1].similarity < report.photos[0].similarity
        assert "photo 2 (biden.jpg): its face is unlike" in "\n".join(report.warnings())

    def test_a_photo_without_a_face_is_named(self, tmp_path, face_photos, face_analyzer):
        Image.new("RGB", (400, 300), "teal").save(tmp_path / "wall.png")
        with pytest.raises(FaceError, match=r"1 of 2 photos cannot be used\. photo 2 \(wall\.png\): No face"):
            encode_reference([face_photos / "obama.jpg", tmp_path / "wall.png"], Tower(), face_analyzer)

    def test_a_saved_person_is_the_same_person(self, tmp_path, face_photos, face_analyzer):
        made, _ = encode_reference(face_photos / "obama.jpg", Tower(), face_analyzer, name="A")
        made.save(tmp_path / "a.safetensors")
        assert made.similarity(FaceReference.load(tmp_path / "a.safetensors")) == pytest.approx(1)


def test_all_errors_are_of_one_family():
    assert all(issubclass(error, DHumanDiffError) for error in (FaceError, ImageError, FaceReferenceError, HostError))


@pytest.mark.faces
def test_a_portrait_on_its_side_is_told(face_photos, face_analyzer):
    upright = np.asarray(Image.open(face_photos / "obama.jpg").convert("RGB"))
    for turns, told in ((0, False), (1, True), (3, True)):
        photo = torch.from_numpy(np.rot90(upright, turns).copy()).float() / 255
        try:
            _, report = encode_reference(photo, Tower(), face_analyzer)
        except FaceError:  # a detector may also find nothing there, which is told too
            continue
        assert any("turn the photo upright" in warning for warning in report.warnings()) == told
