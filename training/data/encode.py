"""The frozen encoders of prepare: VAE, both text encoders, CLIP's vision tower, and the face models.

Everything runs in batches whose make-up depends on the data alone, so that a run that was killed and goes on computes
the same numbers as one that was not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dhumandiff.errors import FaceError, HostError, PromptError
from dhumandiff.faces import Face, FaceAnalyzer, InsightFaceAnalyzer, load_face_analysis
from dhumandiff.hosts.diffusers.loading import choose_device, choose_dtype, load_encoders
from dhumandiff.hosts.diffusers.text import encode_prompt, token_positions
from dhumandiff.hosts.diffusers.vision import ClipVision
from dhumandiff.prompts import Mention, Prompt
from dhumandiff.protocols import ImageEncoder
from dhumandiff.references.encode import clip_pixels

from ..plugins import is_plugin, make_plugin
from .extract import ExtractedSample, SkippedSample
from .settings import FaceSettings, PrepareSettings

__all__ = ["EncodedSample", "Encoders", "load_faces", "load_vision"]


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """A finished sample.

    Attributes:
        key: names it.
        metadata: its JSON.
        tensors: by the names of the contract.
        pixels: the picture, uint8 [H, W, 3].
    """

    key: str
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    pixels: np.ndarray


class Encoders:
    """The frozen encoders; `Encoders.load` gets them by the settings' names.

    Args:
        vae: AutoencoderKL.
        tokenizers: SDXL's two.
        text_encoders: SDXL's two.
        vision: CLIP's image encoder.
        name: of the base.
        vision_name: of the image encoder.
    """

    def __init__(
        self,
        vae: Any,
        tokenizers: Sequence[Any],
        text_encoders: Sequence[Any],
        vision: ImageEncoder,
        name: str = "",
        vision_name: str = "",
    ) -> None:
        self.vae, self.vision = vae, vision
        self.tokenizers, self.text_encoders = tuple(tokenizers), tuple(text_encoders)
        self.name, self.vision_name = name, vision_name

    @classmethod
    def load(cls, settings: PrepareSettings) -> Encoders:
        """Load base and vision tower; HostError and TrainingError say what cannot be had."""
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        parts = load_encoders(settings.base, dtype)
        vae = parts["vae"]
        if vae.config.force_upcast:  # SDXL's VAE overflows in fp16
            vae = vae.float()
        return cls(
            vae.to(device),
            (parts["tokenizer"], parts["tokenizer_2"]),
            (parts["text_encoder"].to(device), parts["text_encoder_2"].to(device)),
            load_vision(settings.vision, device, dtype),
            Path(settings.base).name,
            settings.vision,
        )

    @property
    def latent_factor(self) -> int:
        """Px of a latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def vision_size(self) -> int:
        """Px of the pictures that the vision tower takes."""
        return int(getattr(self.vision, "image_size", 224))

    def common(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What all samples share: tensors of common.safetensors, and what dataset.json says of base and vision tower."""
        text, pooled, _ = encode_prompt(self.tokenizers, self.text_encoders, "")
        ids, _ = token_positions(self.tokenizers[0], Prompt("", ()))
        size = self.vision_size
        with torch.no_grad():
            zero = self.vision(torch.zeros(1, 3, size, size)).float().cpu()
        tensors = {
            "clip_hidden_zero": _half(zero, "vision tower"),
            "empty_text": _half(text[0].cpu(), "text encoders"),
            "empty_pooled": pooled[0].float().cpu(),
            "empty_ids_l": ids[0].to(torch.int32),
        }
        header = {
            "base": {
                "name": self.name,
                "context_width": text.shape[-1],
                "pooled_width": pooled.shape[-1],
                "text_width": self.text_encoders[0].get_input_embeddings().weight.shape[1],
                "latent_channels": self.vae.config.latent_channels,
                "scaling_factor": self.vae.config.scaling_factor,
            },
            "vision": {"name": self.vision_name, "clip_width": zero.shape[-1], "tokens": zero.shape[1]},
        }
        return tensors, header

    def encode(self, batch: Sequence[ExtractedSample]) -> list[EncodedSample | SkippedSample]:
        """Encode pictures that were looked at; one whose words cannot be found among the tokens is set aside."""
        results: list[EncodedSample | SkippedSample | None] = [None] * len(batch)
        texts: dict[int, dict[str, Tensor]] = {}
        metadata: dict[int, dict[str, Any]] = {}
        for number, extracted in enumerate(batch):
            try:
                metadata[number], texts[number] = self._text(extracted.metadata)
            except PromptError as error:  # noqa: PERF203 (one picture's trouble)
                message = " ".join(str(error).split())
                results[number] = SkippedSample(
                    extracted.key, extracted.metadata["source"], extracted.name, "words", message
                )
        kept = [number for number, result in enumerate(results) if result is None]
        latents = self._latents({number: batch[number].pixels for number in kept})
        hidden = self._hidden([batch[number].crops[person] for number in kept for person in (0, 1)])
        for place, number in enumerate(kept):
            extracted = batch[number]
            tensors = {**texts[number], **latents[number]}
            tensors |= {name: torch.from_numpy(mask) for name, mask in extracted.masks.items()}
            for person in (0, 1):
                tensors[f"ref_{person + 1}.clip_hidden"] = hidden[2 * place + person]
                tensors[f"ref_{person + 1}.identity"] = torch.from_numpy(extracted.identity[person])
                tensors[f"ref_{person + 1}.identity_swapped"] = torch.from_numpy(extracted.identity_swapped[person])
            results[number] = EncodedSample(extracted.key, metadata[number], tensors, extracted.pixels)
        return results

    def _text(self, metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The sample's JSON with token positions, and ids_l, text, pooled."""
        prompt = _plain_prompt(metadata)
        ids, positions = token_positions(self.tokenizers[0], prompt)
        persons = []
        for number, person in enumerate(metadata["persons"], 1):
            mine = [(token.mention_index, list(position)) for token, position in positions if token.person == number]
            first = min(index for index, _ in mine)
            tokens = {
                "tokens_first": [position for index, position in mine if index == first],
                "tokens_all": [place for _, place in mine],
            }
            persons.append({**person, **tokens})
        text, pooled, _ = encode_prompt(self.tokenizers, self.text_encoders, prompt.text)
        tensors = {
            "ids_l": ids.to(torch.int32),
            "text": _half(text[0].cpu(), "text encoders"),
            "pooled": pooled[0].float().cpu(),
        }
        return {**metadata, "persons": persons}, tensors

    def _latents(self, pictures: dict[int, np.ndarray]) -> dict[int, dict[str, Tensor]]:
        """Mean and deviation of the VAE's posterior, scaled as the UNet wants them; pictures of one size at once."""
        found: dict[int, dict[str, Tensor]] = {}
        weight = next(self.vae.parameters())
        for shape in sorted({pixels.shape for pixels in pictures.values()}):
            numbers = [number for number, pixels in pictures.items() if pixels.shape == shape]
            stacked = torch.from_numpy(np.stack([pictures[number] for number in numbers]))
            with torch.no_grad():
                images = (stacked.permute(0, 3, 1, 2).to(weight.device).float() / 127.5 - 1).to(weight.dtype)
                posterior = self.vae.encode(images).latent_dist
            scale = self.vae.config.scaling_factor
            mean, std = ((part.float() * scale).cpu() for part in (posterior.mean, posterior.std))
            for place, number in enumerate(numbers):
                found[number] = {"latent_mean": _half(mean[place], "VAE"), "latent_std": _half(std[place], "VAE")}
        return found

    def _hidden(self, crops: Sequence[np.ndarray]) -> list[Tensor]:
        """Hidden states [R, T, C] fp16 of every stack of crops uint8 [R, S, S, 3], all in one batch."""
        if not crops:
            return []
        pixels = clip_pixels(torch.from_numpy(np.concatenate(crops)).float() / 255, self.vision_size)
        with torch.no_grad():
            hidden = torch.cat([self.vision(part).float().cpu() for part in pixels.split(32)])
        ends = np.cumsum([0, *map(len, crops)]).tolist()
        return [_half(hidden[start:end].contiguous(), "vision tower") for start, end in pairwise(ends)]


def _plain_prompt(metadata: dict[str, Any]) -> Prompt:
    """The caption as a prompt whose brackets are plain ones: captions have no weights."""
    caption = metadata["caption"]
    moved = np.cumsum([0] + [letter in "()" for letter in caption]).tolist()  # by how far a place is moved
    mentions = [
        Mention(number, words["start"] + moved[words["start"]], words["end"] + moved[words["start"]], words["word"])
        for number, person in enumerate(metadata["persons"], 1)
        for words in person["words"]
    ]
    return Prompt(re.sub(r"[()]", r"\\\g<0>", caption), tuple(mentions))


def _half(tensor: Tensor, what: str) -> Tensor:
    """fp16 for storage; HostError when the encoder's numbers do not fit, which no training could repair."""
    half = tensor.half().contiguous().clone()
    if not half.isfinite().all():
        raise HostError(
            f"The {what} gave NaN, or numbers too large for fp16. Choose --dtype fp32, or another file.",
            code="encoder-not-finite",
        )
    return half


def load_vision(name: str, device: str, dtype: torch.dtype) -> ImageEncoder:
    """The CLIP vision tower of a folder, a Hugging Face id, mini, tiny, or module:function."""
    if name == "tiny":
        from dhumandiff.testing import tiny_vision

        return tiny_vision()
    if name == "mini":
        from dhumandiff.miniature.base import mini_vision

        return mini_vision()
    if is_plugin(name):
        return make_plugin(name, "vision")
    return ClipVision.from_pretrained(name, device, dtype)


def load_faces(settings: FaceSettings) -> FaceAnalyzer:
    """The face models that the settings name; FaceError and TrainingError say what cannot be had."""
    if settings.pack == "tiny":
        from dhumandiff.testing import tiny_faces

        return tiny_faces()
    if settings.pack == "mini" and not settings.root:  # with a root it is somebody's own pack of that name
        from dhumandiff.miniature.faces import mini_faces

        return mini_faces()
    if is_plugin(settings.pack):
        return make_plugin(settings.pack, "faces.pack")
    try:
        analyzer = load_face_analysis(settings.pack, settings.root or None, settings.provider)
    except FaceError as error:
        if error.code != "pack-missing":
            raise
        raise FaceError(  # its advice is for nodes and Python
            f"faces.pack: {str(error).partition(' Unpack ')[0]} Unpack the pack's zip (https://github.com/deepinsight/insightface/releases) "
            "to that folder, or name another one: --faces.pack FOLDER. `python -m dhumandiff doctor` says what is there.",
            code="pack-missing",
        ) from error
    model = next(iter(sorted(Path(analyzer.recognizer.model_file).parent.glob("*genderage*.onnx"))), None)
    if model is None:
        return analyzer
    if not isinstance(analyzer, InsightFaceAnalyzer):
        raise FaceError(
            f"{model} tells gender and age, which captions are matched by, and needs insightface. Install it with: pip install "
            "insightface. Or name a pack without such a model: --faces.pack open.",
            code="gender-without-insightface",
        )
    return _PackWithAttributes(analyzer, model)


class _PackWithAttributes:
    """An InsightFace pack whose model of gender and age is used too, where it has one (buffalo_l does)."""

    def __init__(self, analyzer: InsightFaceAnalyzer, model: Path) -> None:
        from insightface.model_zoo import get_model

        self.name, self.detect, self.identity = analyzer.name, analyzer.detect, analyzer.identity
        self.recognizer = analyzer.recognizer
        self._model = get_model(str(model), providers=["CPUExecutionProvider"])

    def attributes(self, image: np.ndarray, face: Face) -> tuple[str, str]:
        """("male" or "female", age group) of a face of a uint8 RGB picture [H, W, 3]."""
        from insightface.app.common import Face as Seen

        gender, age = self._model.get(np.ascontiguousarray(image[..., ::-1]), Seen(bbox=face.box))
        return ("male" if gender == 1 else "female"), _age_group(age)


def _age_group(age: float) -> str:
    for below, name in ((13, "child"), (18, "teenager"), (35, "young adult"), (60, "adult")):
        if age < below:
            return name
    return "elderly"
