"""From photos of one person to what is known of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.refused import refused

from dhumandiff import FaceReference
from dhumandiff.errors import FaceError, HostError, ImageError
from dhumandiff.faces import ARCFACE_TEMPLATE, Face, load_photo
from dhumandiff.references.encode import CLIP_MEAN, CLIP_STD, EncodeReport, clip_pixels, encode_reference
from dhumandiff.references.reference import same_person_warning

PERSONS = torch.eye(512)  # rows as unlike as can be


class Encoder:
    """An image encoder of one linear layer on four patches; remembers what it was shown."""

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


class TestClipPixels:
    @pytest.mark.parametrize("shape", [(512, 512), (300, 300), (100, 100), (333, 512), (512, 301)])
    def test_they_are_what_clip_s_preprocessing_makes(self, shape):
        module = pytest.importorskip("transformers.models.clip")
        processor = getattr(module, "CLIPImageProcessorPil", None) or module.CLIPImageProcessor
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(noise).resize((9, 9)).resize(shape[::-1]))
        for image in (noise, smooth):
            theirs = processor()(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"]
            ours = clip_pixels(torch.from_numpy(image.copy())[None].float() / 255)
            assert ours.shape == (1, 3, 224, 224)
            assert torch.allclose(ours, theirs, atol=1e-5)

    def test_the_mean_color_becomes_zero(self):
        crops = torch.tensor(CLIP_MEAN).expand(1, 50, 50, 3)
        assert clip_pixels(crops).abs().max() < 0.5 / 255 / min(CLIP_STD) + 1e-6
        with refused("not-crops", "[1, 3, 50, 50]", error=ImageError):
            clip_pixels(crops.permute(0, 3, 1, 2))


class TestEncoding:
    def test_a_person_has_one_row_a_photo(self):
        encoder = Encoder()
        photos = [picture(3, blue=7 / 255), picture(3, blue=9 / 255)]
        made, report = encode_reference(photos, encoder, Analyzer(), name="Ann")
        assert made.name == "Ann"
        assert torch.equal(made.identity, PERSONS[[3, 3]])
        assert torch.equal(made.identity_swapped, PERSONS[[7, 9]])
        assert made.crop.shape == (2, 512, 512, 3)
        assert made.box[0].tolist() == [150, 200, 350, 400]
        assert made.landmarks.shape == (2, 5, 2)
        assert [tuple(pixels.shape) for pixels in encoder.shown] == [(2, 3, 224, 224), (1, 3, 224, 224)]
        assert (encoder.shown[1] == 0).all()
        assert torch.equal(made.clip_hidden, Encoder()(clip_pixels(made.crop)))
        assert made.clip_hidden_zero.shape == (1, 4, 3)
        assert [photo.similarity for photo in report.photos] == pytest.approx([1, 1])

    def test_one_photo_a_batch_and_paths_are_taken_alike(self, tmp_path):
        pixels = (picture(3) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "a.png")
        ways = [picture(3), picture(3)[None], [picture(3)], tmp_path / "a.png", str(tmp_path / "a.png"), pixels]
        made = [encode_reference(way, Encoder(), Analyzer())[0] for way in (*ways, load_photo(tmp_path / "a.png"))]
        assert all(torch.equal(made[0].clip_hidden, other.clip_hidden) for other in made)

    def test_another_size_and_half_precision(self):
        encoder = Encoder()
        encoder.image_size = 336
        made, _ = encode_reference(picture(3), lambda pixels: encoder(pixels).half(), Analyzer())
        assert made.clip_hidden.dtype == torch.float32
        encoder.shown.clear()
        encode_reference(picture(3), encoder, Analyzer())
        assert encoder.shown[0].shape[-1] == 336

    def test_siglip_sees_the_face_alone_at_256_px(self):
        photos, siglip = torch.rand(2, 300, 400, 3), Encoder()
        siglip.image_size = 256
        analyzer = Analyzer(size=150)
        analyzer.identity = lambda *_, **__: PERSONS[3].numpy()
        made, report = encode_reference(photos, None, analyzer, siglip=siglip)
        assert made.clip_hidden is None
        assert [tuple(pixels.shape) for pixels in siglip.shown] == [(2, 3, 256, 256)]
        face = Image.fromarray((photos[1, 75:225, 125:275] * 255).round().byte().numpy())
        seen = np.asarray(
            face.resize((512, 512), Image.Resampling.LANCZOS).resize((256, 256), Image.Resampling.BICUBIC)
        )
        expected = torch.from_numpy(seen.copy()).permute(2, 0, 1).float() / 127.5 - 1
        assert torch.allclose(siglip.shown[0][1], expected, atol=1e-5)
        assert report.serves == ()  # this analyzer does not tell how long embeddings were
        with refused("no-image-encoder", "clip_vision", "siglip_vision", error=HostError):
            encode_reference(photos, None, analyzer)

    def test_a_reference_knows_what_made_it(self):
        class Measuring(Analyzer):
            def identity_and_length(self, image, face, swap_channels=False):
                return self.identity(image, face, swap_channels), float(image[0, 0, 0])

        made, _ = encode_reference([picture(3), picture(3)], Encoder(), Measuring())
        assert made.identity_length.tolist() == [3, 3]
        assert torch.equal(made.raw_identity(), 3 * PERSONS[[3, 3]])
        assert (made.recognizer, made.recognizer_hash, made.image_encoder) == ("red", "", "CLIP of width 3")
        made, report = encode_reference(picture(3), Encoder(), Analyzer(), siglip=Encoder())
        assert made.identity_length is None
        assert made.siglip_encoder == "SigLIP of width 3"
        lines = str(report).splitlines()
        assert "encoded with: CLIP of width 3, SigLIP of width 3, red" in lines
        assert "serves: DHumanDiff, IP-Adapter Plus" in lines

    @pytest.mark.parametrize(
        ("answer", "code"),
        [(torch.zeros(1, 3), "not-hidden-states"), (torch.full((1, 4, 3), torch.nan), "hidden-states-not-finite")],
    )
    def test_what_siglip_answers_is_checked(self, answer, code):
        with refused(code, "The SigLIP image encoder gave", error=HostError):
            encode_reference(picture(3), Encoder(), Analyzer(), siglip=lambda _: answer)

    def test_a_photo_of_someone_else_is_reported_and_kept(self):
        made, report = encode_reference([picture(3), picture(3), picture(4)], Encoder(), Analyzer())
        assert len(made.identity) == 3
        assert [photo.is_outlier for photo in report.photos] == [False, False, True]
        assert any(
            "photo 3 (image 3): its face is unlike the other photos (similarity 0.00" in w for w in report.warnings()
        )

    def test_the_report_says_what_was_found_and_done(self):
        text = str(encode_reference(picture(3), Encoder(), Analyzer(size=100, faces=2), name="Ann")[1])
        assert "Ann: 1 photo(s)" in text
        assert "photo 1 (image 1, 500 x 600 px): face 100 px" in text
        assert "note: 2 faces were found; the one used is: largest" in text
        assert "warning: the face is small" in text
        assert str(EncodeReport(())) == "Nothing to improve."

    def test_light_changes_the_crop_and_not_identity(self):
        photo = picture(30)
        photo[:, :250] *= 0.5
        plain, _ = encode_reference(photo, Encoder(), Analyzer())
        even, _ = encode_reference(photo, Encoder(), Analyzer(), normalize_light=True)
        assert not torch.equal(plain.crop, even.crop)
        assert torch.equal(plain.identity, even.identity)

    def test_a_face_lost_in_a_batch_is_blamed_on_the_crop(self):
        batch = torch.stack([picture(3), picture(3)])
        for photos in (batch, list(batch)):  # the node gives a list
            with refused("no-face", "Batching images crops", error=FaceError):
                encode_reference(photos, Encoder(), Analyzer(faces=0))
        with pytest.raises(FaceError) as alone:
            encode_reference([batch[0], batch[1, :-20]], Encoder(), Analyzer(faces=0))
        assert "Batching" not in str(alone.value)

    def test_photos_that_cannot_be_used_are_all_named(self, tmp_path):
        with refused("no-face", "The photo of 'Ann' cannot be used. photo 1: No face was found", error=FaceError):
            encode_reference(picture(3), Encoder(), Analyzer(faces=0), name="Ann")
        with refused("photo-missing", "1 of 3 photos cannot be used. photo 2 (gone.png): ", error=ImageError):
            encode_reference([picture(3), tmp_path / "gone.png", picture(3)], Encoder(), Analyzer())
        with refused("photo-not-finite", "1 of 2 photos cannot be used. photo 2: image 2 holds NaN", error=ImageError):
            encode_reference([picture(3), picture(torch.nan)], Encoder(), Analyzer())
        with refused(
            "face-too-small",
            "2 of 2 photos",
            "photo 1: The face is 50 px",
            "photo 2: The face is 50 px",
            error=FaceError,
        ):
            encode_reference(torch.stack([picture(3)] * 2), Encoder(), Analyzer(size=50))
        encode_reference(picture(3), Encoder(), Analyzer(size=50), min_size=50)
        with refused("no-face-of-that-index", "index 2", error=FaceError):
            encode_reference(picture(3), Encoder(), Analyzer(), which=2)
        for nothing in ([], torch.zeros(0, 8, 8, 3)):
            with refused("no-photo", error=ImageError):
                encode_reference(nothing, Encoder(), Analyzer())

    def test_a_whole_photo_needs_no_face_models(self):
        encoder = Encoder()
        wide = torch.zeros(300, 400, 3)
        wide[:, 50:350] = picture(3)[:300, :300]
        made, report = encode_reference([wide, picture(5)[:300, :300]], encoder, None, which="whole-photo", name="Ann")
        assert (made.identity, made.identity_swapped, made.box, made.recognizer) == (None, None, None, "")
        assert made.crop.shape == (2, 512, 512, 3)
        assert torch.allclose(made.crop[0], picture(3)[0, 0], atol=1 / 255)  # the middle, and nothing of the black ends
        assert torch.equal(made.clip_hidden, Encoder()(clip_pixels(made.crop)))
        assert report.serves == ("IP-Adapter Plus",)
        assert "25% of it were cut off" in report.photos[0].notes[-1]
        assert "taken as a head crop" in str(report)
        with refused("no-identity", "Ann"):
            made.require("identity")

    def test_a_whole_photo_is_refused_where_a_face_is_asked_for(self):
        for more, code in (
            ({"siglip": Encoder()}, "siglip-of-a-whole-photo"),
            ({"normalize_light": True}, "light-of-a-whole-photo"),
        ):
            with refused(code, "whole-photo", error=HostError):
                encode_reference(picture(3), Encoder(), None, which="whole-photo", **more)
        with refused("whole-photo-too-small", "40 x 300", error=ImageError):
            encode_reference(picture(3)[:300, :40], Encoder(), None, which="whole-photo")

    def test_a_judge_encodes_nobody(self):
        judge = Analyzer()
        judge.name, judge.scores_only = "sface", True
        with refused("judge-conditions-nothing", "sface", "a reference", "for scoring", error=FaceError):
            encode_reference(picture(3), Encoder(), judge)

    def test_without_face_analysis_nothing_is_encoded(self):
        with refused("no-face-analysis", error=FaceError):
            encode_reference(picture(3), Encoder(), None)

    @pytest.mark.parametrize(
        ("answer", "code", "named"),
        [
            (lambda pixels: pixels.flatten(1), "not-hidden-states", "gave [1, 150528] for 1 picture"),
            (lambda pixels: None, "not-hidden-states", "gave NoneType for 1"),
            (lambda pixels: Encoder()(pixels) / 0, "hidden-states-not-finite", "float32 or bfloat16"),
        ],
    )
    def test_an_encoder_that_answers_nonsense_is_refused(self, answer, code, named):
        with refused(code, named, error=HostError):
            encode_reference(picture(3), answer, Analyzer())


@pytest.mark.faces
class TestRealPhotos:
    def test_two_photos_of_one_person_and_another_person(self, face_photos, face_analyzer):
        both, report = encode_reference(
            [face_photos / "obama.jpg", face_photos / "obama2.jpg"], Encoder(), face_analyzer, name="A"
        )
        other, _ = encode_reference(face_photos / "biden.jpg", Encoder(), face_analyzer, name="B")
        assert report.warnings() == []
        assert report.photos[0].similarity > 0.6
        assert both.similarity(other) < 0.3
        assert same_person_warning(both, other) is None
        first, _ = encode_reference(face_photos / "obama.jpg", Encoder(), face_analyzer)
        assert "look like the same person" in same_person_warning(both, first)

    def test_progress_names_each_photo_before_it_is_read(self, face_photos, face_analyzer):
        photos, told = [face_photos / "obama.jpg", face_photos / "obama2.jpg"], []
        encode_reference(photos, Encoder(), face_analyzer, progress=lambda *which: told.append(which))
        assert told == [(1, 2), (2, 2)]

    def test_a_stranger_among_photos_is_pointed_out(self, face_photos, face_analyzer):
        photos = [face_photos / name for name in ("obama.jpg", "biden.jpg", "obama2.jpg")]
        made, report = encode_reference(photos, Encoder(), face_analyzer)
        assert len(made.clip_hidden) == 3
        assert report.photos[1].similarity < report.photos[0].similarity
        assert "photo 2 (biden.jpg): its face is unlike" in "\n".join(report.warnings())

    def test_a_photo_without_a_face_is_named(self, tmp_path, face_photos, face_analyzer):
        Image.new("RGB", (400, 300), "teal").save(tmp_path / "wall.png")
        with refused("no-face", "1 of 2 photos cannot be used. photo 2 (wall.png): No face"):
            encode_reference([face_photos / "obama.jpg", tmp_path / "wall.png"], Encoder(), face_analyzer)

    def test_a_saved_person_is_the_same_person(self, tmp_path, face_photos, face_analyzer):
        made, _ = encode_reference(face_photos / "obama.jpg", Encoder(), face_analyzer, name="A")
        made.save(tmp_path / "a.safetensors")
        assert made.similarity(FaceReference.load(tmp_path / "a.safetensors")) == pytest.approx(1)


@pytest.mark.faces
def test_a_portrait_on_its_side_is_told(face_photos, face_analyzer):
    upright = np.asarray(Image.open(face_photos / "obama.jpg").convert("RGB"))
    for turns, told in ((0, False), (1, True), (3, True)):
        photo = torch.from_numpy(np.rot90(upright, turns).copy()).float() / 255
        try:
            _, report = encode_reference(photo, Encoder(), face_analyzer)
        except FaceError:  # a detector may also find nothing there, which is told too
            continue
        assert any("turn the photo upright" in warning for warning in report.warnings()) == told
