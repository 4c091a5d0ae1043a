"""Where pictures come from: folders, Hugging Face image folders, parquet, tars, several at once."""

import io
import json
import tarfile

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import CAPTION, couple, draw, prepared, reasons, samples, settings_for, skin, world
from support.refused import refused

from training import TrainingError
from training.data.plan import describe
from training.data.settings import Source
from training.data.sources import list_pictures

TWO_WOMEN = "A woman hugs another woman"


def two(path, paper=(90, 120, 150)):
    draw(path, [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))], paper=paper)
    return path


def listed(path, **fields):
    return list_pictures(Source(str(path), **fields))[0]


def test_a_caption_lies_in_a_text_beside_the_picture(tmp_path):
    two(tmp_path / "a.png").with_suffix(".txt").write_text(f" {TWO_WOMEN}\n")
    (picture,) = listed(tmp_path)
    assert (picture.name, picture.caption, picture.annotation) == ("a.png", TWO_WOMEN, None)


def test_hugging_face_image_folders_have_captions(tmp_path):
    """A hugging face image folder has its captions in metadata."""
    two(tmp_path / "train" / "a.png")
    two(tmp_path / "train" / "b.png")
    rows = [{"file_name": "b.png", "text": TWO_WOMEN}, {"file_name": "a.png", "caption": "A man and a boy"}]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [picture.caption for picture in listed(tmp_path)] == ["A man and a boy", TWO_WOMEN]


def test_captions_may_lie_elsewhere(tmp_path):
    two(tmp_path / "data" / "a.png")
    (tmp_path / "told.jsonl").write_text(json.dumps({"file_name": "a.png", "text": TWO_WOMEN}))
    (picture,) = listed(tmp_path / "data", captions=str(tmp_path / "told.jsonl"))
    assert picture.caption == TWO_WOMEN


