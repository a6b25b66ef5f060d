"""Cameras from decoded rays, and Sim(3) alignment. docs/model.md#cameras-and-points-from-geometry"""

from typing import NamedTuple

import torch
from torch import Tensor

RAY_STRIDE = 4


def nearest_rotation(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> the nearest rotation, U diag(1, 1, det) V^T."""
    U, _, Vt = torch.linalg.svd(matrix)
    U = torch.cat([U[..., :2], U[..., 2:] * torch.linalg.det(U @ Vt)[..., None, None]], dim=-1)
    return U @ Vt


def cameras_from_rays(ray: Tensor, ray_conf: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Camera-to-world (V, 4, 4) and the K (3, 3) they share, in pixels, from ray maps. float64.

    ray (V, h', w', 6): direction and origin per ray; ray_conf (V, h', w'). K is left a full 3x3.
    """
    ray, conf = ray.detach().cpu().double(), ray_conf.detach().cpu().double()
    V, rows, columns, _ = ray.shape
    v, u = torch.meshgrid(
        torch.arange(0, rows, RAY_STRIDE, dtype=torch.float64),
        torch.arange(0, columns, RAY_STRIDE, dtype=torch.float64),
        indexing="ij",
    )
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).flatten(0, 1)
    sampled = ray[:, ::RAY_STRIDE, ::RAY_STRIDE, :3].flatten(1, 2)
    weight = conf[:, ::RAY_STRIDE, ::RAY_STRIDE].flatten(1)[..., None]
    H = torch.linalg.lstsq(weight * pixels, weight * sampled).solution.transpose(1, 2)

    inverse = torch.linalg.inv(H[0])
    scale = torch.tensor([width / columns, height / rows, 1.0], dtype=torch.float64)
    K = scale[:, None] * inverse / inverse[2, 2]
    c2w = torch.eye(4, dtype=torch.float64).repeat(V, 1, 1)
    c2w[:, :3, :3] = nearest_rotation(H @ inverse)
    c2w[:, :3, 3] = (conf[..., None] * ray[..., 3:]).sum(dim=(1, 2)) / conf.sum(dim=(1, 2))[:, None]
    return c2w, K


class Sim3(NamedTuple):
    """x -> scale * rotation @ x + translation. float64."""

    scale: float
    rotation: Tensor
    translation: Tensor

    def apply_to_poses(self, c2w: Tensor) -> Tensor:
        """(V, 4, 4) camera-to-world, their rotations staying rotations."""
        out = c2w.double().clone()
        out[:, :3, :3] = self.rotation @ out[:, :3, :3]
        out[:, :3, 3] = self.scale * out[:, :3, 3] @ self.rotation.T + self.translation
        return out


def umeyama(source: Tensor, target: Tensor) -> Sim3:
    """Least-squares similarity from points source (V, 3) to target (V, 3).

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, 1991.
    """
    source, target = source.double(), target.double()
    centre_s, centre_t = source.mean(dim=0), target.mean(dim=0)
    s, t = source - centre_s, target - centre_t
    U, D, Vt = torch.linalg.svd(t.T @ s / len(s))
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.sign(torch.linalg.det(U) * torch.linalg.det(Vt))
    rotation = U @ (sign[:, None] * Vt)
    scale = float((D * sign).sum() / s.square().sum(dim=1).mean())
    return Sim3(scale, rotation, centre_t - scale * rotation @ centre_s)
