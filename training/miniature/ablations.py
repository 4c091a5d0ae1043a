"""The ablations of the miniature: what is trained or sampled otherwise, and how well that keeps people apart.

    score_ablation("full", "adapter.safetensors")     # -> training/miniature/ablation_results/full.json
    print(brief(load_results()))                      # table.py: Markdown, made from the JSON files alone

`python -m training mini --row NAME` trains one (the shipped adapter's configuration and `Ablation.arguments`) and scores it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dhumandiff.errors import short_error
from dhumandiff.io import atomic_write
from dhumandiff.methods.dual_pathway import DualPathwaySettings
from dhumandiff.miniature import mini_adapter
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.design import DESIGN, SECOND
from dhumandiff.miniature.weights import FOLDER as WEIGHTS
from dhumandiff.miniature.world import LIGHTS

from .. import TrainingError
from ..run.weights import load_weights
from .rendering import HARDEST, PAIRS, SEEDS, Renderer, Subject, render_and_score
from .sampling import Sampling
from .stages import CONFIGS

__all__ = ["ABLATIONS", "FIRST_FOLDER", "FOLDER", "Ablation", "load_results", "save_result", "score_ablation"]

FOLDER = Path(__file__).parent / "ablation_results"
"""Where the results' JSON files are."""
FIRST_FOLDER = Path(__file__).parent / "results_128x96"
"""Those of the miniature before, which drew 128 x 96 px; its expressions are in told/."""


@dataclass(frozen=True)
class Ablation:
    """One row of the table.

    Attributes:
        name: of its file and on the command line.
        title: in the table.
        training: fields of TrainConfig that differ from the shipped adapter's, and their values; without any, the shipped
            adapter itself is scored.
        sampling: how its pictures are sampled.
        what: who draws; see `Subject`.
        light: of the photos that condition, of `world.LIGHTS`; empty: as the world draws them.
        normalize_light: even it out again.
        late_first: sentences name person 2 first.
        data: of the data that it is trained on, the end of a stage's name in larger.py; empty: what the shipped adapter saw.
        weights_of: the row whose weights are scored; empty: its own, or those that ship where it trains nothing.
        config: of training/configs, over the shipped adapter's; empty: none.
        begins_with: the row whose weights it is trained on from; empty: what `training` says.
        seeds: pictures of each pair.
        hardest: pairs most alike that are scored besides.
    """

    name: str
    title: str
    training: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    what: Subject = "adapter"
    light: str = ""
    normalize_light: bool = False
    late_first: bool = False
    data: str = ""
    weights_of: str = ""
    config: str = ""
    begins_with: str = ""
    seeds: int = SEEDS
    hardest: int = HARDEST

    @property
    def trains(self) -> bool:
        """Whether it has weights of its own."""
        return bool(self.training or self.data or self.config)

    @property
    def shards(self) -> str:
        """The name of the folder with its data."""
        return f"shards_{self.data}" if self.data else "shards"

    @property
    def prepare(self) -> str:
        """The stage that makes it."""
        return f"prepare_{self.data}" if self.data else "prepare"

    @property
    def arguments(self) -> list[str]:
        """`training` as words of the command line of `python -m training train`."""
        words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.training.items()}
        config = ["--config", str(CONFIGS / self.config)] if self.config else []
        return [*config, *(word for name, value in words.items() for word in (f"--{name}", value))]


SHORT = {"steps": 1000} if DESIGN is SECOND else {}
"""Rows with an adapter of their own take a third of the steps of the one that ships, and are held against the whole method with as few."""


LEAN: dict[str, Any] = {"hardest": 0} if SHORT else {}
BRIEF: dict[str, Any] = {"seeds": 1, **LEAN} if SHORT else {}
"""How much is drawn of rows that stand for themselves: a picture takes three times as long as the first design's."""


def _short(name: str, title: str, training: Mapping[str, Any] | None = None, **changed: Any) -> Ablation:
    return Ablation(name, title, {**SHORT, **(training or {})}, **BRIEF, **changed)


def _off(strength: float) -> Ablation:
    sampling = Sampling.of(mode="none", strength=strength)
    return Ablation(f"off_{strength:g}", f"cascade off, strength {strength:g}", sampling=sampling, **LEAN)


