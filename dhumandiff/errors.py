"""The errors this project raises, one small family.

Every message says what was wrong, with which file, image or input, and what to do about it. A message is written for
the person in front of the graph or the terminal: it is what they read, alone, without a traceback.
"""

__all__ = [
    "AdapterError",
    "DHumanDiffError",
    "FaceError",
    "HostError",
    "ImageError",
    "LayoutError",
    "PromptError",
    "ReferenceError",
]


class DHumanDiffError(ValueError):
    """Base of the family: catch this to catch whatever the project refuses."""


class AdapterError(DHumanDiffError):
    """A weights file that cannot be used: damaged, incomplete, or made for another method or base model."""


class FaceError(DHumanDiffError):
    """A face model that cannot be loaded, or a photo in which the wanted face cannot be found."""


class ImageError(DHumanDiffError):
    """A picture or a mask that cannot be used as it is."""


class LayoutError(DHumanDiffError):
    """Boxes or settings that do not say where two people shall be."""


class ReferenceError(DHumanDiffError):  # the project's word for a person; the builtin of that name is about weak refs
    """A person's reference that lacks what a step needs."""


class PromptError(DHumanDiffError):
    """A sentence in which it is not clear who is who."""


class HostError(DHumanDiffError):
    """A base model, text encoder, vision tower or sampler that the adapter does not fit."""
