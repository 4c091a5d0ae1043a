"""The settings of `python -m training prepare`: dataclasses whose fields say what they are for.

Every field can stand in a YAML file and on the command line; `check` refuses what cannot be, before anything loads.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from .. import TrainingError

__all__ = ["FaceSettings", "PrepareSettings", "ReferenceSettings", "Source"]


@dataclass
class Source:
    """One collection of pictures."""

    path: str
    """A folder of pictures (plain, Hugging Face image folder, with annotation JSON), .parquet or .tar files, a folder of
    those, or a pattern such as shards/{000..009}.tar or data/*.parquet; on a disk, or by its URL on a store (s3://, gs://,
    https:// and others, with fsspec's package for it)."""
    name: str = ""
    """What reports and samples call it; the path's last part if left empty."""
    weight: float = 1.0
    """How often training draws from it, compared with the other sources."""
    kind: Literal["auto", "folder", "parquet", "webdataset"] = "auto"
    """What it is; auto looks at the files."""
    annotations: str = ""
    """PairHuman JSON: a folder with one file a picture (same name), or one file for all. Left empty, <picture>.json and
    annotations/<picture>.json are looked for."""
    captions: str = ""
    """A .jsonl, .csv or .parquet with file_name, text, identity_1, identity_2 and whatever else. Left empty, metadata and captions
    of these endings and <picture>.txt are looked for."""
    masks: str = ""
    """A folder of person masks, <picture>_1.png and <picture>_2.png (white is the person; numbers count the annotated
    people). Left empty, masks/ is looked for."""
    references: str = ""
    """A folder of further photos, one folder a person: <identity>/*.jpg, with the identities of tables or annotations. Left empty,
    references/ is looked for."""


@dataclass
class FaceSettings:
    """Which faces count."""

    pack: str = "buffalo_l"
    """InsightFace pack by name or folder; open (YuNet, AuraFace), which businesses may use; sface, a judge for scoring alone; mini
    or tiny; or module:function, which makes a FaceAnalyzer of your own."""
    root: str = ""
    """The folder with models/<pack>; ~/.insightface if left empty."""
    provider: str = "CPU"
    """Of ONNX Runtime. CPU, because every worker has a copy of the models."""
    min_size: float = 64.0
    """Smallest face, px in the original picture. Below 64 the recognizer sees mostly interpolation."""
    third_face_ratio: float = 0.5
    """A third face is a third person when it is at least this share of the smaller of the two in size."""
    same_person: float = 0.8
    """Two faces of this cosine similarity or more are one person twice (a collage, a mirror); 1 or more: never."""
    alike: float = 0.5
    """Faces on several pictures of this mean cosine similarity or more seem to be one person: proposed in people.csv, and kept on
    one side of `validation`. One person measures 0.5 to 0.8 with buffalo_l, two below 0.3."""


@dataclass
class ReferenceSettings:
    """The reference photos that are computed for each person."""

    augmented: int = 1
    """Variants of the face in the picture itself, with other light and color, and flipped or not."""
    paired: int = 2
    """Photos of the same person from elsewhere, at most, where the data has them. They teach the adapter who somebody is
    instead of how this picture looks."""
    augmented_paired: int = 0
    """Variants of each paired photo, which train against the light of the photos that people bring."""
    min_similarity: float = 0.0
    """A paired photo less alike than this (cosine) is left out; 0.3 weeds out wrong identities with buffalo_l."""
    couple_folders: bool = False
    """All pictures of one folder show the same two people, each a folder of their own: they are paired photos of each other. Who is
    who among them, faces say; where they do not clearly, the photo is left out."""
    flip: float = 0.5
    """Chance that a variant is mirrored."""
    light: float = 1.0
    """How far light may change: stops between the halves of the face, and half as many in exposure."""
    color: float = 0.15
    """How far the three channels and the saturation may change, as a share."""


@dataclass
class PrepareSettings:
    """Turn pictures of two people into shards that training streams.

    First look at what would be done, which needs no models: `python -m training prepare --data photos --out shards
    --dry_run`. Kill a run whenever you like: the same command goes on, and the shards are the same bytes as without the
    interruption. Pictures that cannot be used are set aside with the reason, in report.md. Many machines: give each of
    them a part, `--slice 3/16`, and put the parts together with `--merge shards`.
    """

    data: str = ""
    """The pictures, when there is one source; see `sources`."""
    sources: list[Source] = field(default_factory=list)
    """Several sources, with their weights."""
    out: str = ""
    """The folder that shards go to; on a disk, or by its URL on a store (with universal_pathlib)."""
    base: str = "sdxl-base-1.0"
    """The SDXL base whose VAE and text encoders are used: a diffusers folder, a .safetensors, mini, or tiny."""
    vision: str = "h94/IP-Adapter/models/image_encoder"
    """The CLIP vision tower: a folder, owner/name/folder on Hugging Face, mini, tiny, or module:function."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    """Which faces count."""
    references: ReferenceSettings = field(default_factory=ReferenceSettings)
    """The reference photos of each person."""
    resolution: int = 1024
    """Pictures get about this many px squared, in the bucket whose shape is nearest."""
    bucket_step: int = 64
    """Sides of buckets are multiples of it, px."""
    max_aspect: float = 2.0
    """Longest bucket: the longer side over the shorter."""
    min_side: int = 512
    """Pictures with a shorter side below it are set aside, px."""
    identities: str = ""
    """A table that says who is on which picture: people.csv as an earlier run proposed it, corrected or not, or one of your own with
    file_name (and source, where there are several), identity_1 and identity_2: whom the caption names first and second."""
    validation: float | None = None
    """Share of the samples that are held out for the validation loss, by people: nobody is on both sides, as far as identities and
    faces say. Left empty: as the folder has it. It can be set or changed later, with `--merge FOLDER --validation 0.1`."""
    unknown_gender: Literal["set_aside", "left_to_right"] = "set_aside"
    """A caption names a man and a woman, and nothing says which face is whose: leave the picture out, or take the first
    one named for the one on the left."""
    pictures: bool = True
    """Also keep the cropped pictures (JPEG) in the shards: for the contact sheet and for sample grids in training."""
    shard_size: int = 256
    """Pictures a shard. A run that was killed loses no more than the shard it was writing."""
    slice: str = "1/1"
    """The part of the shards that this run makes: 3/16 is the third of sixteen. Any machine can make any slice."""
    merge: str = ""
    """Put the finished slices in this folder together, and do nothing else."""
    seed: int = 0
    """Of the augmentation and of the choice among paired photos."""
    workers: int = 4
    """Processes that open pictures and look for faces; 0 does it in the main process."""
    batch_size: int = 8
    """Pictures that the encoders take at once."""
    device: str = "auto"
    """auto, cuda, mps or cpu."""
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    """Of the encoders; the VAE stays in fp32 where its configuration asks for it."""

    def all_sources(self) -> list[Source]:
        """`data` and `sources` as one list."""
        return ([Source(self.data)] if self.data else []) + self.sources

    def slice_of(self) -> tuple[int, int]:
        """(k, n) of "k/n"."""
        first, slash, second = self.slice.partition("/")
        if not slash or not first.strip().isdecimal() or not second.strip().isdecimal():
            raise TrainingError(
                f"slice is {self.slice!r}; write which part of how many, for instance 3/16.", code="bad-slice"
            )
        part, parts = int(first), int(second)
        if not 1 <= part <= parts:
            raise TrainingError(
                f"slice is {self.slice!r}; the first number goes from 1 to the second.", code="bad-slice"
            )
        return part, parts

    def check(self) -> None:
        """Refuse settings that cannot be; TrainingError names the field, its value and what it may be."""
        if not self.out:
            raise TrainingError("out is not set: give the folder for the shards, --out FOLDER.", code="no-out")
        if not self.all_sources():
            raise TrainingError(
                "There is nothing to prepare: give --data FOLDER, or sources in the YAML file.", code="no-source"
            )
        self.check_merge()
        for source in self.all_sources():
            if not source.path:
                raise TrainingError("A source has no path: say where its pictures are.", code="source-without-path")
            _range(f"weight of the source {source.path}", source.weight, 0.0)
        for name, low in _MINIMUM.items():
            value = getattr(self, name)
            _range(name, value, low)
        for name, low, high in (
            ("min_size", 1, math.inf),
            ("third_face_ratio", 0, math.inf),
            ("same_person", 0, math.inf),
            ("alike", 0.05, 1),
        ):
            _range(f"faces.{name}", getattr(self.faces, name), low, high)
        for name, high in (
            ("augmented", 64),
            ("paired", 64),
            ("augmented_paired", 64),
            ("min_similarity", 1),
            ("flip", 1),
            ("light", 4),
            ("color", 0.9),
        ):
            _range(f"references.{name}", getattr(self.references, name), 0, high)
        if self.bucket_step % 8:
            raise TrainingError(
                f"bucket_step is {self.bucket_step}; it has to be a multiple of 8, a latent's pixel.",
                code="setting-out-of-range",
            )
        if self.resolution < self.bucket_step:
            raise TrainingError(
                f"resolution is {self.resolution}, less than bucket_step ({self.bucket_step}): no bucket is that small.",
                code="setting-out-of-range",
            )
        self.slice_of()

    def check_merge(self) -> None:
        """Refuse what cannot be of the settings that `--merge` reads. TrainingError."""
        if self.validation is not None:
            _range("validation", self.validation, 0.0, 0.5)

    def fingerprint(self) -> dict:
        """The settings that the contents of shards depend on; all parts of one data set have to agree in them."""
        free = ("data", "sources", "out", "slice", "merge", "workers", "batch_size", "device", "dtype")
        free += ("identities", "validation")  # what the table says is in the list of pictures
        kept = {name: value for name, value in asdict(self).items() if name not in free}
        if not kept["references"]["augmented_paired"]:  # plans from before it was there stay the same
            del kept["references"]["augmented_paired"]
        if not kept["references"]["couple_folders"]:
            del kept["references"]["couple_folders"]
        elsewhere = ("root", "provider", "alike")
        kept["faces"] = {name: value for name, value in kept["faces"].items() if name not in elsewhere}
        kept["faces"] = {_ON_DISK.get(name, name): value for name, value in kept["faces"].items()}
        kept["references"] = {_ON_DISK.get(name, name): value for name, value in kept["references"].items()}
        for part, name in ((kept, "base"), (kept, "vision"), (kept["faces"], "pack")):
            part[name] = Path(part[name]).name  # machines that share the work may keep their models in other places
        return kept


_ON_DISK = {"third_face_ratio": "third", "color": "colour"}
"""Name of a setting -> its name in plan.json, which slices made by an earlier version have to agree with."""

_MINIMUM = {
    "resolution": 8,
    "bucket_step": 8,
    "max_aspect": 1.0,
    "min_side": 1,
    "shard_size": 1,
    "seed": 0,
    "workers": 0,
    "batch_size": 1,
}


def _range(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high:  # NaN fails this too
        allowed = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise TrainingError(f"{name} is {value:g}; it has to be {allowed}.", code="setting-out-of-range")
