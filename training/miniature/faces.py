"""Detector, recognizer and judge of drawn faces. The judge is the recognizer's architecture, wider, with another seed and
other people, and it also sees faces that went through the autoencoder, because it judges what a decoder made.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.miniature.faces import ALIGNED, SEEN, SIDE, STRIDE, UNIT, Detector, Recognizer, align_face

from .autoencoder import picture_of, pixels_of
from .fit import fit
from .renders import Renders

__all__ = ["degrade", "faces_of", "through_autoencoder", "train_detector", "train_recognizer"]

SCALE, MARGIN = 24.0, 0.25
"""Of CosFace (arXiv 1801.09414)."""


def train_detector(folder: Path, pictures: Renders, people: Renders, steps: int, batch: int = 24) -> Detector:
    """Half pictures of two, half references, at random sizes and places."""
    torch.manual_seed(2)
    model = Detector()
    scenes = pictures["images"], pictures["boxes"], pictures["landmarks"]
    heads = tuple(people[name] for name in ("images", "boxes", "landmarks"))

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        pixels = torch.full((batch, 3, SIDE, SIDE), -1.0)
        faces: list[list[np.ndarray]] = []
        for row in range(batch):
            if row % 2:
                number = int(torch.randint(len(scenes[0]), (), generator=random))
                picture, boxes, points = (array[number] for array in scenes)
            else:
                number, view = (int(torch.randint(end, (), generator=random)) for end in heads[0].shape[:2])
                picture, box, point = (array[number, view] for array in heads)
                boxes, points = box[None], point[None]
            pixels[row], found = _placed(picture, boxes, points, random)
            faces.append(found)
        out = model(degrade(pixels, random))
        heat, places, values = _targets(faces, out.shape[-1])
        return {"centre": _focal(out[:, 0], heat), "shape": F.l1_loss(out[:, 1:].permute(0, 2, 3, 1)[places], values)}

    fit(folder, "detector", model, losses, steps=steps, seed=2)
    return model


def train_recognizer(
    folder: Path, name: str, crops: np.ndarray, labels: Tensor, steps: int, width: int, seed: int, batch: int = 128
) -> Recognizer:
    """crops [N, 64, 64, 3] uint8, aligned; labels [N]. CosFace over all people."""
    torch.manual_seed(seed)
    model = Recognizer(width)
    centres = nn.Parameter(torch.randn(int(labels.max()) + 1, 512) * 0.05)
    both = nn.ModuleDict({"model": model, "centres": nn.ParameterList([centres])})

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        rows = torch.randint(len(labels), (batch,), generator=random)
        embeddings = model(augment_crops(torch.from_numpy(crops[rows.numpy()]), random))
        cosines = embeddings @ F.normalize(centres, dim=-1).T
        wanted = F.one_hot(labels[rows], len(centres))
        return {"people": F.cross_entropy(SCALE * (cosines - MARGIN * wanted), labels[rows])}

    fit(folder, name, both, losses, steps=steps, learning_rate=5e-3, adamw=[centres], seed=seed)
    return model


def faces_of(people: Renders, pair_images: Renders, decoded: np.ndarray | None = None) -> tuple[np.ndarray, Tensor]:
    """All aligned faces of a crowd [N, 64, 64, 3], from references, from pictures, and from decoded pictures; and whose."""
    alone, met = people["aligned"], pair_images["people"].astype(int).ravel()
    crops, labels = [alone.reshape(-1, *alone.shape[2:])], [np.repeat(np.arange(len(alone)), alone.shape[1])]
    for faces in (pair_images["aligned"], decoded):
        if faces is not None:
            crops.append(faces.reshape(-1, *alone.shape[2:]))
            labels.append(met)
    return np.concatenate(crops), torch.from_numpy(np.concatenate(labels))


@torch.no_grad()
def through_autoencoder(vae: nn.Module, pair_images: Renders, batch: int = 64) -> np.ndarray:
    """Aligned faces [N, 2, 64, 64, 3] of pictures after encoding and decoding."""
    images, landmarks = pair_images["images"], pair_images["landmarks"]
    found = np.empty((len(images), 2, ALIGNED, ALIGNED, 3), dtype=np.uint8)
    for start in range(0, len(images), batch):
        made = picture_of(vae.decode(vae.encode(pixels_of(images[start : start + batch])).latent_dist.mean).sample)
        for n, picture in enumerate(made, start):
            found[n] = [align_face(picture, landmarks[n, k]) for k in (0, 1)]
    return found


def augment_crops(crops: Tensor, random: torch.Generator) -> Tensor:
    """Aligned faces uint8 [B, 64, 64, 3] as a recognizer may meet them, [B, 3, 56, 56]: not quite in place, not quite sharp."""
    count = len(crops)
    pixels = crops.permute(0, 3, 1, 2).float() / 127.5 - 1

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=random)

    angle, zoom = between(-0.12, 0.12), between(0.9, 1.1) * SEEN / ALIGNED
    rotation = torch.stack([angle.cos() * zoom, -angle.sin() * zoom, angle.sin() * zoom, angle.cos() * zoom], dim=-1)
    matrix = torch.cat([rotation.view(count, 2, 2), between(-0.08, 0.08, 2, 1)], dim=-1)
    grid = F.affine_grid(matrix, (count, 3, SEEN, SEEN), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return degrade(pixels, random)


def degrade(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Other light, less detail, a little noise."""
    count, side = len(pixels), pixels.shape[-1]
    gain = 1 + 0.1 * (torch.rand(count, 1, 1, 1, generator=random) - 0.5)
    gain = gain + 0.06 * (torch.rand(count, 3, 1, 1, generator=random) - 0.5)
    pixels = (pixels + 1) * gain - 1
    small = int(side * (0.35 + 0.65 * float(torch.rand((), generator=random))))
    soft = F.interpolate(
        F.interpolate(pixels, size=small, mode="area"), size=side, mode="bilinear", align_corners=False
    )
    pixels = torch.where(torch.rand(count, 1, 1, 1, generator=random) < 0.5, soft, pixels)
    noise = 0.06 * torch.rand(count, 1, 1, 1, generator=random)
    return pixels + noise * torch.randn(pixels.shape, generator=random)


