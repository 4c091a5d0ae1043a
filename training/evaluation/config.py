"""The settings of `python -m training evaluate`: a dataclass whose fields say what they are for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .. import TrainingError
from ..data.settings import FaceSettings
from ..parsing import check_setting

__all__ = ["EvaluateConfig"]


@dataclass
class EvaluateConfig:
    """Score an adapter, or any system's pictures: by who is on them, where cases say who should be."""

    run: str = ""
    """Folder of a run; the averaged weights of its best checkpoint are scored."""
    adapter: str = ""
    """Weights instead of a run: a native .safetensors, or a folder with the four released files. With neither, the miniature
    that ships is scored."""
    base: str = ""
    """The base model to draw with; if left empty the run's, and without cases mini."""
    out: str = "evaluation"
    """Folder that the results go to; what lies there under the same names is replaced."""
    cases: str = ""
    """A .jsonl of cases, each the photos of people and a sentence; see training/evaluation/cases.py."""
    pictures: str = ""
    """Folder with the finished pictures of the cases, <id>.png or <id>_<seed>.png; nothing is drawn then."""
    bench: str = ""
    """Folder in MultiID-Bench's layout, instead of cases: <id>/out.jpg, ori.jpg, ref_1.jpg ..., meta.json."""
    against: str = ""
    """The --out folder of another evaluation of the same cases, to compare with picture by picture."""
    rank: list[str] = field(default_factory=list)
    """The --out folders of several evaluations of the same cases, to be ranked in one table; nothing is drawn or scored then."""
    rank_by: str = "right"
    """The measure that ranks: right, all_right, margin, sim_ref, sim_gt, copy_paste, blending, present, clip_t, clip_i, or a score of
    your own."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    """Who recognizes. Best another recognizer than the adapter was trained with: it would be its own judge."""
    adapter_pack: str = ""
    """Drawing cases: the face pack that the adapter was trained with, which makes its references, where `faces` is another one."""
    clip: str = ""
    """CLIP for CLIP-T and CLIP-I: a folder, or an id such as openai/clip-vit-base-patch16. Left empty, neither is computed."""
    scorers: list[str] = field(default_factory=list)
    """Further scores, such as aesthetics, each a module:function that makes a dhumandiff.protocols.PictureScorer."""
    image_encoder: str = ""
    """Drawing cases: CLIP ViT-H/14, a folder or id; IP-Adapter's if left empty."""
    size: list[int] | None = None
    """Drawing cases: width and height, px; null: as published, 512 x 512."""
    strengths: list[float] = field(default_factory=list)
    """Drawing cases: factors of all strengths to compare, such as [0.5, 1.0, 1.5]."""
    pairs: int = 200
    """mini: held-out pairs of people."""
    seeds: int = 3
    """Portraits of each pair or case."""
    hardest: int = 50
    """mini: pairs of one gender that look most alike, scored beside the others; 0: none."""
    sheet: int = 8
    """mini: pairs in the picture sheet.png; 0: no such picture."""
    mode: Literal["none", "one_pass", "two_strength", "released"] = "one_pass"
    """mini: of the cascade."""
    scene_strength: float = 0.7
    """mini: of the cascade."""
    face_strength: float = 1.0
    """mini: of the cascade."""
    strength: float = 1.0
    """mini: of both people where the mode is none."""
    regions: Literal["given", "attention", "router"] = "given"
    """mini, a dual pathway: where regions come from; given: a head on either side, as the sentence puts them."""
    identity_strength: float = 1.0
    """mini, a dual pathway: of the identity path, inside of the regions."""
    text_strength: float = 1.0
    """mini, a dual pathway: of the text-consistency path, outside of them; 1 is what training had."""
    cfg: float | None = None
    """mini: guidance; null: what the miniature is measured with."""
    steps: int | None = None
    """mini: of the sampler; null: what the miniature is measured with."""
    sampler: Literal["euler", "euler_ancestral"] | None = None
    """Drawing: null: euler; mini: what the miniature is measured with."""
    data: list[str] = field(default_factory=list)
    """Prepared folders (`python -m training prepare`) of people that were not trained on, for the loss. If left empty, those
    that the run held out."""
    batches: int = 0
    """Micro batches of data that the loss is the mean of; 0: as many as the run validates with."""

    def __post_init__(self) -> None:
        check_setting(bool(self.out), "out", self.out, "it names a folder to write to")
        if self.rank and (len(set(self.rank)) < 2 or len(set(self.rank)) < len(self.rank)):
            raise TrainingError(
                f"rank names {', '.join(self.rank)}, but two different evaluations at least can be ranked. Name their --out folders.",
                code="too-few-to-rank",
            )
        check_setting(self.pairs >= 1, "pairs", self.pairs, "it must be 1 or more")
        check_setting(1 <= self.seeds <= 100, "seeds", self.seeds, "it lies from 1 to 100")
        for name in ("hardest", "sheet", "batches"):
            check_setting(getattr(self, name) >= 0, name, getattr(self, name), "it must be 0 or more")
        for name in ("pictures", "strengths", "size"):
            if getattr(self, name) and not self.cases:
                raise TrainingError(
                    f"{name} goes with cases: name their .jsonl with --cases.", code="setting-without-cases"
                )
        if self.bench and self.cases:
            raise TrainingError(
                "bench and cases are both given. Name one of them: what the pictures should show.",
                code="cases-and-bench",
            )
        check_setting(self.size is None or len(self.size) == 2, "size", self.size, "it is width and height")
        if self.run and self.adapter:
            raise TrainingError(
                "run and adapter are both given. Name one of them: what is to be judged.", code="run-and-adapter"
            )
