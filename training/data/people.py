"""Who is on which pictures of the finished samples, as their faces say: who seems to be on several, copies, and what is held out.

people.csv             proposed identities, for `--identities`
people.safetensors     the faces and looks of all samples, by which `train` sees whether validation data show the same people
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import save

from .. import TrainingError
from .likeness import cluster_faces, near_duplicates
from .seeding import seeded_rng

__all__ = ["People", "face_facts", "hold_out", "people_csv", "people_file", "study"]

Fact = dict[str, Any]
"""What the journal keeps of a sample, see `report.sample_facts`."""


def face_facts(identity: Sequence[np.ndarray], looks: bytes) -> dict[str, str]:
    """What the journal keeps of a sample's faces: both embeddings in float16, and the hash of the picture."""
    both = np.stack([np.asarray(one, np.float16) for one in identity])
    return {"faces": base64.b64encode(both.tobytes()).decode(), "looks": looks.hex()}


@dataclass(frozen=True, eq=False)
class People:
    """What the faces of all samples say.

    Attributes:
        facts: of the samples.
        groups: int [N, 2], who seems to be whom; None where earlier versions made the samples and kept no faces.
        duplicates: pairs of samples whose pictures are copies, or nearly.
        names: of the two people of each sample: as the data name them, else proposed; "" for who is on one picture only.
    """

    facts: Sequence[Fact]
    groups: np.ndarray | None = None
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    names: list[tuple[str, str]] = field(default_factory=list)

    @property
    def proposed(self) -> dict[str, list[tuple[int, int]]]:
        """Proposed name -> (sample, which of its two) of all who seem to be on several pictures and have no other photo yet."""
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for sample, (fact, names) in enumerate(zip(self.facts, self.names, strict=True)):
            for which, name in enumerate(names):
                person = fact["people"][which]
                if name and not person["identity"] and not person["paired"]:
                    found[name].append((sample, which))
        return found


def _faces(facts: Sequence[Fact]) -> np.ndarray | None:
    """float32 [N, 2, D], of length 1; None where a sample has none."""
    if not facts or any("faces" not in fact for fact in facts):
        return None
    rows = [np.frombuffer(base64.b64decode(fact["faces"]), np.float16) for fact in facts]
    faces = np.stack(rows).astype(np.float32).reshape(len(facts), 2, -1)
    return faces / np.maximum(np.linalg.norm(faces, axis=-1, keepdims=True), 1e-6)


def study(facts: Sequence[Fact], alike: float) -> People:
    """Group the faces of all samples, and find copies.

    Args:
        facts: of the samples.
        alike: mean similarity from which faces are one person.
    """
    faces = _faces(facts)
    if faces is None:
        return People(facts, names=[("", "")] * len(facts))
    groups = cluster_faces(faces, alike)
    sizes, given = Counter(groups.ravel().tolist()), defaultdict(set)
    for pair, fact in zip(groups.tolist(), facts, strict=True):
        for group, person in zip(pair, fact["people"], strict=True):
            given[group] |= {person["identity"]} - {""}
    called: dict[int, str] = {}
    names: list[tuple[str, str]] = []
    for pair, fact in zip(groups.tolist(), facts, strict=True):
        both = [person["identity"] for person in fact["people"]]
        for which, group in enumerate(pair):
            if not both[which] and sizes[group] > 1:
                known = [*given[group]]
                new = known[0] if len(known) == 1 else called.setdefault(group, f"person_{len(called) + 1:04d}")
                both[which] = new if new not in both else ""
        names.append((both[0], both[1]))
    return People(facts, groups, near_duplicates([bytes.fromhex(fact["looks"]) for fact in facts]), names)


def hold_out(people: People, share: float, seed: int) -> list[int]:
    """Which samples are held out.

    Samples that share a person, by name or by face, or that are copies, stay together; such parts are drawn until the share is full.

    Args:
        people: of all samples.
        share: of the samples.
        seed: of the choice.

    Returns:
        Numbers of samples, in order; none where everybody is connected with everybody.

    Raises:
        TrainingError: nothing is known of their faces.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if people.groups is None:
        raise TrainingError(
            "These shards were prepared before 0.2, which kept no faces, so nobody can say who would be on both sides of the validation. "
            "Prepare them again, or leave --validation out.",
            code="faces-not-kept",
        )
    count = len(people.facts)
    seen: dict[Any, int] = {}
    edges = [*people.duplicates]
    for sample, fact in enumerate(people.facts):
        named = [(fact["source"], person["identity"]) for person in fact["people"] if person["identity"]]
        edges += [(seen.setdefault(who, sample), sample) for who in (*named, *people.groups[sample].tolist())]
    first, second = (np.array([edge[side] for edge in edges], int) for side in (0, 1))
    _, parts = connected_components(coo_matrix((np.ones(len(edges)), (first, second)), (count, count)), directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for sample, part in enumerate(parts.tolist()):
        members[part].append(sample)
    order = [*members.values()]
    seeded_rng(seed, "validation").shuffle(order)
    wanted, held = max(1, round(share * count)), []
    for part in order:
        if len(held) + len(part) <= wanted:
            held += part
    smallest = min(order, key=len, default=[])
    if not held and 2 * len(smallest) <= count:
        held = smallest
    return sorted(held)


def people_csv(people: People) -> str:
    """The table of who is on which picture, in the form that `--identities` reads; "" where nobody is on several."""
    if not people.proposed:
        return ""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["source", "file_name", "identity_1", "identity_2"])
    for fact, names in zip(people.facts, people.names, strict=True):
        if any(names):
            rows.writerow([fact["source"], fact["picture"], *names])
    return text.getvalue()


def people_file(people: People, held: Sequence[int]) -> bytes:
    """people.safetensors; b"" where the journal has no faces."""
    if people.groups is None:
        return b""
    width = len(base64.b64decode(people.facts[0]["faces"])) // 4
    faces = [np.frombuffer(base64.b64decode(fact["faces"]), np.float16) for fact in people.facts]
    looks = [np.frombuffer(bytes.fromhex(fact["looks"]), np.uint8) for fact in people.facts]
    out = np.zeros(len(faces), np.uint8)
    out[list(held)] = 1
    tensors = {"faces": np.stack(faces).reshape(-1, 2, width), "held_out": out, "looks": np.stack(looks)}
    return save(tensors, metadata={"pictures": json.dumps([fact["picture"] for fact in people.facts])})
