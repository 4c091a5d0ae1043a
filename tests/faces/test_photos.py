"""Photos in every shape they come in."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support.plain_faces import gradient
from support.refused import refused

from dhumandiff.errors import ImageError
from dhumandiff.faces import (
    as_photo,
    load_photo,
    photo_from_tensor,
)


def test_a_plain_photo_keeps_its_pixels(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "plain.png")
    photo = load_photo(tmp_path / "plain.png")
    assert np.array_equal(photo.pixels, gradient())
    assert photo.pixels.dtype == np.uint8
    assert (photo.notes, photo.name) == ((), "plain.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(gradient())
    stored = image.transpose(undo[orientation]) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_photo(tmp_path / "turned.png").pixels, gradient())


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    photo = load_photo(tmp_path / "deep.png")
    assert np.abs(photo.pixels[..., 0].astype(float) - values / 257).max() <= 0.5
    assert "16 bit" in photo.notes[0]


@pytest.mark.parametrize(
    ("top", "dtype", "note"),
    [
        (255, np.int32, "8 bit"),
        (255, np.uint16, "8 bit"),
        (1023, np.uint16, "10 bit"),
        (4095, np.uint16, "12 bit"),
        (4095, np.int32, "12 bit"),
        (65535, np.uint16, "16 bit"),
        (65535, np.int32, "16 bit"),
    ],
)
def test_grey_of_any_depth_is_as_light_as_it_was(tmp_path, top, dtype, note):
    """A TIFF of 16 or 32 bit may hold fewer: what has been taken for white is told."""
    values = np.linspace(0, top, 40 * 60).reshape(40, 60).round().astype(dtype)
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    photo = load_photo(tmp_path / "deep.tiff")
    assert np.abs(photo.pixels[..., 0].astype(float) - values * 255.0 / top).max() <= 0.5
    assert note in photo.notes[0]


def test_sixteen_bit_color_is_scaled(tmp_path):
    cv2 = pytest.importorskip("cv2")
    assert cv2.imwrite(str(tmp_path / "deep.png"), gradient()[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(load_photo(tmp_path / "deep.png").pixels, gradient())


def test_floating_point_grey_is_scaled(tmp_path):
    Image.fromarray(np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)).save(tmp_path / "float.tiff")
    photo = load_photo(tmp_path / "float.tiff")
    assert (photo.pixels.min(), photo.pixels.max()) == (0, 255)
    assert "floating point" in photo.notes[0]


def test_grey_cmyk_and_palette_become_rgb(tmp_path):
    image = Image.fromarray(gradient())
    image.convert("L").save(tmp_path / "grey.jpg")
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    image.quantize(256).save(tmp_path / "palette.png")
    grey, print_, palette = (load_photo(tmp_path / name) for name in ("grey.jpg", "print.jpg", "palette.png"))
    assert "greyscale" in grey.notes[0]
    assert grey.pixels.shape == (40, 60, 3)
    assert "CMYK" in print_.notes[0]
    assert np.abs(print_.pixels.astype(int) - gradient()).mean() < 6
    assert palette.notes == ()
    assert np.abs(palette.pixels.astype(int) - gradient()).mean() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    path = tmp_path / "clear.png"
    black = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    black.paste((0, 0, 0, 0), (0, 0, 4, 4))
    if mode == "P":
        picture = Image.new("P", (8, 4), 1)
        picture.putpalette([9, 9, 9, 0, 0, 0])
        picture.paste(0, (0, 0, 4, 4))
        picture.save(path, transparency=0)
    elif mode == "RGB":
        picture = Image.new("RGB", (8, 4), (0, 0, 0))
        picture.paste((9, 9, 9), (0, 0, 4, 4))
        picture.save(path, transparency=(9, 9, 9))
    else:
        black.convert(mode).save(path)
    photo = load_photo(path)
    assert (photo.pixels[:, :4] == 255).all()
    assert (photo.pixels[:, 4:] == 0).all()
    assert "white" in photo.notes[-1]
    assert ("greyscale" in photo.notes[0]) is (mode == "LA")


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_used(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    path = tmp_path / f"moving.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {}))
    photo = load_photo(path)
    assert tuple(photo.pixels[4, 4]) == (255, 0, 0)
    assert "3 pictures" in photo.notes[0]


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    with refused("photo-missing", "gone.jpg", "does not exist", error=ImageError):
        load_photo(tmp_path / "gone.jpg")
    with refused("photo-missing", "is a folder"):
        load_photo(tmp_path)
    (tmp_path / "text.jpg").write_text("not a picture")
    with refused("photo-of-unknown-format", "text.jpg"):
        load_photo(tmp_path / "text.jpg")
    (tmp_path / "empty.png").write_bytes(b"")
    with refused("photo-of-unknown-format", "empty.png"):
        load_photo(tmp_path / "empty.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for ending in ("png", "jpg", "webp", "tiff"):
        whole = tmp_path / f"whole.{ending}"
        Image.fromarray(noise).save(whole)
        half = tmp_path / f"half.{ending}"
        half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(ImageError, match=rf"half\.{ending}") as damaged:
            load_photo(half)
        assert damaged.value.code in ("photo-damaged", "photo-of-unknown-format")


def test_a_tensor_of_1_3_or_4_channels():
    rgb = torch.from_numpy(gradient()).float() / 255
    assert np.array_equal(photo_from_tensor(rgb).pixels, gradient())
    assert np.array_equal(photo_from_tensor(torch.from_numpy(gradient())).pixels, gradient())
    grey = photo_from_tensor(rgb[..., :1])
    assert grey.pixels.shape == (40, 60, 3)
    assert "greyscale" in grey.notes[0]
    clear = photo_from_tensor(torch.cat([rgb, torch.zeros_like(rgb[..., :1])], dim=-1))
    assert (clear.pixels == 255).all()
    assert "white" in clear.notes[0]
    assert photo_from_tensor(rgb * 1.2).notes == ("values from 0.00 to 1.20 were clipped to 0..1",)


def test_a_tensor_that_is_no_picture_is_refused():
    rgb = torch.rand(8, 8, 3)
    with refused("photo-not-finite", "image 2", error=ImageError):
        photo_from_tensor(torch.where(rgb > 0.5, torch.nan, rgb), "image 2")
    with refused("photo-of-another-scale", "image 2 has values from", "Scale"):
        photo_from_tensor(rgb * 255 + 1, "image 2")
    with refused("photo-of-another-shape", "[8, 8, 2]"):
        photo_from_tensor(rgb[..., :2])
    with refused("photo-of-another-shape", "[1, 8, 8, 3]"):
        photo_from_tensor(rgb[None])
    with refused("photo-of-another-dtype", "int64"):
        photo_from_tensor(torch.zeros(8, 8, 3, dtype=torch.int64))


def test_whatever_a_photo_comes_as_is_read(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    read = load_photo(tmp_path / "a.png")
    assert as_photo(read) is read
    for given in (str(tmp_path / "a.png"), gradient(), torch.from_numpy(gradient())):
        assert np.array_equal(as_photo(given).pixels, gradient())
    with refused("not-a-photo", "image 3 is a int", error=ImageError):
        as_photo(7, "image 3")


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".png", "~nobody-of-this-name/x.png", "a\0b.png", "deep/" * 2000 + "x.png"]
)
def test_a_name_that_no_file_can_have_is_refused(name):
    with refused("photo-missing", "does not exist", error=ImageError):
        load_photo(name)


def test_a_small_file_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    """Its head says how large it is; the rest need not even be there."""
    size = (13000, 13000)
    head = b"IHDR" + struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    chunks = (head, b"IDAT" + zlib.compress(b"\0" * 1000), b"IEND")
    written = b"".join(struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + written)
    with refused("photo-too-large", "huge.png", "13000 x 13000", error=ImageError):
        load_photo(tmp_path / "huge.png")
