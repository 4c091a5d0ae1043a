"""The errors this project raises, one small family.

Every message says what was wrong, with which file, image or input, and what to do about it. A message is written for
the person in front of the graph or the terminal: it is what they read, alone, without a traceback.

Every error also has a `code`, such as "mask-of-another-shape": short, stable, and what tests and other programs look at, so
that a sentence may be improved without breaking them. tests/messages.json holds the sentences.

    raise HostError("There is no reference: connect at least one person.", code="no-reference")
"""

__all__ = [
    "AdapterError",
    "DHumanDiffError",
    "FaceError",
    "FaceReferenceError",
    "HostError",
    "ImageError",
    "LayoutError",
    "PromptError",
    "ReferenceError",
    "short_error",
]


class DHumanDiffError(ValueError):
    """Base of the family: catch this to catch whatever the project refuses.

    Args:
        message: what was wrong, with which file, image or input, and what to do.
        code: stable name of the fault, in lower case with hyphens.
    """

    def __init__(self, message: str = "", *, code: str = "unnamed") -> None:
        super().__init__(message)
        self.code = code


class AdapterError(DHumanDiffError):
    """A weights file that cannot be used: damaged, incomplete, or made for another method or base model."""


class FaceError(DHumanDiffError):
    """A face model that cannot be loaded, or a photo in which the wanted face cannot be found."""


class ImageError(DHumanDiffError):
    """A picture or a mask that cannot be used as it is."""


class LayoutError(DHumanDiffError):
    """Boxes or settings that do not say where two people shall be."""


class FaceReferenceError(DHumanDiffError):
    """A person's reference that lacks what a step needs."""


ReferenceError = FaceReferenceError  # its name before 0.2, which shadows a builtin


class PromptError(DHumanDiffError):
    """A sentence in which it is not clear who is who."""


class HostError(DHumanDiffError):
    """A base model, text encoder, vision tower or sampler that the adapter does not fit."""


def short_error(error: BaseException, *, kind: bool = False, limit: int = 200) -> str:
    """What another library says went wrong: its first line, without the last full stop, short enough for a message.

    Args:
        error: of the system (which has a plain reason, taken without the number and the path) or of a library.
        kind: put the error's class in front, where the line alone would not say what happened.
        limit: letters that are kept of the line.
    """
    text = str(getattr(error, "strerror", None) or error).strip().splitlines()
    line = text[0].rstrip(".")[:limit] if text else ""
    if kind or not line:
        return f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line
