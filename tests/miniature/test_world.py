"""The drawn world: who people are, what pictures, masks, sentences and files say about them."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.refused import refused

from dhumandiff.errors import ImageError
from dhumandiff.faces.face import Face
from dhumandiff.faces.geometry import crop_face
from dhumandiff.miniature.design import DESIGN
from dhumandiff.miniature.world import (
    ACTIONS,
    APART,
    SCENE_WORDS,
    SPLITS,
    Figure,
    Outfit,
    Script,
    distance,
    draw_figures,
    draw_reference,
    features,
    people,
    sample_couple,
    sample_identity,
    sample_pair,
    sample_script,
    write_caption,
    write_dataset,
)
from dhumandiff.miniature.world.__main__ import main
from dhumandiff.miniature.world.caption import looks_of
from dhumandiff.miniature.world.identity import STYLES
from dhumandiff.miniature.world.looks import LOOKS
from dhumandiff.prompts import parse_prompt

HASH = """
import hashlib, json
from dhumandiff.miniature.world import sample_pair
sample = sample_pair(11)
pixels = sample.picture.tobytes() + sample.references[1][0].picture.tobytes() + sample.people[0].mask.tobytes()
print(hashlib.sha256(pixels + json.dumps(sample.annotation).encode()).hexdigest())
"""


def figures(seed=0, **changes):
    left, right = sample_identity(2 * seed), sample_identity(2 * seed + 1)
    plain = [Figure(left, Outfit("shirt", "red")), Figure(right, Outfit("hoodie", "blue"))]
    return [dataclasses.replace(figure, **changes) for figure in plain]


def test_a_seed_gives_the_same_sample_in_another_process():
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    run = [sys.executable, "-c", HASH]
    told = subprocess.run(run, capture_output=True, text=True, check=True, env=env).stdout.strip()
    sample = sample_pair(11)
    pixels = sample.picture.tobytes() + sample.references[1][0].picture.tobytes() + sample.people[0].mask.tobytes()
    assert hashlib.sha256(pixels + json.dumps(sample.annotation).encode()).hexdigest() == told


def test_the_world_loads_no_optional_package():
    code = "import sys, dhumandiff; before = set(sys.modules); import dhumandiff.miniature.world.read; " + (
        "print(sorted(n for n in set(sys.modules) - before if n.split('.')[0] in ('cv2', 'diffusers', 'transformers')))"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout.strip() == "[]"


def test_one_seed_is_one_person():
    """Of the gender that is asked for."""
    who = sample_identity(123)
    assert who == sample_identity(123) == sample_identity(123, who.gender)
    assert distance(who, sample_identity(123)) == 0
    other = sample_identity(123, "man" if who.gender == "woman" else "woman")
    assert other.gender != who.gender
    assert other.name != who.name
    assert distance(who, other) > 0


def test_thousands_of_people_are_all_apart():
    pool = people("train", 2500)
    assert len({who.name for who in pool}) == 2500
    vectors = np.stack([features(who) for who in pool])
    for i in range(0, 2500, 50):
        apart = np.linalg.norm(vectors - vectors[i], axis=1)
        apart[i] = np.inf
        assert apart.min() >= APART
    assert {who.hair_style for who in pool} == set(STYLES)
    assert {who.age for who in pool} == {"child", "young", "middle", "old"}
    assert 0.4 < np.mean([who.gender == "woman" for who in pool]) < 0.6
    assert not any(who.beard != "none" for who in pool if who.gender == "woman" or who.age == "child")


def test_splits_share_no_seed_and_no_person():
    seeds = [set(split) for split in SPLITS.values()]
    assert sum(map(len, seeds)) == len(set().union(*seeds))
    names = [who.name for split in SPLITS for who in people(split, 150)]
    assert len(names) == len(set(names))
    assert all(who.seed in SPLITS["test"] for who in people("test", 50))


def test_wrong_people_are_refused_with_what_to_do(monkeypatch):
    with refused("drawn-seed-not-whole", "-1"):
        sample_identity(-1)
    with refused("unknown-gender", "'boy'"):
        sample_identity(1, "boy")
    with refused("unknown-split", "'dev'", "train, recogniser, judge, test"):
        people("dev", 3)
    monkeypatch.setitem(SPLITS, "test", range(300_000, 300_005))
    with refused("too-many-drawn-people", "5", "6"):
        people("test", 6, apart=0)
    with refused("same-person-twice", "000004"):
        sample_script(0, (sample_identity(4), sample_identity(4)))
    with refused("pool-too-small"):
        sample_couple(0, [sample_identity(4)])


def test_what_cannot_be_drawn_is_refused_with_what_there_is():
    with refused("unknown-garment", "'kilt'", "dress, shirt"):
        Outfit("kilt", "red")
    with refused("unknown-color", "'mauve'", "red, yellow"):
        Outfit("shirt", "mauve")
    with refused("unknown-action", "'juggling'", "arms down"):
        figures(action="juggling")
    with refused("unknown-scene", "'moon'", "beach"):
        draw_figures((), "moon", 0)
    with refused("drawn-size-out-of-range", "8 x 96", error=ImageError):
        draw_figures((), "beach", 0, size=(8, 96))
    with refused("too-many-people", "3", error=ImageError):
        draw_figures([*figures(), figures()[0]], "beach", 0)
    with refused("drawn-size-out-of-range", "not 4", error=ImageError):
        draw_reference(sample_identity(0), 0, 4)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("size", [(128, 96), (96, 128), (256, 96)])
def test_masks_are_disjoint_and_cover_what_is_drawn_of_people(action, size):
    drawn = draw_figures(figures(3, action=action), "forest", 5, size=size)
    empty = draw_figures((), "forest", 5, size=size)
    left, right = (person.mask for person in drawn.people)
    assert left.shape == right.shape == size[::-1]
    assert not (left & right).any()
    painted = np.abs(drawn.picture.astype(int) - empty.picture).sum(-1) > 90
    both = left | right
    assert (painted & ~_grown(both)).sum() == 0  # nothing of a person outside
    assert (painted & both).sum() > 0.9 * both.sum()  # clothes as green as the wood are rare
    assert left[:, : size[0] // 2].sum() > left[:, size[0] // 2 :].sum()
    assert right[:, size[0] // 2 :].sum() > right[:, : size[0] // 2].sum()


def _grown(mask):
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    return np.any([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)


@pytest.mark.parametrize("seed", range(12))
def test_faces_lie_inside_the_picture(seed):
    """And their landmarks inside the face."""
    sample = sample_pair(seed, references=0)
    for person in sample.people:
        x0, y0, x1, y1 = person.face_box
        assert 0 <= x0 < x1 <= 128
        assert 0 <= y0 < y1 <= 96
        assert 26 <= y1 - y0 <= 41  # as large as fits
        left, right, nose, *mouth = person.landmarks
        assert left[0] < right[0]
        assert mouth[0][0] < mouth[1][0]
        assert max(left[1], right[1]) < nose[1] < min(point[1] for point in mouth)
        assert all(x0 < x < x1 and y0 < y < y1 for x, y in person.landmarks)
        x, y = nose.round().astype(int)
        assert person.mask[y, x]
        box = person.box
        assert 0 <= box[0] < box[2] <= 128
        assert 0 <= box[1] < box[3] <= 96
    first, second = (person.face_box[0] for person in sample.people)
    assert (first < second) == sample.script.first_is_left


@pytest.mark.parametrize("size", [64, 96, 128])
def test_references_have_the_geometry_of_the_released_ones(size):
    for seed in range(10):
        drawn = draw_reference(sample_identity(seed), seed, size)
        (person,) = drawn.people
        x0, y0, x1, y1 = person.face_box / size
        assert drawn.picture.shape == (size, size, 3)
        assert 0.58 <= ((x1 - x0) * (y1 - y0)) ** 0.5 <= 0.66
        assert 0.64 <= (y0 + y1) / 2 <= 0.69
        assert 0.49 <= (x0 + x1) / 2 <= 0.52
        # The library's own crop is nearly the whole photo again.
        crop, _, _ = crop_face(drawn.picture, Face(person.face_box, person.landmarks), size)
        assert np.abs(crop.astype(int) - drawn.picture).mean() < 30


def test_captions_name_both_people():
    """As the library reads them without marks."""
    for seed in range(400):
        script = sample_script(seed, (sample_identity(2 * seed), sample_identity(2 * seed + 1)))
        marked, prompt = write_caption(script, seed)
        assert parse_prompt(marked, mentions="all") == prompt
        firsts = [next(m for m in prompt.mentions if m.person == person) for person in (1, 2)]
        assert firsts[0].start < firsts[1].start
        assert list(parse_prompt(prompt.text).mentions) == firsts
        for k, outfit in enumerate(script.outfits):
            assert f"{outfit.color} {outfit.garment}" in prompt.text or f", the {firsts[k].word}" in prompt.text
            assert f"on the {script.side(k)}" in prompt.text.lower()
            assert outfit.color in prompt.text
        assert any(words in prompt.text.lower() for words in SCENE_WORDS[script.scene])
        assert script.outfits[0].color != script.outfits[1].color


def test_captions_never_describe_a_face():
    looks = ["hair", "beard", "glasses", "blond", "skin", "eyes", "old", "young", "bald", "curly", "moustache"]
    for seed in range(300):
        script = sample_script(seed, (sample_identity(2 * seed), sample_identity(2 * seed + 1)))
        words = {word.strip(".,:").lower() for word in write_caption(script, seed)[1].text.split()}
        assert not words & set(looks)


def test_captions_fit_into_one_chunk_of_clip():
    pytest.importorskip("transformers")
    from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer

    tokenizer = sdxl_tokenizer()
    for seed in range(300):
        script = sample_script(seed, (sample_identity(2 * seed), sample_identity(2 * seed + 1)))
        for looks in (False, True):
            assert len(tokenizer(write_caption(script, seed, looks)[1].text).input_ids) <= 77


def test_captions_for_the_base_describe_people():
    """In their place in the sentence."""
    said = dict.fromkeys(LOOKS, 0)
    for seed in range(200):
        script = sample_script(seed, (sample_identity(2 * seed), sample_identity(2 * seed + 1)))
        marked, prompt = write_caption(script, seed, looks=True)
        for k, (who, look) in enumerate(zip(script.people, looks_of(script, seed), strict=True), 1):
            words = filter(None, (re.escape(look.before), rf"\w+@{k}", re.escape(look.after)))
            assert re.search(" ".join(words), marked)
            own = {"age": who.age, "style": who.hair_style, "hair": who.hair_color, "glasses": who.glasses}
            own |= {"frame": who.frame_color, "beard": who.beard, "headband": who.headband}
            own |= {"skin": ("pale", "light", "tan", "brown", "dark")[int(who.skin * 5)]}
            assert look.said.items() <= own.items()
            for name in look.said:
                said[name] += 1
        assert {mention.person for mention in prompt.mentions} == {1, 2}
    assert min(said.values()) >= 20


@pytest.mark.parametrize("seed", range(25))
def test_annotations_are_pairhumans_and_point_at_the_words(seed):
    sample = sample_pair(seed, references=0)
    data = json.loads(json.dumps(sample.annotation))
    assert set(data) == {"Information", "image_caption", "people", "objects", "dhumandiff"}
    assert (data["Information"]["height"], data["Information"]["width"]) == (96, 128)
    caption = data["image_caption"]
    assert caption["text"] == sample.caption == " ".join(part["sentence"] for part in caption["match_info"])
    named = []
    for number, part in enumerate(caption["match_info"], 1):
        assert part["sentence_ID"] == number
        for entry in part["person_info"]:
            assert part["sentence"][entry["start_idx"] : entry["end_idx"]] == entry["words"]
            named.append(entry["object_id"])
    assert set(named) == {1, 2}
    assert named[0] == 1
    for k, (person, portrait) in enumerate(zip(data["people"], sample.people, strict=True), 1):
        assert person["object_id"] == k
        assert person["unique_coordinate"] == list(portrait.box)
        assert person["gender"] in ("female", "male")
        assert sample.script.outfits[k - 1].color in person["details_of_clothes_and_shoes"]
        assert len(person["keypoints"]) == 17
        assert all(0 <= x < 128 and 0 <= y < 96 for x, y, sure in person["keypoints"] if sure)
        assert person["identity"] == sample.script.people[k - 1].name
    for own, portrait in zip(data["dhumandiff"]["people"], sample.people, strict=True):
        assert np.allclose(own["face_box"], portrait.face_box, atol=0.01)
        assert np.shape(own["landmarks"]) == (5, 2)


def test_brides_wear_white_beside_a_groom():
    woman = next(who for who in map(sample_identity, range(99)) if who.gender == "woman" and who.age == "young")
    man = next(who for who in map(sample_identity, range(99)) if who.gender == "man" and who.age == "young")
    wedding = Script(
        (woman, man), (Outfit("dress", "white"), Outfit("suit", "black")), ("arms down",) * 2, "beach", True
    )
    told = {write_caption(wedding, seed)[1].text for seed in range(30)}
    assert any("bride" in text and "groom" in text for text in told)
    plain = dataclasses.replace(wedding, outfits=(Outfit("dress", "red"), Outfit("suit", "black")))
    assert not any("bride" in write_caption(plain, seed)[1].text for seed in range(30))


def test_a_dataset_is_written_as_files_that_belong_together(tmp_path):
    pool = people("train", 6)
    assert write_dataset(tmp_path, range(5), pool, references=2, reference_size=64) == 5
    names = [path.stem for path in sorted((tmp_path / "images").iterdir())]
    assert names == [f"{seed:08d}" for seed in range(5)]
    for name in names:
        picture = np.array(Image.open(tmp_path / "images" / f"{name}.png"))
        data = json.loads((tmp_path / "annotations" / f"{name}.json").read_text(encoding="utf-8"))
        masks = [np.array(Image.open(tmp_path / "masks" / f"{name}_{k}.png")) for k in (1, 2)]
        assert picture.shape == (data["Information"]["height"], data["Information"]["width"], 3)
        assert not (masks[0] & masks[1]).any()
        for person, mask in zip(data["people"], masks, strict=True):
            x0, y0, x1, y1 = person["unique_coordinate"]
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            photos = sorted((tmp_path / "references" / person["identity"]).iterdir())
            assert [photo.name for photo in photos] == ["0.png", "1.png"]
            assert Image.open(photos[0]).size == (64, 64)


def test_the_sheet_is_drawn_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["--out", str(out), "--people", "3", "--pairs", "2", "--zoom", "1", "--boxes"]) == 0
    assert Image.open(out).width > 128
    assert "3 people, 2 pairs" in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "no" / "folder.png"), "--people", "1", "--pairs", "0"]) == 1
    assert "could not be drawn" in capsys.readouterr().err


def test_an_album_is_what_people_have_a_folder_a_couple_with_captions(tmp_path, capsys):
    assert main(["--album", str(tmp_path / "photos"), "--couples", "2", "--each", "3"]) == 0
    assert "6 pictures of 2 couples" in capsys.readouterr().out
    files = sorted(path.relative_to(tmp_path / "photos").as_posix() for path in (tmp_path / "photos").rglob("*.*"))
    names = [f"couple_{couple:02d}/{number}" for couple in (1, 2) for number in (1, 2, 3)]
    assert files == sorted(f"{name}.{ending}" for name in names for ending in ("png", "txt"))
    assert {Image.open(tmp_path / "photos" / f"{name}.png").size for name in names} == {DESIGN.size}
    assert len([*(tmp_path / "photos_portraits").glob("couple_0[12]_[12].png")]) == 4
    assert all(read_prompt_people((tmp_path / "photos" / f"{name}.txt").read_text(encoding="utf-8")) for name in names)
    with pytest.raises(SystemExit):
        main([])
    assert "--out sheet.png, or --album photos" in capsys.readouterr().err


def read_prompt_people(text):
    from dhumandiff.prompts import parse_prompt

    return {mention.person for mention in parse_prompt(text, persons=2).mentions} == {1, 2}
