"""Pictures for Parts2Whole's command and nodes: parts, masks, regions, and pose maps of the right kind and of others."""

import numpy as np
from PIL import Image, ImageDraw


def part_picture(path, seed=0, size=(60, 80), mode="RGB"):
    """A picture of large blots; in mode RGBA with a transparent rim."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)
    if mode == "RGBA":
        alpha = Image.new("L", size)
        ImageDraw.Draw(alpha).rectangle((10, 10, size[0] - 10, size[1] - 10), fill=255)
        picture.putalpha(alpha)
    picture.save(path)
    return path


def part_mask(path, size=(60, 80), empty=False):
    """White where the part is."""
    mask = Image.new("L", size)
    if not empty:
        ImageDraw.Draw(mask).rectangle((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=255)
    mask.save(path)
    return path


def densepose(path, size=(64, 96)):
    """A raw IUV map: blue is the body part, green and red are where on it."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    body = pixels[height // 8 : -height // 8, width // 4 : -width // 4]
    body[..., 0] = np.linspace(20, 240, body.shape[1])[None]
    body[..., 1] = np.linspace(20, 240, body.shape[0])[:, None]
    body[..., 2] = 1 + np.arange(body.shape[0])[:, None] * 23 // body.shape[0]
    Image.fromarray(pixels).save(path)
    return path


def openpose(path, size=(64, 96)):
    """A skeleton in OpenPose's colors."""
    picture = Image.new("RGB", size)
    draw = ImageDraw.Draw(picture)
    colors = [(255, 0, 0), (255, 170, 0), (85, 255, 0), (0, 255, 170), (0, 170, 255), (0, 0, 255), (170, 0, 255)]
    for n, color in enumerate(colors):
        draw.line((size[0] // 2, 10 + 10 * n, size[0] // 2 + 8, 20 + 10 * n), fill=color, width=2)
    picture.save(path)
    return path
