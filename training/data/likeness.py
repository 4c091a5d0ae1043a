"""What looks alike in the data: the same person on several pictures, and pictures that are copies of each other.

People: average linkage on the cosine distance of face embeddings (scipy). Two faces are merged only when the means of their groups
are near, so a chain of half-alike faces makes no crowd. Pictures: the perceptual hash that is usual for this, the signs of the
lowest frequencies of a small grey copy (a DCT), which survives other sizes, JPEG and light. Thresholds are this project's choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

__all__ = ["cluster_faces", "near_duplicates", "picture_hash", "similar_pairs"]

_SIDE, _KEPT = 32, 8  # of the grey copy, px; of its frequencies, each way
_BITS_APART = 6  # of 64: copies have 0 to 4 with other sizes and JPEG, other pictures some 30
_BLOCK = 2048  # rows compared at once
_NEVER = 1e3  # distance of two faces that are two people for certain


def picture_hash(image: np.ndarray) -> bytes:
    """Eight bytes that pictures which look alike nearly share.

    Args:
        image: uint8 [H, W, 3].
    """
    from scipy.fft import dctn

    grey = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    low = dctn(np.asarray(grey, np.float32), norm="ortho")[:_KEPT, :_KEPT].ravel()
    return np.packbits(low > np.median(low[1:])).tobytes()  # the first is the brightness


def similar_pairs(
    vectors: np.ndarray, least: float, others: np.ndarray | None = None
) -> Iterator[tuple[int, int, float]]:
    """All pairs whose scalar product is at least `least`, block by block.

    Args:
        vectors: float32 [N, D].
        least: the product.
        others: float32 [M, D] to compare with; None: with each other, each pair once.

    Yields:
        (row, row of the others, product).
    """
    there = vectors if others is None else others
    for start in range(0, len(vectors), _BLOCK):
        for begin in range(start if others is None else 0, len(there), _BLOCK):
            found = vectors[start : start + _BLOCK] @ there[begin : begin + _BLOCK].T
            for row, column in np.argwhere(found >= least):
                if others is not None or start + row < begin + column:
                    yield int(start + row), int(begin + column), float(found[row, column])


def near_duplicates(hashes: Sequence[bytes], others: Sequence[bytes] | None = None) -> list[tuple[int, int]]:
    """Pairs of pictures that are copies of each other, or nearly; those without a hash are passed over."""
    signs = [_signs(side) for side in (hashes, others) if side is not None]
    pairs = similar_pairs(signs[0], 64 - 2 * _BITS_APART, *signs[1:])
    return [(row, column) for row, column, _ in pairs]


def _signs(hashes: Sequence[bytes]) -> np.ndarray:
    """Hashes as rows of +1 and -1, whose product counts the bits that agree; zeros for none."""
    rows = np.zeros((len(hashes), 64), np.float32)
    for number, one in enumerate(hashes):
        if len(one) == 8:
            rows[number] = np.unpackbits(np.frombuffer(one, np.uint8)).astype(np.float32) * 2 - 1
    return rows


def cluster_faces(faces: np.ndarray, least: float) -> np.ndarray:
    """Group faces of the same person; the two of one picture are two people.

    Args:
        faces: float32 [N, 2, D], of length 1: the two of each picture.
        least: mean similarity of what is merged.

    Returns:
        int [N, 2], the group of each, numbered by their first faces.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = faces.reshape(-1, faces.shape[-1])
    pairs = [(row, column) for row, column, _ in similar_pairs(rows, least) if row // 2 != column // 2]
    first, second = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    near = coo_matrix((np.ones(len(pairs)), (first, second)), (len(rows), len(rows)))
    # Average linkage merges nothing across these parts: a mean is never above the largest. So each is clustered alone.
    _, parts = connected_components(near, directed=False)
    groups, count = np.zeros(len(rows), int), 0
    order = np.argsort(parts, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        inner = np.ones(len(members), int)
        if len(members) > 1:
            distances = np.maximum(1 - rows[members] @ rows[members].T, 0)
            distances[members[:, None] // 2 == members[None] // 2] = _NEVER
            condensed = distances[np.triu_indices(len(members), 1)]
            inner = fcluster(linkage(condensed, "average"), 1 - least, "distance")
        groups[members] = count + inner - 1
        count += int(inner.max(initial=0))
    _, first, again = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[again].reshape(-1, 2)
