"""Rotations as quaternions and as matrices."""

import torch
from torch import Tensor


def quaternion_to_rotation(q: Tensor) -> Tensor:
    """(..., 4) xyzw, scalar last, of any length (factor 2/|q|^2) -> (..., 3, 3)."""
    x, y, z, w = q.unbind(-1)
    s = 2 / (q * q).sum(dim=-1)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotation_to_quaternion(R: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4) unit xyzw with scalar part >= 0."""
    m = R
    diagonal = [m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]]
    trace = diagonal[0] + diagonal[1] + diagonal[2]
    # Each row is 4 * q_i * q; the largest q_i gives the best-conditioned one.
    rows = torch.stack(
        [
            torch.stack(
                [
                    1 + 2 * diagonal[0] - trace,
                    m[..., 0, 1] + m[..., 1, 0],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 2, 1] - m[..., 1, 2],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 0, 1] + m[..., 1, 0],
                    1 + 2 * diagonal[1] - trace,
                    m[..., 1, 2] + m[..., 2, 1],
                    m[..., 0, 2] - m[..., 2, 0],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 1, 2] + m[..., 2, 1],
                    1 + 2 * diagonal[2] - trace,
                    m[..., 1, 0] - m[..., 0, 1],
                ],
                -1,
            ),
            torch.stack(
                [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1], 1 + trace], -1
            ),
        ],
        dim=-2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    q = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., 3:] < 0, -q, q)
