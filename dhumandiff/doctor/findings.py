"""What the doctor found, and the text that a person reads and sends."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["DAMAGED", "MISSING", "NOTE", "OK", "Finding", "Report", "Section", "without_names"]

OK, NOTE, MISSING, DAMAGED = "ok", "note", "MISSING", "DAMAGED"
"""States of a finding. The last two stand in the way of a first portrait."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. What is not "ok" says what to do."""

    state: str
    name: str
    """What the last line calls it."""
    text: str
    todo: str = ""

    @property
    def in_the_way(self) -> bool:
        """Whether there is no portrait with photos before this is mended."""
        return self.state in (MISSING, DAMAGED)

    def as_note(self) -> Finding:
        """The same where something else does as well: nothing that is in the way any more."""
        return replace(self, state=NOTE) if self.in_the_way else self


@dataclass(frozen=True)
class Section:
    """Findings under a heading."""

    title: str
    findings: Sequence[Finding]


@dataclass(frozen=True)
class Report:
    """Everything the doctor looked at."""

    sections: Sequence[Section]

    @property
    def in_the_way(self) -> list[Finding]:
        """What is missing or damaged, in the order of the text."""
        return [finding for section in self.sections for finding in section.findings if finding.in_the_way]

    @property
    def summary(self) -> str:
        """The last line."""
        wrong = self.in_the_way
        if not wrong:
            return "Nothing stands in the way of a first portrait."
        kinds = {finding.state for finding in wrong}
        what = " or ".join(word for state, word in ((MISSING, "missing"), (DAMAGED, "damaged")) if state in kinds)
        names = ", ".join(finding.name for finding in wrong)
        return f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} {what}: {names}."

    def __str__(self) -> str:
        lines = []
        for section in self.sections:
            lines.append(section.title)
            for finding in section.findings:
                lines.append(f"  {finding.state:<8} {' '.join(finding.text.split())}")
                if finding.todo:
                    lines.append(f"  {'':<8} To do: {' '.join(finding.todo.split())}")
            lines.append("")
        return without_names("\n".join([*lines, self.summary]))


def without_names(text: str) -> str:
    """The text with ~ for home folders, this person's and others', so that it can be shown to anybody."""
    home = Path.home()
    if len(home.parts) > 1:  # a home of "/" would be everywhere
        flags = re.IGNORECASE if os.name == "nt" else 0
        for known in {str(home), os.path.realpath(home)}:
            text = re.sub(rf"(?<![\w.~-]){re.escape(known)}(?![\w-]|\.\w)", "~", text, flags=flags)
    return re.sub(r"(?:\b[A-Za-z]:\\+Users\\+|(?<![\w.~-])/(?:home|Users)/)[^/\\\s\"':]+", "~", text)
