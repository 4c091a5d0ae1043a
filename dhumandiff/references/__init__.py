"""What is known of one person: photos -> `FaceReference`."""

from .reference import FaceReference

__all__ = ["FaceReference"]