def _cascade(mode: str, scene: float, face: float) -> Ablation:
    sampling = Sampling.of(mode=mode, scene_strength=scene, face_strength=face)
    size = LEAN if mode == "one_pass" or (scene, face) == (0.7, 1.0) else BRIEF
    return Ablation(f"{mode}_{scene:g}_{face:g}", f"cascade {mode}, {scene:g} and {face:g}", sampling=sampling, **size)


def _during(start: float, end: float) -> Ablation:
    title = f"faces count from {start:.0%} to {end:.0%} of sampling"
    size = LEAN if (start, end) == (0.0, 0.8) else BRIEF
    return Ablation(f"during_{start:g}_{end:g}", title, sampling=Sampling.of(start=start, end=end), **size)


def _few(name: str, title: str, **changed: Any) -> Ablation:
    """As distilled bases draw: 4 steps, no guidance."""
    return Ablation(
        name, f"4 steps without guidance, {title}", sampling=Sampling.of(steps=4, cfg=1.0, **changed), **BRIEF
    )


LOSS = 55.0 if DESIGN.prediction == "v_prediction" else 1.0
"""How much larger the loss of pictures is than that of the first design, whose weights of other losses these are."""


def _longer(name: str, title: str, **changed: Any) -> Ablation:
    """600 steps more from the adapter without identity losses, small ones, of these losses unless `changed` says otherwise."""
    training = {
        "init.weights": "mini",
        "steps": 600,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 1e-4,
        "optimizer.warmup_steps": 20,
        "objectives.identity.weight": 0.02 * LOSS,
        "objectives.identity.infonce_weight": 0.005 * LOSS,
        "objectives.identity.recognizer": "mini",
        "objectives.identity.max_noise_level": 0.8,
    }
    changed = {key.replace("__", "."): value for key, value in changed.items()}
    if not SHORT:
        return Ablation(name, title, {**training, **changed})
    del training["init.weights"]  # the adapter that ships ends with such steps
    return Ablation(name, title, {**training, **changed}, begins_with="no_identity", **BRIEF)


FEATHER = SIZE[0] / 32
"""Px: of a face as much as 16 px are of one in a picture of 512 px. At 8 px a latent pixel that is a hard border."""


def _dual(name: str, title: str, *strengths: float, regions: str = "given", **changed: Any) -> Ablation:
    """The dual pathway: s_v and s_t, and where its regions come from."""
    settings = DualPathwaySettings(*strengths, regions=regions, feather=FEATHER)
    return Ablation(name, f"dual pathway, {title}", sampling=Sampling.of(dual=settings), hardest=0, **changed)


def _duals() -> Iterator[Ablation]:
    for strengths in ((1.0, 0.0), (1.3, 0.0), (1.0, 0.4)):
        named = "_".join(f"{strength:g}" for strength in strengths)
        title = f"untrained, {strengths[0]:g} in the heads and {strengths[1]:g} elsewhere"
        yield _dual(f"dual_given_{named}", title, *strengths)
    for elsewhere in (0.4, 0.7):
        title = f"untrained, 1 where the attention finds faces, {elsewhere:g} elsewhere"
        yield _dual(f"dual_attention_1_{elsewhere:g}", title, 1.0, elsewhere, regions="attention")
    trained: dict[str, Any] = {"weights_of": "dual_trained"}
    yield _dual("dual_trained", "trained, 1 in the heads and elsewhere", 1.0, 1.0, config="mini_dual.yaml")
    yield _dual("dual_trained_1.3_1", "trained, 1.3 in the heads and 1 elsewhere", 1.3, 1.0, **trained)
    title = "untrained with a router, 1 where it finds people and 0 elsewhere"
    yield _dual("dual_router", title, 1.0, 0.0, regions="router", config="mini_router.yaml")


