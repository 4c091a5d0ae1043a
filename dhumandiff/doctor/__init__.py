"""The doctor: what a first portrait with photos needs, what of it is there, and what to do about the rest.

    report = examine(Folders.below(Path("models")))
    print(report)

Nothing is downloaded and no model is loaded: versions, a session of one node for each provider of ONNX Runtime, and the
heads of model files. Nothing raises: a package that cannot be imported and a file that cannot be read are findings.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import short_error
from . import adapters as adapter_files
from . import base_models, face_packs
from . import withanyone as flux
from .findings import MISSING, OK, Finding, Report, Section
from .folders import FACE_ROOT, Folders, comfyui_beside
from .runtime import providers
from .versions import face_packages, packages, system

__all__ = ["FACE_ROOT", "Finding", "Folders", "Report", "comfyui_beside", "examine"]


def examine(folders: Folders, comfyui: str | None = None, device: str | None = None) -> Report:
    """Look at everything.

    Args:
        folders: where each kind of model is looked for.
        comfyui: its version, or None for portraits without it, which need diffusers, and fetch the image encoder themselves.
        device: where the host computes; None: the best there is.
    """
    widths: set[int] = set()

    def adapters() -> list[Finding]:
        found, wanted = adapter_files.adapters(folders)
        widths.update(wanted)
        return found

    host = comfyui is not None
    sections = (
        ("System", lambda: system(comfyui, device)),
        ("Packages", lambda: packages(host)),
        ("Face recognition", lambda: [*face_packages(), *providers()]),
        ("Adapters", adapters),
        ("Face packs", lambda: face_packs.face_packs(folders, host)),
        (
            "Image encoder",
            lambda: (
                base_models.image_encoder(folders, widths) if host else base_models.own_image_encoder(folders, widths)
            ),
        ),
        ("Base model", lambda: base_models.checkpoints(folders) if host else base_models.own_base(folders)),
    )
    report = [Section(title, _guarded(title, look)) for title, look in sections]
    if host and folders.withanyone:
        other = Section("WithAnyone (FLUX.1)", _guarded("WithAnyone", lambda: flux.withanyone(folders)))
        if any(finding.state == OK for finding in other.findings) and not Report([other]).in_the_way:
            # Who draws with WithAnyone needs nothing of DHumanDiff's; what is not there of it is still told.
            report = [_as_notes(section) if section.title in DHUMANDIFFS else section for section in report]
        report.append(other)
    return Report(report)


DHUMANDIFFS = ("Adapters", "Face packs", "Image encoder", "Base model")
"""Sections of what only portraits with SDXL need."""


def _as_notes(section: Section) -> Section:
    return Section(section.title, [finding.as_note() for finding in section.findings])


def _guarded(title: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Whatever goes wrong while looking is a finding, so that the rest of the report is still made."""
    try:
        return look()
    except Exception as error:  # most likely a package that this part needs, and that an earlier line names
        text = f"This could not be looked at ({short_error(error, kind=True)})."
        todo = "Mend what is missing above; when nothing is, send this text."
        return [Finding(MISSING, f"a look at the {title.lower()}", text, todo)]