def _placed(
    picture: np.ndarray, boxes: np.ndarray, points: np.ndarray, random: torch.Generator
) -> tuple[Tensor, list[np.ndarray]]:
    """A picture at a random size and place in a square of 128 px, and its faces [14]: box and landmarks, px."""
    height, width = picture.shape[:2]
    largest = SIDE / max(height, width)
    least = 0.5 if len(boxes) == 1 else 0.8
    scale = largest * (least + (1 - least) * float(torch.rand((), generator=random)) ** 0.5)
    size = round(height * scale), round(width * scale)
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    free = SIDE - size[0], SIDE - size[1]
    top, left = (int(torch.randint(room + 1, (), generator=random)) for room in free)
    whole = torch.full((3, SIDE, SIDE), -1.0)
    whole[:, top : top + size[0], left : left + size[1]] = pixels
    found = [
        np.concatenate([box.reshape(2, 2), point]).astype(np.float64) * scale + np.array([left, top])
        for box, point in zip(boxes, points, strict=True)
    ]
    return whole, [one.ravel() for one in found]


def _targets(faces: list[list[np.ndarray]], side: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Heat [B, h, w]; the places next to centers, and what the map should say there [places, 14]."""
    heat = torch.zeros(len(faces), side, side)
    axis = torch.arange(side, dtype=torch.float32)
    rows, ys, xs, values = [], [], [], []
    for row, found in enumerate(faces):
        for face in found:
            box, points = face[:4], face[4:].reshape(5, 2)
            x, y = ((box[:2] + box[2:]) / 2 / STRIDE - 0.5).tolist()
            spread = max(float(box[3] - box[1]) / STRIDE / 8, 0.7)
            bump = torch.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * spread**2))
            ix, iy = (min(max(round(v), 0), side - 1) for v in (x, y))
            bump[iy, ix] = 1
            heat[row] = torch.maximum(heat[row], bump)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    px, py = ix + dx, iy + dy
                    if 0 <= px < side and 0 <= py < side:
                        centre = (np.array([px, py]) + 0.5) * STRIDE
                        shape = np.concatenate([centre - box[:2], box[2:] - centre, (points - centre).ravel()])
                        rows.append(row), ys.append(py), xs.append(px), values.append(shape / UNIT)
    return heat, (torch.tensor(rows), torch.tensor(ys), torch.tensor(xs)), torch.tensor(np.array(values)).float()


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    """CornerNet's loss for maps of centers (arXiv 1808.01244)."""
    likely = logits.sigmoid()
    centre = heat == 1
    right = (1 - likely) ** 2 * F.logsigmoid(logits)
    wrong = (1 - heat) ** 4 * likely**2 * F.logsigmoid(-logits)
    return -torch.where(centre, right, wrong).sum() / centre.sum().clamp(min=1)
