"""What weights exist, where they come from, where they belong, and under which license.

The doctor, the download, the nodes' folders and the README's table all say the same because it stands here. Nothing is
imported that takes time.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AURAFACE",
    "AURAFACE_RECOGNIZER",
    "BASE",
    "CATALOGUE",
    "DHUMANDIFF",
    "FACE_PACKS",
    "FLUX",
    "IMAGE_ENCODER",
    "IP_ADAPTER",
    "PARTS2WHOLE",
    "SFACE",
    "SFACE_RECOGNIZER",
    "SIGLIP",
    "WITHANYONE",
    "WITHANYONE_FACE_PACK",
    "WITHANYONE_RECOGNIZER",
    "YUNET",
    "KnownWeights",
]


@dataclass(frozen=True)
class KnownWeights:
    """Weights that somebody published."""

    title: str
    """What people call them."""
    folder: str
    """Kind of model, as ComfyUI's model folders are called: models/<folder>/."""
    license: str
    """In a few words, as messages quote it."""
    name: str = ""
    """Folder or file below `folder` that they go by; empty where any name does."""
    repository: str = ""
    """Where they are on Hugging Face, owner/name; empty for what lies elsewhere."""
    inside: str = ""
    """Folder inside the repository."""
    files: tuple[str, ...] = ()
    """Names of the files; empty where there are many to choose from."""
    folders: tuple[str, ...] = ()
    """Folders of the repository that belong to it, with all that is in them."""
    required_folders: tuple[str, ...] = ()
    """Those of them without which nothing works."""

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"https://huggingface.co/{self.repository}" if self.repository else ""


DHUMANDIFF = KnownWeights(
    title="DHumanDiff's released weights",
    folder="dhumandiff",
    license="none stated by the authors",
    name="DHumanDiff",
    repository="Pan1111/DHumanDiff",
    files=("face_projection.pt", "face_projection2.pt", "mapping.pt", "ip_adapter_ca.pt"),
)

IP_ADAPTER = KnownWeights(
    title="IP-Adapter Plus (Face) SDXL ViT-H",
    folder="ipadapter",
    license="Apache-2.0",
    repository="h94/IP-Adapter",
    inside="sdxl_models",
)

IMAGE_ENCODER = KnownWeights(
    title="CLIP ViT-H/14",
    folder="clip_vision",
    license="Apache-2.0",
    repository="h94/IP-Adapter",
    inside="models/image_encoder",
    files=("config.json", "model.safetensors"),
)

FACE_PACKS = tuple(
    KnownWeights(
        title=f"InsightFace pack {name}",
        folder="insightface/models",
        license="non-commercial research only",
        name=name,
    )
    for name in ("buffalo_l", "antelopev2")
)
"""InsightFace's own packs; DHumanDiff's released weights were trained with the first, WithAnyone's with the second."""

WITHANYONE_FACE_PACK = FACE_PACKS[1]

WITHANYONE_RECOGNIZER = (f"{WITHANYONE_FACE_PACK.name}/glintr100", "4ab1d6435d639628")
"""Name and hash (`faces.same_recognizer`) of the recognizer in that pack, as InsightFace publishes it. AuraFace's has the same name."""

YUNET = KnownWeights(
    title="YuNet",
    folder="insightface/models",
    license="MIT",
    name="open",
    repository="opencv/face_detection_yunet",
    files=("face_detection_yunet_2023mar.onnx",),
)
"""A face detector of OpenCV's zoo, 232,589 bytes. The zoo's GitHub also has face_detection_yunet_2026may.onnx, for pictures of any size."""

AURAFACE = KnownWeights(
    title="AuraFace v1",
    folder="insightface/models",
    license="Apache-2.0",
    name="open",
    repository="fal/AuraFace-v1",
    files=("glintr100.onnx",),
)
"""A face recognizer, 260,694,151 bytes. The other .onnx files of that repository are InsightFace's, for non-commercial use."""

AURAFACE_RECOGNIZER = ("auraface/glintr100", "a7933ea5330113b0")
"""Name and hash (`faces.same_recognizer`) of that file. InsightFace's antelopev2 has another one of the same name."""

SFACE = KnownWeights(
    title="SFace",
    folder="insightface/models",
    license="Apache-2.0",
    name="open",
    repository="opencv/face_recognition_sface",
    files=("face_recognition_sface_2021dec.onnx",),
)
"""A second face recognizer, 38,696,353 bytes: embeddings of 128 numbers, for scoring alone."""

SFACE_RECOGNIZER = ("sface/face_recognition_sface_2021dec", "0ba9fbfa01b5270c")

BASE = KnownWeights(
    title="SDXL",
    folder="checkpoints",
    license="CreativeML Open RAIL++-M (base 1.0); others their own",
    repository="stabilityai/stable-diffusion-xl-base-1.0",
)

PARTS2WHOLE = KnownWeights(
    title="Parts2Whole's released weights",
    folder="dhumandiff",
    license="MIT",
    name="Parts2Whole",
    repository="huanngzh/Parts2Whole",
    files=("decoupled_attn.pth",),
    required_folders=("reference_unet", "pose_guider"),
    folders=("reference_unet", "pose_guider", "unet", "text_encoder", "tokenizer", "vae", "image_encoder", "scheduler"),
)
"""The method's three, and the Stable Diffusion 1.5 that it was trained with."""

WITHANYONE = KnownWeights(
    title="WithAnyone's weights for FLUX.1",
    folder="withanyone",
    license="FLUX.1 [dev] Non-Commercial License; non-commercial academic research only",
    repository="WithAnyone/WithAnyone",
    files=("withanyone.safetensors",),
)
"""The repository has files for FLUX.1 Kontext, too (previews); their names could not be looked up."""

SIGLIP = KnownWeights(
    title="SigLIP base-patch16-256-i18n",
    folder="clip_vision",
    license="Apache-2.0",
    repository="google/siglip-base-patch16-256-i18n",
    files=("model.safetensors",),
)

FLUX = KnownWeights(
    title="FLUX.1",
    folder="diffusion_models",
    license="FLUX.1 [dev] Non-Commercial License",
    repository="black-forest-labs/FLUX.1-dev",
    files=("flux1-dev.safetensors",),
)

CATALOGUE = (
    BASE,
    IMAGE_ENCODER,
    *FACE_PACKS,
    YUNET,
    AURAFACE,
    SFACE,
    DHUMANDIFF,
    IP_ADAPTER,
    PARTS2WHOLE,
    FLUX,
    WITHANYONE,
    SIGLIP,
)
