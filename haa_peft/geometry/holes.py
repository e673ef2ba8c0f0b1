"""Directions in which a scan or a depth camera saw nothing, filled from what surrounds them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve


def fill_holes(depth: np.ndarray) -> np.ndarray:
    """Depth (height, width) in metres with what is not finite filled.

    The inverse depth of a plane is a spherical harmonic of degree one in direction, so it satisfies (Laplacian + 2) f
    = 0 on the sphere. That equation, with what is seen around a hole as its boundary, continues walls through it: a
    hole in a wall is filled exactly, one at an edge of the room smoothly. It has one positive solution for any hole
    that covers less than half of the sphere (Faber-Krahn). Nothing filled is farther than the farthest that is seen.
    """
    seen = np.isfinite(depth)
    if seen.all():
        return depth
    height, width = depth.shape
    step = np.pi / height
    edges = np.pi / 2 - np.arange(height + 1) * step
    cosine = np.cos(edges[:-1] - step / 2)
    row, column = np.nonzero(~seen)
    number = np.full(depth.shape, -1)
    number[row, column] = np.arange(len(row))
    inverse = np.where(seen, 1 / np.where(seen, depth, 1), 0.0)
    # finite volumes: what flows through the four edges of a pixel, and twice its own value times its area
    diagonal = 2 * (np.sin(edges[row]) - np.sin(edges[row + 1])) * step
    known, entries = np.zeros(len(row)), []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        to_row, to_column = row + down, (column + right) % width
        flow = np.cos(edges[row + (down == 1)]) if down else 1 / cosine[row]
        inside = (to_row >= 0) & (to_row < height)
        flow, to_row = np.where(inside, flow, 0.0), to_row.clip(0, height - 1)
        diagonal = diagonal - flow
        neighbour = number[to_row, to_column]
        known += np.where(neighbour < 0, flow * inverse[to_row, to_column], 0.0)
        among = (neighbour >= 0) & inside
        entries.append((flow[among], np.flatnonzero(among), neighbour[among]))
    values, rows, columns = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    itself = np.arange(len(row))
    matrix = coo_matrix(
        (np.r_[values, diagonal], (np.r_[rows, itself], np.r_[columns, itself])), shape=(len(row), len(row))
    )
    filled = depth.copy()
    filled[row, column] = 1 / np.maximum(spsolve(matrix.tocsc(), -known), 1 / depth[seen].max())
    return filled
