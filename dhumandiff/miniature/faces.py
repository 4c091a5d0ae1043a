"""The drawn world's face models: a detector, a recognizer that conditions, and a judge that never does. Pure torch.

    faces = mini_faces()                     # a `protocols.FaceAnalyzer`, as an InsightFace pack is
    judge = mini_judge()                     # the same detector, another recognizer: other seed, other people

Both recognizers see a little more than ArcFace's square, because in the drawn world hair tells most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from ..faces.face import Face, with_structure
from ..faces.geometry import align_matrix
from .weights import load_part

__all__ = ["Detector", "MiniFaces", "Recognizer", "align_face", "aligned_matrix", "mini_faces", "mini_judge"]

SIDE = 128
"""Px of the longer side of a picture as the detector sees it."""

ALIGNED = 64
"""Px of an aligned face; the recognizers look at the middle `SEEN` of it."""
SEEN = 56
SHARE = 0.62
"""Size of ArcFace's template within the aligned square."""

STRIDE, UNIT = 4, 16.0
THRESHOLD = 0.4


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outside)
        self.short = nn.Conv2d(inside, outside, 1, stride) if stride > 1 or inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, h, w] -> [B, outside, h / stride, w / stride]."""
        out = F.silu(self.norm1(self.first(x)))
        return F.silu(self.norm2(self.second(out)) + self.short(x))


class Detector(nn.Module):
    """Pictures [B, 3, H, W] -1..1, sides multiples of 16 -> a map of faces at a quarter of the size.

    15 channels: the logit of a face's center, its box as distances to the four sides, five landmarks as shifts; in units
    of 16 px.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU())
        self.down = nn.ModuleList([Block(32, 32), Block(32, 48, 2), Block(48, 64, 2)])
        self.up = nn.ModuleList([nn.Conv2d(64, 48, 1), nn.Conv2d(48, 32, 1)])
        self.mix = nn.ModuleList([Block(48, 48), Block(32, 32)])
        self.out = nn.Conv2d(32, 15, 3, 1, 1)
        nn.init.constant_(self.out.get_parameter("bias")[:1], -4.0)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 15, H / 4, W / 4]."""
        x = self.stem(pixels)
        seen = []
        for block in self.down:
            x = block(x)
            seen.append(x)
        for number, (narrow, mix) in enumerate(zip(self.up, self.mix, strict=True)):
            x = mix(F.interpolate(narrow(x), scale_factor=2.0, mode="nearest") + seen[-2 - number])
        return self.out(x)


class Recognizer(nn.Module):
    """Aligned faces [B, 3, 56, 56] -1..1 -> embeddings [B, 512], of unit length."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(nn.Conv2d(3, w, 3, 2, 1), nn.SiLU())
        self.body = nn.Sequential(Block(w, w), Block(w, 2 * w, 2), Block(2 * w, 4 * w, 2), Block(4 * w, 4 * w))
        self.narrow = nn.Conv2d(4 * w, 16, 1)
        self.out = nn.Linear(16 * 49, 512)

    def embed(self, pixels: Tensor) -> Tensor:
        """[B, 3, 56, 56] -> [B, 512], of any length."""
        x = F.silu(self.narrow(self.body(self.stem(pixels))))
        return self.out(rearrange(x, "b c h w -> b (c h w)"))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, 56, 56] -> [B, 512]."""
        return F.normalize(self.embed(pixels), dim=-1)


def align_face(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face upright in a square: uint8 [H, W, 3] and landmarks [5, 2] px -> uint8 [64, 64, 3]."""
    matrix = _wide_matrix(landmarks)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    picture = Image.fromarray(np.ascontiguousarray(image))
    if scale < 0.6:  # shrink first, with a filter that does not alias
        factor = max(1, int(1 / scale))
        picture = picture.reduce(factor)
        matrix[:, 2] += matrix[:, :2].sum(axis=1) * (factor - 1) / 2
        matrix[:, :2] *= factor
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    # Pixel centers lie at halves for Pillow, at whole numbers for landmarks.
    back[:, 2] += 0.5 - back[:, :2] @ [0.5, 0.5]
    turned = picture.transform(
        (ALIGNED, ALIGNED), Image.Transform.AFFINE, back.ravel().tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def _wide_matrix(landmarks: np.ndarray) -> np.ndarray:
    """[2, 3] from a picture's px to those of `align_face`: ArcFace's template, smaller, so that hair is seen."""
    matrix = align_matrix(landmarks, ALIGNED) * SHARE
    matrix[:, 2] += np.array([ALIGNED / 2, 0.56 * ALIGNED]) * (1 - SHARE)
    return matrix


def aligned_matrix(landmarks: np.ndarray) -> np.ndarray:
    """[2, 3] from a picture's px to those of the square of `SEEN` px that the recognizers look at."""
    matrix = _wide_matrix(landmarks)
    matrix[:, 2] -= (ALIGNED - SEEN) // 2
    return matrix


class MiniFaces:
    """Detector and recognizer of drawn faces as a `protocols.FaceAnalyzer`."""

    def __init__(self, detector: Detector, recognizer: Recognizer, name: str = "mini") -> None:
        self.detector, self.recognizer, self.name = detector.eval(), recognizer.eval(), name

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in a uint8 RGB picture [H, W, 3], the surest first."""
        return self.detect_all([image])[0]

    @torch.no_grad()
    def detect_all(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        """Faces of several pictures of one size."""
        height, width = images[0].shape[:2]
        scale = SIDE / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        small = [np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, _FILTER)) for image in images]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1
        pad = -size[0] % 16, -size[1] % 16
        maps = self.detector(F.pad(pixels, (0, pad[0], 0, pad[1]), value=-1.0))
        scale_back = np.array([width / size[0], height / size[1]])
        return [with_structure(image, _faces(found, scale_back)) for image, found in zip(images, maps, strict=True)]

    def identity(self, image: np.ndarray, face: Face, swap_channels: bool = False) -> np.ndarray:
        """Unit-length float32 [512] of one face, red and blue exchanged if `swap_channels`."""
        return self.identity_and_length(image, face, swap_channels)[0]

    @torch.no_grad()
    def identity_and_length(
        self, image: np.ndarray, face: Face, swap_channels: bool = False
    ) -> tuple[np.ndarray, float]:
        """`identity`, and how long the embedding was before it was brought to length one."""
        crop = align_face(image, face.landmarks)
        embedding = self.recognizer.embed(_pixels((crop[..., ::-1] if swap_channels else crop)[None]))
        return F.normalize(embedding, dim=-1)[0].numpy(), float(embedding.norm())

    @torch.no_grad()
    def identities(self, crops: np.ndarray) -> np.ndarray:
        """Embeddings [N, 512] of aligned faces uint8 [N, 64, 64, 3]."""
        return self.recognizer(_pixels(crops)).numpy()


_FILTER = Image.Resampling.BILINEAR


def _pixels(crops: np.ndarray) -> Tensor:
    """Aligned faces uint8 [N, 64, 64, 3] -> what the recognizers look at, [N, 3, 56, 56] -1..1."""
    edge = (ALIGNED - SEEN) // 2
    middle = np.ascontiguousarray(crops[:, edge:-edge, edge:-edge])
    return torch.from_numpy(middle).permute(0, 3, 1, 2).float() / 127.5 - 1


def _faces(found: Tensor, scale: np.ndarray) -> list[Face]:
    """Peaks of one map [15, h, w] as faces in px of the whole picture, which is `scale` times as large."""
    heat = found[0].sigmoid()
    peak = (heat == F.max_pool2d(heat[None, None], 5, 1, 2)[0, 0]) & (heat > THRESHOLD)
    faces: list[Face] = []
    for y, x in sorted(peak.nonzero().tolist(), key=lambda at: -float(heat[at[0], at[1]])):
        centre = (np.array([x, y]) + 0.5) * STRIDE
        values = found[1:, y, x].numpy().astype(np.float64) * UNIT
        box = np.concatenate([centre - values[:2], centre + values[2:4]]) * np.tile(scale, 2)
        points = (centre + values[4:].reshape(5, 2)) * scale
        face = Face(box.astype(np.float32), points.astype(np.float32), float(heat[y, x]), is_drawn=True)
        if box[2] > box[0] and box[3] > box[1] and all(_overlap(box, other.box) < 0.4 for other in faces):
            faces.append(face)
    return faces


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    return shared / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - shared)


def mini_faces() -> MiniFaces:
    """The detector, and the recognizer whose embeddings condition the adapter."""
    return _load("recogniser", 24, "mini")


def mini_judge() -> MiniFaces:
    """The detector, and a recognizer of other people that never conditions anything: it measures."""
    return _load("judge", 32, "mini judge")


def _load(part: str, width: int, name: str) -> MiniFaces:
    detector, recognizer = Detector(), Recognizer(width)
    detector.load_state_dict(load_part("detector"))
    recognizer.load_state_dict(load_part(part))
    return MiniFaces(detector.requires_grad_(False), recognizer.requires_grad_(False), name)