def _lights() -> Iterator[Ablation]:
    """Every light: as it is, evened out, and with an adapter that was trained on photos in changed light."""
    yield _short("light_augmentation", "trained on photos in changed light", {"augment.augmented": 0.6})
    plain = "short" if SHORT else ""  # trained as long
    for light in LIGHTS:
        name = f"light_{light.replace(' ', '_')}"
        title = f"photos in {light} light" if light != "old photo" else "old photos"
        yield Ablation(name, title, light=light, weights_of=plain, **BRIEF)
        evened: dict[str, Any] = {"light": light, "normalize_light": True, "weights_of": plain}
        yield Ablation(f"{name}_normalised", f"{title}, normalise_light", **evened, **BRIEF)
        trained = {"weights_of": "light_augmentation"}
        yield Ablation(f"{name}_trained", f"{title}, trained on such", light=light, **trained, **BRIEF)


_PLAIN = {"objectives__identity__weight": 0.0, "objectives__identity__infonce_weight": 0.0}

_ALL = (
    Ablation("full", "the whole method (one_pass, 0.7 and 1)"),
    Ablation("base", "base without adapter", sampling=Sampling.of(mode="none"), what="base"),
    Ablation("ceiling", "ceiling: fresh drawings through the autoencoder", what="oracle"),
    *([_short("short", f"the whole method, {SHORT['steps']:,} steps of training")] if SHORT else []),
    _short("shared", "one shared K/V for both people", {"init.shared": True}),
    _short("order_swapping", "order swapped: person 1 is any of the two", {"augment.swap_order": 0.5}),
    Ablation("late_first", "sentences that name person 2 first", late_first=True, **LEAN),
    Ablation(
        "late_first_swapping",
        "sentences that name person 2 first, order swapped in training",
        late_first=True,
        weights_of="order_swapping",
        **BRIEF,
    ),
    _short("no_subject_prompt", "no subject prompt", {"init.subject_path": False}),
    _short(
        "no_localisation",
        "no localisation",
        {"objectives.localization.weight": 0.0, "objectives.localization.word_weight": 0.0},
    ),
    _short("reconstruction_only", "reconstruction only, no paired references", {"augment.paired": 0.0}),
    *([Ablation("no_identity", "without the identity losses that end its training", {"steps": 3000})] if SHORT else []),
    _longer("longer", "600 steps more, without identity losses", **_PLAIN),
    _longer("identity", "600 steps more, with identity losses"),
    _longer("identity_no_pairs", "the same without paired references", augment__paired=0.0),
    _longer(
        "identity_no_alignment",
        "the same aligned by the prediction's own landmarks",
        objectives__identity__aligned_by="prediction",
    ),
    _longer("identity_no_negatives", "the same without the bank's negatives", objectives__identity__negatives=0),
    *(_off(strength) for strength in (0.4, 0.7, 1.0, 1.3)),
    *(_cascade("one_pass", *both) for both in ((0.4, 0.7), (0.4, 1.0), (0.7, 1.3), (1.0, 1.3))),
    *(_cascade("two_strength", *both) for both in ((0.4, 0.7), (0.4, 1.0), (0.7, 1.0), (1.0, 1.3))),
    *(_cascade("released", *both) for both in ((0.4, 0.7), (0.7, 1.0), (1.0, 1.3))),
    *(_during(*share) for share in ((0.0, 0.5), (0.0, 0.8), (0.1, 1.0), (0.3, 1.0))),
    *(
        Ablation(
            f"heard_{which}", f"focus from {layers} of each transformer", sampling=Sampling.of(heard=which), **LEAN
        )
        for which, layers in (("first", "the first layer"), ("all", "all layers"))
    ),
    *_lights(),
    _short("unequal", "trained on pictures of mostly young people", data="unequal"),
    _short(
        "unequal_balanced",
        "the same, drawn evenly by age (data.balance)",
        {"data.balance": ["age_group"]},
        data="unequal",
    ),
    _few("few_off", "cascade off, strength 1", mode="none"),
    _few("few_one_pass", "one_pass, 0.7 and 1"),
    _few("few_two_strength", "two_strength, 0.7 and 1", mode="two_strength"),
    *_duals(),
)

ABLATIONS: dict[str, Ablation] = {ablation.name: ablation for ablation in _ALL}
"""All of them, in the order of the table."""


