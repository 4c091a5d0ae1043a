"""Who is on a drawing, told by what it was drawn from: a detector and a recogniser that are never wrong."""

import numpy as np

from dhumandiff.faces import Face
from dhumandiff.miniature.faces import align_face
from dhumandiff.miniature.world import draw_reference, features, people

POOL = people("test", 400)
MEAN = np.mean([features(who) for who in POOL], axis=0)
LOOKS = {who: features(who) - MEAN for who in POOL}


class Oracle:
    """Knows the drawings that were shown to it, and sees no face in any other picture.

    who, views: people and the numbers of their photos that it knows from the start.
    """

    name = "oracle"

    def __init__(self, who=(), views=()):
        self.faces, self.people = {}, {}
        for one in who:
            for view in views:
                self.show(draw_reference(one, view), [one])

    def show(self, drawn, who):
        """Remember a drawing and its people, from left to right; gives the picture."""
        faces = [Face(one.face_box, one.landmarks) for one in drawn.people]
        self.faces[drawn.picture.tobytes()] = faces
        for face, one in zip(faces, who, strict=True):
            self.people[align_face(drawn.picture, face.landmarks).tobytes()] = one
        return drawn.picture

    def detect(self, image):
        return self.faces.get(image.tobytes(), [])

    def detect_all(self, images):
        return [self.detect(image) for image in images]

    def identity(self, image, face, swap_channels=False):
        return self.identities(align_face(image, face.landmarks)[None])[0]

    def identities(self, crops):
        rows = np.zeros((len(crops), 512), dtype=np.float32)
        for row, crop in zip(rows, crops, strict=True):
            looks = LOOKS[self.people[crop.tobytes()]]
            row[: len(looks)] = looks
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