@pytest.mark.parametrize("line", ["{", '{"text": "x"}', "[1]"])
def test_a_broken_line_of_captions_is_named(tmp_path, line):
    two(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": "x"}}\n{line}\n')
    with refused("unreadable-captions", "metadata.jsonl, line 2", "file_name", error=TrainingError):
        listed(tmp_path)


def test_pictures_without_any_caption_get_one(tmp_path):
    two(tmp_path / "data" / "a.png")
    prepared(tmp_path / "data", tmp_path / "out")
    ((told, _),) = samples(tmp_path / "out").values()
    assert told["caption"] == "A person and another person"
    assert told["named_by"] == "left_to_right"
    assert told["persons"][0]["face_box"][0] < told["persons"][1]["face_box"][0]


@pytest.mark.parametrize("way", ["folder", "dict", "list"])
def test_annotations_lie_in_a_folder_or_in_one_file(tmp_path, way):
    path = couple(tmp_path / "data", 0)
    told = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").unlink()
    place = tmp_path / ("labels" if way == "folder" else "labels.json")
    if way == "folder":
        place.mkdir()
        (place / "000.json").write_text(json.dumps(told))
    else:
        place.write_text(json.dumps({"000": told} if way == "dict" else [{**told, "image_id": "000.png"}]))
    (picture,) = listed(tmp_path / "data", annotations=str(place))
    assert picture.read_annotation()["people"] == told["people"]


def test_side_folders_hold_no_pictures(tmp_path):
    """Folders of references masks and hidden files hold no pictures of two."""
    couple(tmp_path, 0)
    for name in ("references/anna/1.png", "masks/000_1.png", "annotations/x.png", ".cache/a.png", ".hidden.png"):
        two(tmp_path / name)
    assert [picture.name for picture in listed(tmp_path)] == ["000.png"]


def parquet(path, rows, group=2):
    arrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(arrow.Table.from_pylist(rows), path, row_group_size=group)


def test_parquet_files_hold_pictures_captions_and_annotations(tmp_path):
    rows = []
    for number in range(5):
        path = couple(tmp_path / "raw", number, swapped=number % 2 == 1)
        annotation = path.with_suffix(".json").read_text() if number != 3 else None
        image = {"bytes": path.read_bytes(), "path": path.name}
        rows.append({"image": image, "text": TWO_WOMEN if number == 3 else None, "annotation": annotation})
    rows.append({"image": {"bytes": None, "path": "gone.png"}, "text": "x", "annotation": "no json"})
    parquet(tmp_path / "data" / "train.parquet", rows)
    prepared(tmp_path / "data", tmp_path / "out")
    told = {sample["picture"]: sample for sample, _ in samples(tmp_path / "out").values()}
    assert list(told) == [f"train.parquet:{row:08d}" for row in range(5)]
    assert told["train.parquet:00000003"]["caption"] == TWO_WOMEN
    assert told["train.parquet:00000001"]["caption"] == CAPTION
    assert told["train.parquet:00000001"]["persons"][1]["face_box"][0] < 64  # the woman of every second picture
    assert reasons(tmp_path / "out")["train.parquet:00000005"] == (
        "corrupt",
        "row 5 of train.parquet holds no picture.",
    )
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert any("row 5: the annotation is no JSON" in note for note in notes)


def test_parquet_without_pictures_or_damaged_is_refused(tmp_path):
    parquet(tmp_path / "a.parquet", [{"caption": "x"}])
    with refused("no-picture-column", "a.parquet", "caption", error=TrainingError):
        listed(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    with refused("unreadable-parquet", "b.parquet", error=TrainingError):
        listed(tmp_path / "b.parquet")


def tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def packed(folder, numbers):
    files = {}
    for number in numbers:
        path = couple(folder, number)
        files |= {f"{number:05d}.png": path.read_bytes(), f"{number:05d}.json": path.with_suffix(".json").read_bytes()}
    return files


def test_tars_give_the_folders_samples(tmp_path):
    """Tars give the same samples as the folder they were made of."""
    tar(tmp_path / "tars" / "000.tar", packed(tmp_path / "raw", (0, 1)))
    tar(tmp_path / "tars" / "001.tar", {**packed(tmp_path / "raw", (2,)), "9.txt": b"no picture"})
    prepared(str(tmp_path / "tars" / "{000..001}.tar"), tmp_path / "a")
    prepared(tmp_path / "raw", tmp_path / "b")
    ours, theirs = samples(tmp_path / "a"), samples(tmp_path / "b")
    assert list(ours) == list(theirs)
    for key, (told, tensors) in ours.items():
        assert told["persons"] == theirs[key][0]["persons"]
        assert all((tensors[name] == theirs[key][1][name]).all() for name in tensors)


def test_a_cut_off_tar_is_used(tmp_path):
    """A tar that is cut off is used up to the damage and noted."""
    path = tmp_path / "data" / "a.tar"
    tar(path, packed(tmp_path / "raw", (0, 1)))
    path.write_bytes(path.read_bytes()[:2900])  # in the middle of the second picture or its annotation
    pictures, notes = list_pictures(Source(str(path)))
    assert [picture.name for picture in pictures][:1] == ["a.tar:00000"]
    told = prepared(tmp_path / "data", tmp_path / "out")
    assert "samples from" in told
    assert notes or reasons(tmp_path / "out")
    path.write_bytes(b"no tar at all")
    with refused("unreadable-tar", "a.tar", error=TrainingError):
        listed(path)


def test_a_picture_that_is_not_there_is_set_aside(tmp_path):
    """One link that leads nowhere, or to itself, takes nothing else down."""
    folder = couple(tmp_path / "data", 0).parent
    (folder / "102.png").symlink_to("nowhere.png")
    (folder / "103.png").symlink_to("103.png")
    prepared(tmp_path / "data", tmp_path / "out")
    assert len(samples(tmp_path / "out")) == 1
    for name in ("102.png", "103.png"):
        assert reasons(tmp_path / "out")[name][0] == "corrupt"
        assert "does not exist" in reasons(tmp_path / "out")[name][1]


def test_several_sources_keep_their_weights(tmp_path):
    for name, count in (("first", 2), ("second", 1)):
        for number in range(count):
            couple(tmp_path / name, number)
    sources = [Source(str(tmp_path / "first"), weight=3), Source(str(tmp_path / "second"), name="other")]
    prepared("", tmp_path / "out", sources=sources)
    told = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert told["sources"] == [
        {"name": "first", "weight": 3, "samples": 2},
        {"name": "other", "weight": 1.0, "samples": 1},
    ]
    assert [sample["source"] for sample, _ in samples(tmp_path / "out").values()] == ["first", "first", "other"]


def test_sources_of_one_name_or_without_weight_are_refused(tmp_path):
    couple(tmp_path / "a" / "images", 0)
    couple(tmp_path / "b" / "images", 0)
    sources = [Source(str(tmp_path / "a" / "images")), Source(str(tmp_path / "b" / "images"))]
    with refused("sources-of-one-name", "'images'", "`name`", error=TrainingError):
        prepared("", tmp_path / "out", sources=sources)
    with refused("sources-without-weight", "weight", error=TrainingError):
        prepared("", tmp_path / "out", sources=[Source(str(tmp_path / "a" / "images"), weight=0)])


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"captions": "none.jsonl"}, "no-captions", "none.jsonl"),
        ({"annotations": "none"}, "no-annotations", "at none"),
        ({"references": "none"}, "no-references-folder", "at none"),
    ],
)
def test_named_files_that_are_missing_are_refused(tmp_path, fields, code, named):
    couple(tmp_path / "data", 0)
    with refused(code, named, error=TrainingError):
        prepared("", tmp_path / "out", sources=[Source(str(tmp_path / "data"), **fields)])


