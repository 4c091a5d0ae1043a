"""One case, one record: what is in its picture and how good that is. Records are lines of a .jsonl, and a run goes on there.

    measurer = Measurer(load_faces(FaceSettings()), clip=Clip.load("openai/clip-vit-base-patch16"))
    records = measure_all(cases, measurer, Path("scores/scores.jsonl"))

A picture is held in memory only while it is measured; of references and truths only embeddings are kept. What cannot be
measured is a record, too, with its "problem".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dhumandiff.errors import DHumanDiffError, FaceError, ImageError, short_error
from dhumandiff.evaluation.metrics import PictureScorer, cosines, match
from dhumandiff.evaluation.score import embed_faces, score_image
from dhumandiff.faces import FaceAnalyzer, choose_face, load_photo
from dhumandiff.faces.same_recognizer import recognizer_hash
from dhumandiff.prompts import try_parse_prompt

from .. import TrainingError
from ..data.shards import write_file
from .cases import Case
from .files import contents_of

__all__ = ["Clip", "Measurer", "measure_all", "read_records"]

KEPT = 4096
"""Photos whose embeddings are kept: two kilobytes each."""


class Clip:
    """CLIP's two towers, for how well a picture fits its sentence (CLIP-T) and the real picture (CLIP-I).

    MultiID-Bench takes ViT-B/16.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.name, self._model, self._processor = name, model.eval(), processor

    @classmethod
    def load(cls, source: str, device: str = "cpu") -> Clip:
        """A folder or a Hugging Face id.

        Raises:
            TrainingError: it cannot be had.
        """
        from transformers import CLIPModel, CLIPProcessor

        try:
            model = CLIPModel.from_pretrained(source, use_safetensors=True).to(device)
            return cls(model, CLIPProcessor.from_pretrained(source), Path(source).name)
        except Exception as error:  # transformers, hub and network have a family of errors each
            raise TrainingError(
                f"CLIP cannot be loaded from {source}: {short_error(error, kind=True)}. Name a folder with CLIP, or leave it out.",
                code="clip-not-loaded",
            ) from error

    @torch.no_grad()
    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> embedding [D]."""
        given = self._processor(images=[pixels], return_tensors="pt").to(self._model.device)
        return _pooled(self._model.get_image_features(**given))

    @torch.no_grad()
    def sentence(self, text: str) -> np.ndarray:
        """A sentence, its first 77 tokens -> embedding [D]."""
        given = self._processor(text=[text], return_tensors="pt", truncation=True, max_length=77).to(self._model.device)
        return _pooled(self._model.get_text_features(**given))


def _pooled(found: Any) -> np.ndarray:
    """The embedding [D]; versions of transformers disagree about what holds it."""
    tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
    return tensor[0].float().cpu().numpy()


class Measurer:
    """Measures cases with one face recognizer and whatever else is there.

    Args:
        faces: finds and recognizes; it should not be the recognizer that an adapter was trained with.
        clip: for CLIP-T and CLIP-I, or None.
        scorers: further scores of a picture, by somebody else's models.
    """

    def __init__(self, faces: FaceAnalyzer, clip: Clip | None = None, scorers: Sequence[PictureScorer] = ()) -> None:
        self.faces, self.clip, self.scorers = faces, clip, tuple(scorers)
        self._reference = lru_cache(KEPT)(self._reference_identity)
        self._contents = lru_cache(KEPT)(contents_of)
        self._truth = lru_cache(KEPT)(self._truth_identities)

    @property
    def name(self) -> str:
        """What it measures with; records of another name are measured again."""
        parts = (self.faces.name, self.clip.name if self.clip else "", *(scorer.name for scorer in self.scorers))
        return ", ".join(filter(None, parts))

    def about(self, case: Case) -> dict[str, Any]:
        """What a record says of its case; a record that says something else is of another one."""
        return {
            "id": case.name,
            "prompt": case.sentence,
            "topic": case.topic,
            "strength": case.strength,
            "asked": len(case.references),
            "measured_with": self.name,
            "picture": str(case.picture or ""),
            "truth": str(case.truth or ""),
            "references": [[str(photo) for photo in photos] for photos in case.references],
            "recognizer": recognizer_hash(self.faces),
            "contents": [
                self._contents(photo) for photo in (*chain(*case.references), *([case.truth] if case.truth else ()))
            ],
        }

    def measure(self, case: Case) -> dict[str, Any]:
        """The record of a case; with a "problem" instead of figures where a file cannot be used."""
        about = self.about(case)
        if case.problem:
            return {**about, "problem": case.problem}
        try:
            return {**about, **self._measured(case)}
        except (ImageError, FaceError, TrainingError) as error:
            return {**about, "problem": " ".join(str(error).split())}

    def _measured(self, case: Case) -> dict[str, Any]:
        if case.picture is None:
            raise TrainingError("it has no picture", code="case-without-picture")
        references = np.stack([self._person(photos) for photos in case.references])
        truth = None if case.truth is None else self._in_order(case.truth, references)
        pixels = load_photo(case.picture).pixels
        masks = None if case.masks is None else _read_masks(case.masks, pixels.shape[:2])
        prompt = try_parse_prompt(case.sentence, len(references))
        said = {"prompt": prompt, "boxes": case.boxes, "masks": masks, "clothes": case.clothes}
        scored = score_image(pixels, references, self.faces, truth, **said)
        score = scored.score
        persons = [
            {
                "face": face,
                "sim_ref": person.sim_ref,
                "sim_gt": person.sim_gt,
                "copy_paste": person.copy_paste,
                "right": person.assigned_correctly,
                "margin": person.margin,
                **dict(groups),
            }
            for face, person, groups in zip(
                scored.face_of_person, score.persons, case.groups or [{}] * len(references), strict=True
            )
        ]
        return {
            "digest": _digest(case.picture),
            "size": list(pixels.shape[1::-1]),
            "found": score.faces,
            "said_by": scored.assigned_by,
            "boxes": [[round(float(value), 1) for value in face.box] for face in scored.faces],
            "likeness": np.round(cosines(scored.identities, references), 4).tolist(),
            "persons": persons,
            "scores": {
                "present": score.face_count_correct,
                "all_right": score.all_assigned_correctly,
                "blending": score.blending if len(references) > 1 else None,
                **self._scores(case, pixels, prompt.text if prompt else case.sentence),
            },
        }

    def _scores(self, case: Case, pixels: np.ndarray, sentence: str) -> dict[str, float | None]:
        """CLIP-T, CLIP-I and the scores of others."""
        scores: dict[str, float | None] = {}
        if self.clip is not None:
            ours = self.clip.picture(pixels)
            scores["clip_t"] = _cosine(ours, self.clip.sentence(sentence)) if sentence else None
            real = None if case.truth is None else self.clip.picture(load_photo(case.truth).pixels)
            scores["clip_i"] = None if real is None else _cosine(ours, real)
        scores |= {scorer.name: _score(scorer, pixels, sentence) for scorer in self.scorers}
        return scores

    def _person(self, photos: Sequence[Path]) -> np.ndarray:
        """The mean identity [D] of a person's photos, on the sphere."""
        total = np.sum([self._reference(photo) for photo in photos], axis=0)
        length = np.linalg.norm(total)
        if length < 1e-6:
            raise FaceError(
                f"The photos {', '.join(map(str, photos))} do not show one person.", code="photos-of-several-people"
            )
        return total / length

    def _reference_identity(self, path: Path) -> np.ndarray:
        pixels = load_photo(path).pixels
        try:
            face = choose_face(self.faces.detect(pixels), min_size=0)
        except FaceError as error:
            raise FaceError(f"The reference {path}: {error}", code="reference-without-face") from error
        return self.faces.identity(pixels, face)

    def _truth_identities(self, path: Path) -> np.ndarray:
        return embed_faces(load_photo(path).pixels, self.faces)[1]

    def _in_order(self, path: Path, references: np.ndarray) -> np.ndarray:
        """The identities of a real picture's people, [P, D], in the order of the references: as alike as they can be."""
        found = self._truth(path)
        if len(found) < len(references):
            raise FaceError(
                f"The truth {path} shows {len(found)} faces of {len(references)} people. Choose another picture.",
                code="truth-with-few-faces",
            )
        return found[list(match(cosines(found, references)))]


