"""The model card of an export: what was done, read from the run, not from memory; its head is what Hugging Face's Hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dhumandiff.methods.dual_pathway import DualPathway

from .run.logging import LOG, read_log
from .run.weights import Weights, identity_of

if TYPE_CHECKING:
    from .export import ExportConfig
    from .run.checkpoint import Checkpoint, RunFolder

__all__ = ["NOT_CHOSEN", "head", "model_card"]

NOT_CHOSEN = "not chosen yet"
"""The license of weights for which nobody has chosen one."""

LICENSES = [
    "apache-2.0",
    "mit",
    "openrail",
    "bigscience-openrail-m",
    "creativeml-openrail-m",
    "openrail++",
    "cc",
    "cc0-1.0",
    "cc-by-2.0",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "gpl",
    "gpl-3.0",
    "agpl-3.0",
    "lgpl-3.0",
    "mpl-2.0",
    "unlicense",
]
"""Licenses that the Hub knows by an id (https://huggingface.co/docs/hub/repositories-licenses); others are "other" and a name."""


def head(license: str, base_model: str) -> dict[str, Any]:
    """The part between the lines `---`, as the Hub's model card metadata has it."""
    known = license.lower()
    if known in LICENSES:
        told = {"license": known}
    else:  # the Hub wants a name without blanks
        told = {"license": "other", "license_name": re.sub(r"[^a-z0-9.+-]+", "-", known).strip("-") or "unnamed"}
    return {
        **told,
        **({"base_model": base_model} if base_model else {}),
        "library_name": "dhumandiff",
        "pipeline_tag": "text-to-image",
        "tags": ["dhumandiff", "sdxl", "portraits-of-two"],
    }


def model_card(
    name: str,
    weights: Weights,
    checkpoint: Checkpoint,
    config: ExportConfig,
    run: RunFolder,
    scores: Mapping[str, Any],
    made: Sequence[Path],
) -> str:
    """The text of README.md. made: the files, the card last."""
    used, info, step = checkpoint.config, identity_of(weights).info, checkpoint.step
    dual = isinstance(weights, DualPathway)
    settings = ("objectives", "augment", "optimizer", "init", *(("dual",) if dual else ()))
    agreed = checkpoint.fingerprint["shards"]
    held = [sum(map(len, held.values())) for _, held in checkpoint.fingerprint.get("held_out", [])] or [0] * len(agreed)
    shards = [
        (folder["path"], sum(count for _, count in shards) - out)
        for folder, shards, out in zip(used["data"]["folders"], agreed, held, strict=True)
    ]
    losses = [entry for entry in read_log(run.folder / LOG) if "loss" in entry and entry["step"] <= step]
    scored_by = "validation" if used["data"]["validation"] else "training, smoothed"
    best_by = used.get("checkpoints", {}).get("best_by", "loss")
    full = checkpoint.metadata.get("base_adapter")
    low_rank = [f"- Trained with low rank ({used['init']['rank']}) on top of `{full}`"] if full else []
    if full and not config.merged:
        low_rank.append(
            f"- The file holds the changes alone: it is loaded together with `{full}`, from the same folder"
        )
    command = scores.get("command")
    lines = [
        "---",
        yaml.safe_dump(head(config.license, config.base_model), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        f"Weights of the dual pathway ({', '.join(weights.info.parts)}), which draw two people from one photo of each: faces in "
        "their regions, words elsewhere. For DHumanDiff (ComfyUI nodes and Python)."
        if dual
        else "An adapter that draws two people from one photo of each, for DHumanDiff (ComfyUI nodes and Python).",
        "**Portraits of real people only with their leave**; say that a picture was generated.",
        "",
        "## Files",
        "",
        *(
            f"- `{path.name}`{' (four files, released layout)' if path.name == 'released' else ''}"
            for path in made[:-1]
        ),
        "",
        "## What it needs",
        "",
        f"- Base: `{Path(used['base']['path']).name}` ({info.base_family}, {info.layers} cross-attention layers, context "
        f"{info.context_width}). License: {config.base_license}",
        f"- Image encoder: {info.clip_tower or 'not said'}, width {info.clip_width}",
        f"- Face recognizer: {info.recognizer or 'none'} (channels: {info.identity_channels}). Many recognizers are for "
        "non-commercial research only",
        "",
        "## Training",
        "",
        f"- Initial weights: {used['init']['weights']}",
        *low_rank,
        f"- Data: {'; '.join(f'`{Path(path).name}`, {count} samples' for path, count in shards)}. License: {config.data_license}",
        f"- Steps: {step} of {used['data']['batch_size']} samples (of {used.get('steps', step)} steps planned); precision "
        f"{used['precision']}; seed {used['seed']}",
        f"- Weights: {'EMA, decay ' + str(used['optimizer']['ema_decay']) if config.weights == 'ema' else 'of the last step'}, "
        f"stored as {config.dtype}",
        (
            f"- Chosen by {best_by.replace('_', ' ')} of {len(used['logging']['prompts'])} drawn prompts"
            if best_by != "loss"
            else f"- Loss ({scored_by}): {checkpoint.score:.4f}"
        )
        + (f"; first logged loss {losses[0]['loss']:.4f}" if losses else ""),
        "",
        "```yaml",
        yaml.safe_dump({part: used[part] for part in settings}, sort_keys=False).rstrip(),
        "```",
        "",
        "## Scores",
        "",
        *(
            [f"- {what}: {value}" for what, value in scores.items() if what != "command"]
            or ["Not measured yet (`python -m training evaluate`)."]
        ),
        *(["", "Measured with", "", "```bash", command, "```"] if command else []),
        "",
        "## License",
        "",
        f"{config.license}. Weights that learned from data and a base are bound by their licenses too (above).",
        "",
    ]
    return "\n".join(lines)