def test_sources_without_pictures_are_refused(tmp_path):
    with refused("source-without-pictures", ".jpg, ", error=TrainingError):
        listed(tmp_path)
    with refused("no-such-source", "*.tar", error=TrainingError):
        listed(tmp_path / "*.tar")
    (tmp_path / "a.zip").write_bytes(b"")
    with refused("source-is-a-file", "a.zip", error=TrainingError):
        listed(tmp_path / "a.zip")


def test_a_dry_run_needs_no_models_and_writes_nothing(tmp_path):
    data = world(tmp_path / "data", good=3, refused=False)
    told = describe(settings_for(data, tmp_path / "out", base="/no/such/base", faces__pack="none", slice="1/1"))
    assert "3 pictures, 3 with an annotation, 0 with a caption of their own" in told
    assert "1 person with photos beside the picture" in told
    assert "1 shard of 4 pictures" in told
    assert "Slice 1/1: 1 shard, 0 of them finished." in told
    assert "not there yet: There is no base /no/such/base." in told
    assert "not there yet: There is no face model pack in" in told
    assert not (tmp_path / "out").exists()
    assert "not there yet" not in describe(settings_for(data, tmp_path / "out", faces__pack="tiny"))


def test_the_drawn_worlds_folder_is_read(tmp_path):
    """The drawn world's folder is read with annotations masks and references."""
    from dhumandiff.miniature.world import people, write_dataset
    from training.data.sources import reference_photos

    write_dataset(tmp_path, range(3), people("train", 12), references=2)
    pictures = listed(tmp_path)
    assert len(pictures) == 3
    assert all(picture.annotation is not None and len(picture.masks) == 2 for picture in pictures)
    assert all(len(photos) >= 2 for photos in reference_photos(Source(str(tmp_path))).values())


def test_pictures_of_other_endings_are_counted(tmp_path):
    draw(tmp_path / "a.png", [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))])
    for name in ("b.heic", "sub/c.AVIF", "d.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    pictures, notes = list_pictures(Source(str(tmp_path)))
    assert [picture.name for picture in pictures] == ["a.png"]
    assert "3 pictures in" in notes[0]
    assert ".avif, .gif, .heic" in notes[0]
