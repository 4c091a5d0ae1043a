"""Settings for the uses that the paper shows: a start to change from, shared by the command line and the nodes.

The numbers are this project's choice, by reasoning and not by measurement: how much of the picture is face, how much of a face the
words shall change, and when in sampling that is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .settings import DualPathwaySettings

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Settings for one use.

    Attributes:
        title: what people call the use.
        settings: of the method; regions are found in the attention, so that nothing has to be drawn; masks narrow them down.
        size: (width, height) of a picture that suits it, px.
        normalize_light: even out the light of the reference photos.
        words: what the sentence should say.
        why: the reason for the numbers.
    """

    title: str
    settings: DualPathwaySettings
    size: tuple[int, int]
    normalize_light: bool
    words: str
    why: str


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "full_body": Preset(
            title="Headshot to full body",
            settings=DualPathwaySettings(
                identity_strength=1.0, text_strength=0.2, regions="attention", face_share=0.03, feather=16
            ),
            size=(832, 1216),
            normalize_light=False,
            words="say that the whole body is seen, from head to shoes, and what is worn",
            why="A face is a small part of a full body, and a headshot says nothing of the rest: outside of it the words decide.",
        ),
        "other_age": Preset(
            title="Another age",
            settings=DualPathwaySettings(
                identity_strength=0.8, text_strength=0.2, regions="attention", face_share=0.1, start=0.1
            ),
            size=(1024, 1024),
            normalize_light=False,
            words="say the age of each person: an old man@1 of eighty, a girl@2 of six",
            why="Age shows in the shape of the face, which is decided early: the words have the first tenth, and the identity is weaker.",
        ),
        "other_expression": Preset(
            title="Another expression",
            settings=DualPathwaySettings(
                identity_strength=0.8, text_strength=0.1, regions="attention", face_share=0.1, start=0.2
            ),
            size=(1024, 1024),
            normalize_light=False,
            words="say each person's expression: laughing with closed eyes, looking surprised",
            why="An expression is a change inside of the face, against the reference: the words have the first fifth for themselves.",
        ),
        "old_photo": Preset(
            title="Old photo to reality",
            settings=DualPathwaySettings(identity_strength=0.9, text_strength=0.1, regions="attention", face_share=0.1),
            size=(1024, 1024),
            normalize_light=True,
            words="say that it is a color photo of today, with the light and the clothes of today",
            why="What makes a photo old (tone, grain, light) lies around the face, where the words decide; the light is evened out before.",
        ),
    }
)
"""Name -> settings for a use."""
