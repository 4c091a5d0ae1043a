"""Face recognizers that gradients pass through, and the alignment before them: what identity losses look with.

    recognizer = load_recognizer("mini")                     # or buffalo_l/w600k_r50.onnx, or module:function
    embeddings = recognizer(align_faces(pictures, landmarks, recognizer))    # [N, 3, H, W] -1..1 -> [N, 512]

Pictures are RGB from -1 to 1 everywhere, truth and prediction alike (WithAnyone's released code mixes two ranges).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dhumandiff.faces.geometry import ARCFACE_TEMPLATE, align_matrix
from dhumandiff.io import expand_user

from . import TrainingError
from .data.dataset import PreparedDataset
from .plugins import is_plugin, make_plugin

__all__ = [
    "ArcFace",
    "MiniRecognizer",
    "Recognizer",
    "align_faces",
    "check_recognizer",
    "load_recognizer",
    "probe_picture",
]

SAME = 0.98
"""Cosine from which two looks at the probe are one recognizer's: the same face aligned here and there has 0.99 and more."""


class Recognizer(Protocol):
    """Aligned faces [N, 3, side, side], RGB -1..1 -> embeddings [N, D] of unit length, differentiably.

    One that finds faces, too, has find: uint8 [H, W, 3] -> faces.

    Attributes:
        side: px of an aligned face.
        matrix: five landmarks [5, 2] px -> [2, 3], what takes a picture's px to an aligned face's.
    """

    side: int

    def matrix(self, landmarks: np.ndarray) -> np.ndarray: ...

    def __call__(self, faces: Tensor) -> Tensor: ...

    def to(self, device: Any) -> Any: ...


class ArcFace(nn.Module):
    """An ArcFace model of InsightFace's packs, such as w600k_r50.onnx of buffalo_l, as torch.

    Args:
        network: [N, 3, 112, 112] RGB -> [N, 512] of any length.
        raw: the network wants 0..255 and normalizes by itself.
        one_by_one: it was exported for a single face at a time.
    """

    side = 112

    def __init__(self, network: nn.Module, raw: bool = False, one_by_one: bool = False) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.raw, self.one_by_one = raw, one_by_one

    @classmethod
    def from_onnx(cls, path: str | Path) -> ArcFace:
        """Convert an .onnx file with onnx2torch.

        Raises:
            TrainingError: that cannot be done.
        """
        path = expand_user(path)
        if not path.is_file():
            raise TrainingError(
                f"There is no recognizer {path}. Name the .onnx of a pack, such as buffalo_l/w600k_r50.onnx.",
                code="no-such-recognizer",
            )
        try:
            import onnx
            from onnx2torch import convert
        except ImportError as error:
            raise TrainingError(
                f"A recognizer as torch needs onnx2torch ({error}). Install it with: pip install --no-deps onnx2torch onnx",
                code="no-onnx2torch",
            ) from error
        try:
            model = onnx.load(str(path))
            network = convert(model)
        except Exception as error:  # onnx and the converter have a family of errors each
            raise TrainingError(
                f"The recognizer {path} cannot be converted to torch: {error}", code="recognizer-not-converted"
            ) from error
        weights = {tensor.name for tensor in model.graph.initializer}  # which old exporters list as inputs, too
        given = [one for one in model.graph.input if one.name not in weights]
        shape = [axis.dim_value for axis in given[0].type.tensor_type.shape.dim] if given else []
        if len(given) != 1 or len(shape) != 4 or shape[1:] != [3, cls.side, cls.side]:
            raise TrainingError(
                f"{path} takes {shape or 'no picture'}, and an ArcFace recognizer faces of [N, 3, {cls.side}, {cls.side}]. Name "
                "the pack's recognizer, such as w600k_r50.onnx, not its detector.",
                code="not-a-recognizer",
            )
        # As InsightFace tells them apart (model_zoo/arcface_onnx.py): models from MXNet begin with a normalization.
        begin = [node.name for node in model.graph.node[:8]]
        raw = all(any(name.startswith(kinds) for name in begin) for kinds in (("Sub", "_minus"), ("Mul", "_mul")))
        return cls(network, raw, one_by_one=shape[0] == 1)

    def matrix(self, landmarks: np.ndarray) -> np.ndarray:
        """ArcFace's own alignment."""
        return align_matrix(landmarks, self.side)

    def forward(self, faces: Tensor) -> Tensor:
        """[N, 3, 112, 112] -> [N, 512]."""
        pixels = (faces.float() + 1) * 127.5 if self.raw else faces.float()
        parts = pixels.split(1) if self.one_by_one else [pixels]
        return F.normalize(torch.cat([self.network(part).flatten(1) for part in parts]), dim=-1)