def measure_all(cases: Sequence[Case], measurer: Measurer, path: Path) -> list[dict[str, Any]]:
    """Measure every case into a .jsonl; what it holds already of the same picture is kept. In the order of the cases.

    Raises:
        TrainingError: the file cannot be read or written. `path` then holds every record that was finished.
    """
    known = {record["id"]: record for record in read_records(path)} if path.exists() else {}
    _write(path, known.values())  # without a last line that was cut off, which the next one would continue
    records: list[dict[str, Any]] = []
    try:
        with path.open("a", encoding="utf-8") as file:
            for case in tqdm(cases, desc="scoring", unit="picture", mininterval=1, disable=None):
                record = known.get(case.name)
                if record is None or not _holds(record, case, measurer):
                    record = measurer.measure(case)
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    file.flush()
                records.append(record)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Make room, or choose another folder.",
            code="cannot-write",
        ) from error
    _write(path, records)
    return records


def _write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    write_file(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl; a last line that was cut off is left out.

    Raises:
        TrainingError: anything else that is no record.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"The scores {path} cannot be read ({error}).", code="unreadable-scores") from error
    records = [_record(line) for line in lines]
    if records and records[-1] is None:
        records.pop()
    if None in records:
        raise TrainingError(
            f"Line {records.index(None) + 1} of {path} is no record. Remove the file to score anew.", code="bad-record"
        )
    return records


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return {**record, "id": record["id"]}
    except (ValueError, KeyError, TypeError):
        return None


def _holds(record: dict[str, Any], case: Case, measurer: Measurer) -> bool:
    """Whether a record is what measuring would give again: the same picture, people, sentence and recognizer."""
    same = all(record.get(name) == value for name, value in measurer.about(case).items())
    if case.problem or case.picture is None or "likeness" not in record or not same:  # older records do not have it
        return False
    try:
        return record.get("digest") == _digest(case.picture)
    except ImageError:
        return False


def _score(scorer: PictureScorer, pixels: np.ndarray, sentence: str) -> float:
    try:
        return float(scorer(pixels, sentence))
    except DHumanDiffError:
        raise
    except Exception as error:  # it is somebody else's code
        raise TrainingError(
            f"{scorer.name} failed with {type(error).__name__}: {error}", code="scorer-failed"
        ) from error


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {short_error(error)}.", code="unreadable-file") from error


def _read_masks(paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    height, width = size
    masks = []
    for path in paths:
        grey = Image.fromarray(load_photo(path).pixels).convert("L").resize((width, height), Image.Resampling.BILINEAR)
        masks.append(np.asarray(grey, dtype=np.float32) / 255)
    return np.stack(masks)


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(cosines(first[None], second[None])[0, 0])
