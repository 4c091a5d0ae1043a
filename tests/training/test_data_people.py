"""Who is on several pictures: identities in tables, a folder a couple, faces that are alike; and what is held out by them."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from PIL import Image
from support.drawn import draw, encoders, samples, settings_for, skin
from support.refused import refused
from support.skin_faces import analyzer

from training import TrainingError
from training.data.config import FolderConfig
from training.data.dataset import open_datasets
from training.data.likeness import cluster_faces, near_duplicates, picture_hash
from training.data.pipeline import merge_slices, prepare
from training.data.plan import describe
from training.data.settings import PrepareSettings

CAPTION = "A man@1 beside another man@2"


def photo(path, first, second, number=0, text=CAPTION):
    """Two people, `first` on the left, before a wall of their own."""
    wall = np.random.default_rng(number).integers(0, 200, (3,)).tolist()
    radius = 12 + number % 3
    draw(
        path,
        [(30 + number % 5, 34, radius, skin(first)), (94 - number % 4, 40, radius, skin(second))],
        paper=tuple(wall),
    )
    if text:
        path.with_suffix(".txt").write_text(text)


def made(data, out, **more):
    more = {"faces__pack": "support.skin_faces:analyzer", "references__augmented": 0, **more}
    return prepare(settings_for(data, out, **more), encoders(), analyzer())


def report_of(out):
    return json.loads((out / "report.json").read_text())


def likeness(tensors, person):
    """Of each reference with the first."""
    rows = tensors[f"ref_{person}.identity"].float()
    return [round(float(row @ rows[0]), 1) for row in rows[1:]]


def couples(folder, count=4, each=3):
    """`count` couples, `each` of them on as many pictures; in every second one they have changed sides."""
    for couple in range(count):
        for number in range(each):
            people = (2 * couple, 2 * couple + 1)[:: 1 if number % 2 == 0 else -1]
            photo(folder / f"couple{couple}" / f"{number}.png", *people, number=couple * each + number)
    return folder


def test_identities_of_a_table_are_whom_the_caption_names_first_and_second(tmp_path):
    photo(tmp_path / "data" / "a.png", 3, 4, 0)
    photo(tmp_path / "data" / "b.png", 4, 3, 1)
    photo(tmp_path / "data" / "c.png", 4, 3, 2, "On the right a man@1, on the left a man@2")
    rows = "a.png,ben,carl\nb.png,carl,ben\nc.png,ben,carl\n"
    (tmp_path / "data" / "metadata.csv").write_text(f"file_name,identity_1,identity_2\n{rows}")
    made(tmp_path / "data", tmp_path / "out")
    for told, tensors in samples(tmp_path / "out").values():
        assert [row["origin"] for row in told["persons"][0]["references"]] == ["target", "paired", "paired"]
        assert min(likeness(tensors, 1) + likeness(tensors, 2)) > 0.7


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_references_are_tied_by_identity_in_any_table(tmp_path, ending):
    from training.data.identities import Identities
    from training.data.settings import Source
    from training.data.sources import list_pictures

    data = tmp_path / "data"
    photo(data / "a.png", 3, 4)
    draw(data / "references" / "carl" / "0.png", [(40, 40, 20, skin(4))], (80, 80))
    row = {"file_name": "a.png", "identity_1": "ben", "identity_2": "carl"}
    if ending == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist([row]), data / "metadata.parquet")
    else:
        rows = json.dumps(row) if ending == "jsonl" else ",".join(row) + "\n" + ",".join(row.values())
        (data / f"metadata.{ending}").write_text(rows)
    pictures, _ = list_pictures(Source(str(data)))
    chosen, by_mention = Identities([Source(str(data))], pictures).choose(pictures[0], 2, "0")
    assert [[one.name for one in photos] for photos in chosen] == [[], ["carl/0.png"]]
    assert by_mention


def test_references_of_nobody_on_the_pictures_are_named(tmp_path, capsys):
    photo(tmp_path / "data" / "a.png", 3, 4)
    draw(tmp_path / "data" / "references" / "carl" / "0.png", [(40, 40, 20, skin(4))], (80, 80))
    told = describe(settings_for(tmp_path / "data", tmp_path / "out"))
    assert "0 people with photos beside the picture" in told
    assert "photos of carl in references/ are not used" in told
    made(tmp_path / "data", tmp_path / "out")
    assert "photos of carl in references/ are not used" in capsys.readouterr().out


def test_the_pictures_of_a_couples_folder_are_photos_of_each_other(tmp_path):
    data = couples(tmp_path / "data", 2)
    assert "4 people with photos beside the picture" in describe(
        settings_for(data, tmp_path / "x", references__couple_folders=True)
    )
    made(data, tmp_path / "out", references__couple_folders=True)
    assert report_of(tmp_path / "out")["people_with_paired_photos"] == 12
    for _, tensors in samples(tmp_path / "out").values():
        for person in (1, 2):
            assert len(likeness(tensors, person)) == 2
            assert min(likeness(tensors, person)) > 0.7


def test_a_photo_that_is_as_much_like_one_as_like_the_other_is_left_out(tmp_path):
    photo(tmp_path / "data" / "a.png", 3, 4, 0)
    photo(tmp_path / "data" / "b.png", 5, 6, 1)
    from support.skin_faces import SkinFaces

    class Blind(SkinFaces):
        def identity(self, image, face, swap_channels=False):
            own = np.zeros(512, np.float32)
            own[int(face.center[0]) > 60] = 1
            return own if image[5, 5, 0] == first else np.full(512, 512**-0.5, np.float32)

    first = int(np.asarray(Image.open(tmp_path / "data" / "a.png"))[5, 5, 0])
    settings = settings_for(tmp_path / "data", tmp_path / "out", references__couple_folders=True)
    settings.faces.same_person = 2.0
    prepare(settings, encoders(), Blind())
    ((noted, *_),) = [
        one["notes"] for one in report_of(tmp_path / "out")["noted_pictures"] if one["picture"] == "a.png"
    ]
    assert "one way round as the other" in noted


def test_people_on_several_pictures_are_proposed_and_used_on_request(tmp_path):
    data = couples(tmp_path / "data")
    photo(data / "alone.png", 21, 22, 99)
    told = made(data, tmp_path / "out")
    proposed = report_of(tmp_path / "out")["people_on_several_pictures"]
    assert sorted(map(len, proposed.values())) == [3] * 8
    assert "alone.png" not in str(proposed)
    assert "The same people: 8 seem to be on several pictures" in told
    assert report_of(tmp_path / "out")["people_with_paired_photos"] == 0
    assert Image.open(tmp_path / "out" / "people.png").size == (3 * 96, 8 * 116)

    made(data, tmp_path / "again", identities=str(tmp_path / "out" / "people.csv"))
    assert report_of(tmp_path / "again")["people_with_paired_photos"] == 24
    for found, tensors in samples(tmp_path / "again").values():
        if found["picture"] != "alone.png":
            assert min(likeness(tensors, 1) + likeness(tensors, 2)) > 0.7
    assert not (tmp_path / "again" / "people.csv").exists()


def test_rows_of_identities_that_fit_no_picture_are_noted(tmp_path):
    photo(tmp_path / "data" / "a.png", 3, 4)
    (tmp_path / "who.csv").write_text("file_name,identity_1,identity_2\ngone.png,ben,carl\n")
    made(tmp_path / "data", tmp_path / "out", identities=str(tmp_path / "who.csv"))
    assert any("gone.png" in note and "line 2" in note for note in report_of(tmp_path / "out")["notes"])
    with refused("captions-not-readable", "none.csv", error=TrainingError):
        made(tmp_path / "data", tmp_path / "x", identities=str(tmp_path / "none.csv"))


def test_faces_of_one_person_are_one_group_and_two_on_one_picture_never():
    random = np.random.default_rng(0)
    people = random.normal(size=(6, 64)).astype(np.float32)
    faces = np.stack([people[[couple * 2, couple * 2 + 1]] for couple in (0, 1, 0, 2, 1)])
    faces += 0.3 * random.normal(size=faces.shape).astype(np.float32)
    faces /= np.linalg.norm(faces, axis=-1, keepdims=True)
    assert cluster_faces(faces, 0.5).tolist() == [[0, 1], [2, 3], [0, 1], [4, 5], [2, 3]]
    faces[:, 1] = faces[:, 0]  # a mirror in each picture
    assert all(first != second for first, second in cluster_faces(faces, 0.5))
    assert cluster_faces(faces[:0], 0.5).shape == (0, 2)


def test_copies_are_found_in_other_sizes_and_as_jpeg(tmp_path):
    random = np.random.default_rng(0)
    shots = []
    for _ in range(3):
        coarse = Image.fromarray(random.integers(0, 255, (6, 8, 3)).astype(np.uint8))
        shots.append(coarse.resize((320, 240), Image.Resampling.BICUBIC))
    shots[0].resize((200, 150)).save(tmp_path / "copy.jpg", quality=40)
    copy = Image.open(tmp_path / "copy.jpg").convert("RGB")
    hashes = [picture_hash(np.asarray(image)) for image in (*shots, copy)]
    assert near_duplicates(hashes) == [(0, 3)]
    assert near_duplicates([hashes[3]], hashes[:3]) == [(0, 0)]
    assert near_duplicates([b"", b""]) == []


def test_duplicates_and_missing_captions_are_counted(tmp_path):
    photo(tmp_path / "data" / "a.png", 3, 4, 0)
    photo(tmp_path / "data" / "b.png", 3, 4, 0)
    photo(tmp_path / "data" / "c.png", 5, 6, 7, text="")
    told = made(tmp_path / "data", tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert ["a.png", "b.png"] in report["near_duplicates"]
    assert report["without_caption"] == ["c.png"]
    assert "Without a caption: 1 of the 3" in told
    assert "Near duplicates: " in told
    assert "- a.png and b.png" in (tmp_path / "out" / "report.md").read_text()


def held_out(out):
    return set(report_of(out)["held_out"])


def test_validation_is_split_by_person(tmp_path):
    data = couples(tmp_path / "data", 5)
    photo(data / "bridge.png", 0, 2, 50)  # one of the first couple and one of the second: they stay together
    told = made(data, tmp_path / "out", validation=0.2)
    held = held_out(tmp_path / "out")
    assert "Held out for validation: 3 of the 16 samples" in told
    assert "--data.validation+" in told
    (folder,) = {str(Path(name).parent) for name in held}
    assert folder in ("couple2", "couple3", "couple4")

    for part, count in (("train", 13), ("validation", 3)):
        (dataset,), _ = open_datasets([FolderConfig(str(tmp_path / "out"))], part)
        read = {told["picture"] for shard in range(len(dataset.shards)) for _, _, told, _ in dataset.read(shard)}
        assert dataset.samples == len(read) == count
        assert (read == held) if part == "validation" else not read & held
    (dataset,), _ = open_datasets([FolderConfig(str(tmp_path / "out"), part="all")])
    assert dataset.samples == 16


def test_the_split_can_be_changed_and_stays_as_it_is_otherwise(tmp_path):
    data, out = couples(tmp_path / "data"), tmp_path / "out"
    made(data, out)
    shards = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert not held_out(out)
    merge_slices(PrepareSettings(merge=str(out), validation=0.3))
    held = held_out(out)
    assert len(held) == 3
    merge_slices(PrepareSettings(merge=str(out)))
    assert held_out(out) == held
    merge_slices(PrepareSettings(merge=str(out), validation=0.0))
    assert not held_out(out)
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == shards
    with refused("setting-out-of-range", "validation is 0.9", error=TrainingError):
        merge_slices(PrepareSettings(merge=str(out), validation=0.9))


def test_one_couple_cannot_be_split_and_is_told_so(tmp_path):
    told = made(couples(tmp_path / "data", 1), tmp_path / "out", validation=0.3)
    assert "nothing, because all pictures show people who are on the others, too" in told
    with refused("no-samples-of-this-part", str(tmp_path / "out"), "--validation", error=TrainingError):
        open_datasets([FolderConfig(str(tmp_path / "out"), part="validation")], "validation")


def test_shards_of_an_earlier_version_are_merged_but_not_split(tmp_path):
    made(couples(tmp_path / "data", 2, 2), tmp_path / "out", shard_size=8)
    path = tmp_path / "out" / "journal" / "000000.json"
    journal = json.loads(path.read_text())
    for fact in journal["facts"]:  # as 0.1.0 wrote it
        for name in ("faces", "looks", "captioned"):
            del fact[name]
        for person in fact["people"]:
            del person["identity"]
    path.write_text(json.dumps(journal))
    assert "4 samples from 4 pictures" in merge_slices(PrepareSettings(merge=str(tmp_path / "out")))
    assert not (tmp_path / "out" / "people.safetensors").exists()
    with refused("faces-not-kept", "before 0.2", error=TrainingError):
        merge_slices(PrepareSettings(merge=str(tmp_path / "out"), validation=0.3))


def notes_of(folders, validation=(), paired=0.5, steps=10):
    from training.data.config import AugmentConfig, DataConfig
    from training.run.config import TrainConfig
    from training.run.data_notes import data_notes

    data = DataConfig([FolderConfig(str(one)) for one in folders], [FolderConfig(str(one)) for one in validation])
    config = TrainConfig(data=data, augment=AugmentConfig(paired=paired), steps=steps)
    opened = open_datasets(data.folders)[0], open_datasets(data.validation, "validation")[0] if validation else []
    return data_notes(config, *opened)


def test_a_run_says_when_its_data_teach_copying_or_hold_the_same_people(tmp_path):
    data = couples(tmp_path / "data", 4)
    made(data, tmp_path / "alone")
    made(data, tmp_path / "paired", references__couple_folders=True, validation=0.4)
    photo(tmp_path / "other" / "x.png", 0, 30, 77)
    made(tmp_path / "other", tmp_path / "held")

    (note,) = notes_of([tmp_path / "alone"])
    assert "augment.paired is 0.5, but nobody in the data has another photo" in note
    assert notes_of([tmp_path / "alone"], paired=0.0) == []
    assert notes_of([tmp_path / "paired"], [tmp_path / "paired"]) == []
    assert "is trained on and validated on" in notes_of([tmp_path / "alone"], [tmp_path / "alone"], 0.0)[0]
    note = notes_of([tmp_path / "alone"], [tmp_path / "held"], 0.0)[-1]
    assert "1 face of" in note
    assert "x.png and couple0/" in note
    assert "go 667 times through 12 samples" in notes_of([tmp_path / "alone"], paired=0.0, steps=1000)[0]