def score_ablation(
    name: str,
    adapter: str | Path | None = None,
    sampling: Sampling | None = None,
    *,
    pairs: int = PAIRS,
    seeds: int | None = None,
    hardest: int | None = None,
    out: Path = FOLDER,
    renderer: Renderer | None = None,
) -> Path:
    """Score an ablation and keep the result as <out>/<name>.json.

    Args:
        name: of `ABLATIONS`.
        adapter: its weights; None: those that ship, for ablations that train nothing.
        sampling: None: the ablation's.
        pairs: held-out pairs.
        seeds: pictures of each pair; None: the ablation's.
        hardest: pairs most alike, with as many pictures each; 0: none, None: the ablation's.
        out: folder.
        renderer: to load the parts but once for several ablations.

    Returns:
        The file.

    Raises:
        TrainingError: no such ablation, no weights for one that has its own, or the file cannot be written.
        AdapterError, HostError: weights that do not fit.
    """
    if name not in ABLATIONS:
        raise TrainingError(f"There is no row {name!r}. The rows are: {', '.join(ABLATIONS)}.", code="no-such-ablation")
    ablation, started = ABLATIONS[name], time.perf_counter()
    if (ablation.trains or ablation.weights_of) and adapter is None:
        trained = ABLATIONS[ablation.weights_of or name]
        raise TrainingError(
            f"The row {name} has weights of its own ({' '.join(trained.arguments) or trained.title}). Train them with `python -m training mini "
            f"--row {name}`, or name their file.",
            code="ablation-without-weights",
        )
    file = Path(adapter) if adapter is not None else WEIGHTS / "adapter.safetensors"
    weights = None
    if ablation.what == "adapter":
        weights = mini_adapter() if adapter is None else load_weights(file)
    seeds, hardest = ablation.seeds if seeds is None else seeds, ablation.hardest if hardest is None else hardest
    renderer = (renderer or Renderer()).with_people(ablation.light, ablation.normalize_light, ablation.late_first)
    result, _ = render_and_score(
        renderer, weights, sampling or ablation.sampling, ablation.what, pairs, seeds, hardest, name
    )
    about = {"name": name, "title": ablation.title, "command": f"python -m training mini --row {name}"}
    done = {"weights": digests(file if weights is not None else None), "versions": versions()}
    seconds = round(time.perf_counter() - started, 1)
    training: dict[str, Any] = {"training": dict(ablation.training)}
    if ablation.config:
        training["config"] = ablation.config
    if ablation.data:
        training["data"] = ablation.data
    if ablation.late_first:
        training["late_first"] = True
    if ablation.light:
        training |= {"light": ablation.light, "normalise_light": ablation.normalize_light}
    return save_result({**about, **training, **result, **done, "seconds": seconds}, out)


def save_result(result: Mapping[str, Any], folder: Path) -> Path:
    """Write <folder>/<name>.json, at once or not at all.

    Raises:
        TrainingError: that cannot be.
    """
    text = json.dumps(_rounded(result), indent=1, ensure_ascii=False)
    text = re.sub(r"\[[-\d.,\s]+\]", lambda list_: "".join(list_[0].split()).replace(",", ", "), text)  # in one line
    path = Path(folder) / f"{result['name']}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Choose another folder.", code="cannot-write"
        ) from error
    return path


def load_results(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The ablations that were scored, by name, in the order of the table.

    Raises:
        TrainingError: a file that cannot be read.
    """
    rows = [_read(path) for path in sorted(Path(folder).glob("*.json"))]
    order = {name: rank for rank, name in enumerate(ABLATIONS)}
    rows.sort(key=lambda row: order.get(row["name"], len(order)))
    return {row["name"]: row for row in rows}


def _read(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return {**row, "name": row["name"], "held_out": row["held_out"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"The row {path} cannot be read ({error!r}). Judge it again.", code="unreadable-result"
        ) from error


def digests(adapter: Path | None, folder: Path = WEIGHTS) -> dict[str, str]:
    """The first digits of the SHA-256 of every file that had a part in a row; folder: of the miniature's weights."""
    files = {path.stem: path for path in sorted(folder.glob("*.safetensors")) if "adapter" not in path.stem}
    if adapter is not None and adapter.is_file():
        files["adapter"] = adapter
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that pictures depend on."""
    packages = ("torch", "diffusers", "transformers", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value