class MiniRecognizer(nn.Module):
    """The miniature's recognizer, the one that conditions."""

    def __init__(self) -> None:
        super().__init__()
        from dhumandiff.miniature.faces import SEEN, mini_faces

        faces = mini_faces()
        self.side, self.network, self.find = SEEN, faces.recognizer, faces.detect

    def matrix(self, landmarks: np.ndarray) -> np.ndarray:
        """Its alignment: ArcFace's at its scale, and a little more around it."""
        from dhumandiff.miniature.faces import aligned_matrix

        return aligned_matrix(landmarks)

    def forward(self, faces: Tensor) -> Tensor:
        """[N, 3, 56, 56] -> [N, 512]."""
        return self.network(faces.float())


def load_recognizer(name: str) -> Recognizer:
    """mini, an ArcFace .onnx, or module:function that makes a Recognizer.

    Raises:
        TrainingError: it cannot be had.
    """
    if name == "mini":
        return MiniRecognizer()
    return make_plugin(name, "objectives.identity.recognizer") if is_plugin(name) else ArcFace.from_onnx(name)


def probe_picture() -> np.ndarray:
    """A smooth colored picture, uint8 [112, 112, 3]: what `prepare` shows its recognizer, so that `train` knows it again."""
    y, x = np.mgrid[0:112, 0:112] / 112
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((1, 0.5), (0.5, -1), (-1.5, 1))]
    return (127.5 + 127.5 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def check_recognizer(recognizer: Recognizer, folders: Sequence[PreparedDataset]) -> None:
    """Refuse a recognizer other than the one whose embeddings the data holds.

    Cosines between two recognizers mean nothing, and no number would tell. Data of one's own making may lack the probe
    (`recogniser_probe` of common.safetensors); then a warning says that it was not checked.

    Args:
        recognizer: of the losses.
        folders: the data.

    Raises:
        TrainingError: its embedding of the probe picture is another one.
    """
    picture = rearrange(torch.from_numpy(probe_picture()), "h w c -> 1 c h w") / 127.5 - 1
    with torch.no_grad():
        seen = recognizer(align_faces(picture, torch.from_numpy(ARCFACE_TEMPLATE)[None], recognizer))[0]
    for folder in folders:
        kept, name = folder.common.get("recogniser_probe"), folder.header["recogniser"]["name"]
        if kept is None:
            warnings.warn(
                f"{folder.path} does not tell how its recognizer ({name}) sees, so whether objectives.identity.recognizer is "
                "the same one is not known. Prepare the data again to be sure.",
                stacklevel=2,
            )
            continue
        same = len(kept) == len(seen) and float(F.cosine_similarity(kept.float(), seen.cpu(), dim=0))
        if same < SAME:
            raise TrainingError(
                f"objectives.identity.recognizer is not the recognizer of {folder.path} ({name}): they see one picture "
                f"differently (cosine {float(same):.3f}). Name that pack's own recognizer, or prepare the data with this one.",
                code="another-recognizer",
            )


def align_faces(pictures: Tensor, landmarks: Tensor, recognizer: Recognizer) -> Tensor:
    """Faces as a recognizer wants them, differentiably.

    Bilinear, the pixels of InsightFace's own warp, which made the truth's embeddings. Outside of the picture is black.

    Args:
        pictures: [N, 3, H, W] RGB -1..1.
        landmarks: [N, 5, 2] px.
        recognizer: that they are for.

    Returns:
        [N, 3, side, side].
    """
    height, width = pictures.shape[-2:]
    side = recognizer.side
    matrices = [recognizer.matrix(points) for points in landmarks.detach().cpu().double().numpy()]
    places = torch.arange(side, dtype=torch.float64)  # whole numbers are px's middles
    y, x = torch.meshgrid(places, places, indexing="ij")
    corners = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    grids = []
    for matrix in matrices:
        back = torch.from_numpy(np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))[:2])
        at = corners @ back.T
        grids.append((at + 0.5) * 2 / at.new_tensor([width, height]) - 1)
    grid = torch.stack(grids).to(pictures)
    return F.grid_sample(pictures + 1, grid, align_corners=False) - 1  # black is -1 here


def face_windows(landmarks: Tensor, size: tuple[int, int], window: tuple[int, int], factor: int) -> Tensor:
    """Where windows of latent places (height, width) lie around faces so that they stay in a latent of `size`: [N, 2] y, x.

    landmarks [N, 5, 2] px; factor: px of a latent place.
    """
    middle = rearrange(landmarks.mean(dim=1) / factor, "n c -> c n").flip(0)
    starts = [
        (place - span / 2).round().clamp(0, max(length - span, 0))
        for place, span, length in zip(middle, window, size, strict=True)
    ]
    return torch.stack(starts, dim=1).long()
