"""Conversions between quaternions and rotation matrices. scipy does the computation."""

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor


def quaternion_to_rotation(q: Tensor) -> Tensor:
    """(..., 4) xyzw, scalar last, of any length above 0 -> (..., 3, 3). Raises ValueError if the length is 0."""
    # Older versions of scipy take no empty lists.
    if not q.numel():
        return q.new_empty(*q.shape[:-1], 3, 3)
    matrices = Rotation.from_quat(q.detach().cpu().double().reshape(-1, 4).numpy()).as_matrix()
    return torch.from_numpy(matrices).reshape(*q.shape[:-1], 3, 3).to(q)


def rotation_to_quaternion(R: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4) unit xyzw with scalar part >= 0. A matrix that is not exactly a rotation is replaced by
    the nearest rotation.

    If the scalar part is 0, the largest part is positive, as in the released program.
    """
    if not R.numel():
        return R.new_empty(*R.shape[:-2], 4)
    matrices = Rotation.from_matrix(R.detach().cpu().double().reshape(-1, 3, 3).numpy())
    q = torch.from_numpy(matrices.as_quat()).reshape(*R.shape[:-2], 4).to(R)
    return torch.where(q[..., 3:] < -1e-12, -q, q)
