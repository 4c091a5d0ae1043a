"""`python -m dhumandiff generate`: everything it refuses, with what to do, before a model is loaded where that can be."""

import os
import sys
import tempfile

import pytest
from PIL import Image
from support.generate_command import command_line, half_mask, make_photos, run

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")
pytest.importorskip("cv2", reason="photo quality is measured with OpenCV: pip install opencv-python-headless")

from dhumandiff import testing as tiny


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def arguments(photos, tmp_path):
    return command_line(photos, tmp_path)


def refused(arguments, capsys):
    """What the command says when it refuses."""
    assert run(arguments) == 1
    out = capsys.readouterr()
    last = out.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in out.err
    return last


@pytest.fixture
def nothing_heavy(monkeypatch):
    """Fails the test when a model is loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded before the refusal")

    for name in ("tiny_adapter", "tiny_vision", "tiny_unet", "tiny_text_encoders", "tiny_vae"):
        monkeypatch.setattr(tiny, name, load)


def bad_mask(folder, kind):
    """A file that is no mask."""
    path = folder / "mask.png"
    if kind == "text":
        path.write_text("white")
    elif kind == "square":
        half_mask(path, (64, 64))
    elif kind == "coloured":
        Image.new("RGB", (64, 96), "red").save(path)
    elif kind == "black":
        Image.new("L", (64, 96)).save(path)
    elif kind == "transparent":
        Image.new("LA", (64, 96), (255, 0)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("text", "is not a picture that can be read"),
        ("square", "mask is 64 x 64, but the picture is 64 x 96"),
        ("coloured", "it has colours. A mask is greyscale"),
        ("black", "black all over"),
        ("transparent", "parts of it are transparent"),
    ],
)
def test_a_bad_mask_is_refused_with_its_name(arguments, nothing_heavy, capsys, tmp_path, kind, message):
    path = bad_mask(tmp_path, kind)
    said = refused({**arguments, "--mask-2": [path]}, capsys)
    assert said.startswith(f"error: The mask {path} cannot be used: ")
    assert message in said


@pytest.mark.usefixtures("nothing_heavy")
@pytest.mark.parametrize("way", ["same", "dots", "link"])
@pytest.mark.parametrize("option", ["--person-2", "--mask-1", "--focus"])
def test_an_output_never_overwrites_an_input(arguments, tmp_path, capsys, option, way):
    photo = half_mask(tmp_path / "anna.png")
    before = photo.read_bytes()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to(photo)
    out = {"same": photo, "dots": tmp_path / "sub" / ".." / "anna.png", "link": tmp_path / "link.png"}[way]
    assert "would overwrite" in refused({**arguments, option: [photo], "--out": [out]}, capsys)
    assert "would overwrite" in refused({**arguments, option: [photo], "--focus-out": [out]}, capsys)
    assert photo.read_bytes() == before


@pytest.mark.usefixtures("nothing_heavy")
def test_two_outputs_never_are_one_file(arguments, tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    again = tmp_path / "sub" / ".." / "portrait.png"
    assert "--out and --focus-out are both" in refused({**arguments, "--focus-out": [again]}, capsys)
    saved = {"--save-reference-1": [tmp_path / "p.safetensors"]}
    saved["--save-reference-2"] = [tmp_path / "sub" / ".." / "p.safetensors"]
    assert "choose another name" in refused({**arguments, **saved}, capsys)


@pytest.mark.usefixtures("nothing_heavy")
def test_a_picture_never_takes_the_place_of_something_else(arguments, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("important")
    assert "it holds something else" in refused({**arguments, "--out": [tmp_path / "notes.png"]}, capsys)
    assert (tmp_path / "notes.png").read_text() == "important"


@pytest.mark.parametrize("option", ["--which-face-2", "--save-reference-2", "--strength-2", "--mask-2"])
def test_options_about_a_person_who_is_not_there_are_refused(arguments, nothing_heavy, capsys, option):
    del arguments["--person-2"]
    arguments["--prompt"] = ["a man@1"]
    said = refused({**arguments, option: [0]}, capsys)
    assert f"{option} needs two people, but only one is given. Add --person-2" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("anna.png", "choose a name that ends in .safetensors"),
        ("anna.SAFETENSORS", "choose a name that ends in .safetensors"),
        ("missing/anna.safetensors", "does not exist. Make it"),
        ("folder.safetensors", "it is a folder"),
        ("weights.safetensors", "it exists and holds something else. Choose another name"),
    ],
)
def test_a_file_that_cannot_keep_a_person_is_refused(arguments, nothing_heavy, capsys, tmp_path, name, message):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "weights.safetensors").write_bytes(b"somebody's work")
    said = refused({**arguments, "--save-reference-1": [tmp_path / name]}, capsys)
    assert f"The reference cannot be written to {tmp_path / name}" in said
    assert message in said
    assert (tmp_path / "weights.safetensors").read_bytes() == b"somebody's work"


def test_two_people_are_not_kept_in_one_file(arguments, nothing_heavy, capsys, tmp_path):
    one = [tmp_path / "one.safetensors"]
    assert "choose another name" in refused({**arguments, "--save-reference-1": one, "--save-reference-2": one}, capsys)


def test_a_face_is_not_chosen_in_a_saved_reference(arguments, nothing_heavy, capsys):
    change = {"--person-1": ["anna.safetensors"], "--which-face-1": ["0"]}
    assert "--which-face-1 is for photos, but anna.safetensors is one" in refused({**arguments, **change}, capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--size": ["500x500"]}, "500 x 500 cannot be made"),
        ({"--size": ["512"]}, "--size '512' is not clear: write width x height"),
        ({"--size": ["0x512"]}, "0 x 512 cannot be made"),
        ({"--seed": [2**64]}, f"seed is {2**64}; it lies between 0 and"),
        ({"--steps": [0]}, "0 steps make no picture"),
        ({"--cfg": [0]}, "cfg is 0.0; it lies between 1 and 100"),
        ({"--mode": ["fast"]}, "not 'fast'"),
        ({"--scene-strength": [4]}, "scene strength is 4.0"),
        ({"--face-strength": [-1]}, "face strength is -1.0"),
        ({"--focus-share": [2]}, "focus share is 2.0"),
        ({"--strength": ["nan"]}, "strength is nan"),
        ({"--strength-2": ["9"]}, "strength of person 2 is 9.0"),
        ({"--start": [0.6], "--end": [0.4]}, "start at 0.6 and end at 0.4 of sampling"),
        ({"--mode": ["released"], "--end": [0.8]}, "do not act in the last step"),
        ({"--mode": ["released"], "--strength-1": [0], "--strength-2": [0]}, "All person strengths are 0"),
        ({"--mode": ["released"], "--scene-strength": [0]}, "The scene strength is 0."),
        ({"--device": ["tpu"]}, "device 'tpu' is not available"),
        ({"--prompt": ["a man@3 and a woman@2"]}, "names person 3"),
        ({"--prompt": [" "]}, "prompt is empty"),
        ({"--base": ["nowhere"]}, "There is no base nowhere"),
        ({"--person-1": ["nobody.jpg"]}, "nobody.jpg does not exist"),
        ({"--person-1": ["nobody.safetensors"]}, "no reference file nobody.safetensors"),
        ({"--person-1": ["a.safetensors", "b.jpg"]}, "one person already"),
    ],
)
def test_bad_input_is_refused_before_anything_heavy_loads(arguments, nothing_heavy, capsys, change, message):
    assert message in refused({**arguments, **change}, capsys)
    assert not arguments["--out"][0].exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("portrait.jpg", "choose a name that ends in .png"),
        ("missing/portrait.png", "does not exist. Make it"),
        ("folder.png", "it is a folder"),
    ],
)
def test_an_unwritable_out_is_refused_before_anything_heavy_loads(
    arguments, nothing_heavy, capsys, tmp_path, name, message
):
    (tmp_path / "folder.png").mkdir()
    assert message in refused({**arguments, "--out": [tmp_path / name]}, capsys)
    assert message in refused({**arguments, "--focus-out": [tmp_path / name]}, capsys)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_leave_to_write_is_refused(arguments, nothing_heavy, capsys, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "Permission denied" in refused({**arguments, "--out": [locked / "portrait.png"]}, capsys)


def test_a_disk_that_says_no_is_told_before_anything_heavy_loads(arguments, nothing_heavy, capsys, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert "No space left on device. Choose a folder" in refused(arguments, capsys)


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(arguments, tmp_path, capsys, monkeypatch):
    run(arguments)
    before = (tmp_path / "portrait.png").read_bytes()
    save = Image.Image.save

    def half(self, path, *args, **kwargs):
        save(self, path, *args, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    assert "cannot be written" in refused({**arguments, "--seed": [1]}, capsys)
    assert (tmp_path / "portrait.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["portrait.png"]


def test_the_focus_mask_is_refused_where_there_is_none(arguments, nothing_heavy, capsys, tmp_path):
    focus = {"--focus-out": [tmp_path / "focus.png"]}
    assert "mode none has no focus mask" in refused({**arguments, **focus, "--mode": ["none"]}, capsys)
    assert "are both" in refused({**arguments, "--focus-out": arguments["--out"]}, capsys)


def test_swapping_one_person_is_refused(arguments, nothing_heavy, capsys):
    del arguments["--person-2"]
    arguments["--prompt"] = ["a man@1"]
    assert "--swap needs two people" in refused({**arguments, "--swap": []}, capsys)


@pytest.mark.parametrize("which", ["5", "middle"])
def test_a_face_that_is_not_there_is_refused_with_the_photo_s_name(arguments, capsys, which):
    said = refused({**arguments, "--which-face": [which]}, capsys)
    assert "a.png" in said
    assert which in said


@pytest.mark.parametrize("name", ["diffusers", "transformers"])
def test_a_missing_package_is_told_with_its_pip_line(arguments, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert "pip install diffusers transformers accelerate" in refused(arguments, capsys)


def test_without_weights_it_says_how_to_get_them(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dhumandiff.hosts.diffusers.loading.check_base", lambda *_: None)
    assert "python -m dhumandiff download" in refused({**arguments, "--base": ["sdxl"]}, capsys)


@pytest.mark.usefixtures("nothing_heavy")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--out", "x" * 250 + ".png", "the name is too long"),
        ("--out", "図" * 80 + ".png", "the name is too long"),
        ("--out", "x" * 250 + "/y.png", "does not exist"),
        ("--out", "~nobody-of-this-name/x.png", "does not exist"),
        ("--focus-out", "x" * 250 + ".png", "the name is too long"),
        ("--save-reference-1", "x" * 250 + ".safetensors", "the name is too long"),
        ("--person-1", "x" * 300 + ".png", "does not exist"),
        ("--person-1", "~nobody-of-this-name/x.png", "does not exist"),
        ("--mask-1", "x" * 300 + ".png", "does not exist"),
        ("--size", "1000000x1000000", "larger than any computer draws"),
        ("--size", "9" * 5000 + "x64", "is not clear"),
        ("--steps", 10**9, "1000000000 steps are too many"),
        ("--prompt", "A man@1 \udcff and a woman@2", "another encoding"),
        ("--negative", "bad \udcff", "Character 5 of --negative"),
        ("--base", "x" * 300, "the name is too long"),
        ("--base", "~nobody-of-this-name/x", "stable-diffusion-xl-base"),
        ("--provider", "GPU", 'no provider "GPU"'),
    ],
    ids=lambda value: str(value)[:24].encode("ascii", "replace").decode(),
)
def test_odd_names_sizes_and_words_are_refused(arguments, capsys, option, value, message):
    """No traceback, no hour of work, and no memory until the system ends it."""
    assert message in refused({**arguments, option: [value]}, capsys)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--face-pack", "x" * 300, "the name is too long"),
        ("--face-pack", "~nobody-of-this-name/x", "There is no face model pack"),
        ("--image-encoder", "x" * 300, "the name is too long"),
        ("--adapter", "x" * 300, "there is no such file"),
        ("--which-face", "9" * 5000, "Which face is meant"),
    ],
)
def test_odd_names_that_are_looked_at_later_are_refused(arguments, capsys, option, value, message):
    assert message in refused({**arguments, option: [value]}, capsys)
