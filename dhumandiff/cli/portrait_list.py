"""What a first portrait needs, file by file: from where, to where in a models folder, how large, under which license.

It can be printed without a network, for those who fetch files with something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..catalogue import (
    AURAFACE,
    BASE,
    DHUMANDIFF,
    FACE_PACKS,
    IMAGE_ENCODER,
    IP_ADAPTER,
    SFACE,
    YUNET,
    KnownWeights,
)

__all__ = ["ITEMS", "Item", "Source", "as_table", "human_size"]


@dataclass(frozen=True)
class Source:
    """One file to fetch.

    Attributes:
        repository: owner/name on Hugging Face; "" for a plain address.
        remote: the file there, or the whole address.
        place: below the models folder, where it goes; of a .zip, the folder for what is in it.
    """

    repository: str
    remote: str
    place: str

    @property
    def url(self) -> str:
        """Where a browser fetches it."""
        return (
            f"https://huggingface.co/{self.repository}/resolve/main/{self.remote}" if self.repository else self.remote
        )


@dataclass(frozen=True)
class Item:
    """Something that a portrait needs.

    Attributes:
        key: what --items calls it.
        title: what people call it.
        purpose: what it is for.
        license: in a few words.
        size: bytes of all its files, about; the hub's own numbers count when it is asked.
        sources: its files.
        usual: whether a first portrait needs it; the others are choices beside it.
    """

    key: str
    title: str
    purpose: str
    license: str
    size: int
    sources: tuple[Source, ...]
    usual: bool = True


_IP_ADAPTER_FILE = "ip-adapter-plus-face_sdxl_vit-h.safetensors"
_PACK = FACE_PACKS[0]
_PACK_URL = f"https://github.com/deepinsight/insightface/releases/download/v0.7/{_PACK.name}.zip"


def _open_item(key: str, known: KnownWeights, purpose: str, size: int) -> Item:
    """A file of the pack of face models that everybody may use."""
    (name,) = known.files
    source = Source(known.repository, name, f"{known.folder}/{known.name}/{name}")
    return Item(key, known.title, purpose, known.license, size, (source,), usual=False)


ITEMS = (
    Item(
        "base",
        "SDXL base 1.0",
        "draws; any other SDXL checkpoint does as well",
        BASE.license.partition(" (")[0],
        6_938_078_334,
        (Source(BASE.repository, "sd_xl_base_1.0.safetensors", f"{BASE.folder}/sd_xl_base_1.0.safetensors"),),
    ),
    Item(
        "image-encoder",
        IMAGE_ENCODER.title,
        "looks at the photos",
        IMAGE_ENCODER.license,
        2_528_373_448,
        (
            Source(
                IMAGE_ENCODER.repository,
                f"{IMAGE_ENCODER.inside}/model.safetensors",
                f"{IMAGE_ENCODER.folder}/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",  # as ComfyUI's users know it
            ),
        ),
    ),
    Item(
        "adapter",
        DHUMANDIFF.title,
        "puts two people into the picture",
        DHUMANDIFF.license,
        1_640_000_000,
        tuple(
            Source(DHUMANDIFF.repository, name, f"{DHUMANDIFF.folder}/{DHUMANDIFF.name}/{name}")
            for name in DHUMANDIFF.files
        ),
    ),
    Item(
        "face-pack",
        _PACK.title,
        "finds and recognizes the faces",
        _PACK.license,
        289_000_000,
        (Source("", _PACK_URL, f"{_PACK.folder}/{_PACK.name}"),),
    ),
    Item(
        "ip-adapter",
        "IP-Adapter Plus Face for SDXL",
        "in place of the adapter: one to four people, a mask each, no words",
        IP_ADAPTER.license,
        847_517_512,
        (
            Source(
                IP_ADAPTER.repository,
                f"{IP_ADAPTER.inside}/{_IP_ADAPTER_FILE}",
                f"{IP_ADAPTER.folder}/{_IP_ADAPTER_FILE}",
            ),
        ),
        usual=False,
    ),
    _open_item("yunet", YUNET, "finds faces, without InsightFace: the pack `open`", 232_589),
    _open_item("auraface", AURAFACE, "recognizes faces, for adapters trained with it: the pack `open`", 260_694_151),
    _open_item("sface", SFACE, "a judge of who is who, for scoring alone", 38_696_353),
)


def human_size(size: int) -> str:
    """Bytes in GB or MB, as download pages count them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def as_table(items: Sequence[Item], models: Path) -> str:
    """What to put where, for people who fetch the files themselves."""
    rows = []
    for item in items:
        rows.append(
            f"{item.title} ({item.key}): {item.purpose}. About {human_size(item.size)}; license: {item.license}"
        )
        for source in item.sources:
            unpack = source.remote.endswith(".zip")
            rows.append(f"  get      {source.url}")
            rows.append(f"  {'unpack it to' if unpack else 'save it as'} {models / source.place}")
    return "\n".join(rows)
