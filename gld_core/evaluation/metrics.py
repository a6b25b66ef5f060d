"""How good generated views are: pictures, depth and cameras against the truth.

Values are per view, float64, for the caller to average; poses give one value per scene. What is aligned, cropped or
clamped is said in each function.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.alignment import umeyama

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
AUC_DEGREES = 30


def check_pair(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"The pictures are {tuple(images.shape)}, the truth is {tuple(truth.shape)}; give both as (V, 3, H, W)."
        )


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """(V,) peak signal-to-noise ratio in dB of (V, 3, H, W), both clamped to [0, 1]; infinite where they are equal."""
    check_pair(images, truth)
    error = (images.cpu().double().clamp(0, 1) - truth.cpu().double().clamp(0, 1)).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """(V,) structural similarity of (V, 3, H, W), both clamped to [0, 1]: data range 1, a Gaussian window of 11 x 11
    with sigma 1.5, unbiased covariances, the mean over channels and the windows that lie inside. ValueError below 11
    pixels.

    Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    check_pair(images, truth)
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"The pictures are {images.shape[3]}x{images.shape[2]}; SSIM needs {SSIM_WINDOW} pixels.")
    x, y = images.cpu().double().clamp(0, 1), truth.cpu().double().clamp(0, 1)
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weight = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    weight /= weight.sum()

    def local_mean(value: Tensor) -> Tensor:
        value = value.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(value, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))

    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x = unbiased * (local_mean(x * x) - mean_x**2)
    var_y = unbiased * (local_mean(y * y) - mean_y**2)
    covariance = unbiased * (local_mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return similarity.unflatten(0, (len(x), 3)).mean(dim=(1, 2, 3, 4))


class DepthErrors(NamedTuple):
    """(V,) each: mean |d - t| / t; root of the mean (d - t)^2, in the truth's unit; share with max(d/t, t/d) < 1.25."""

    abs_rel: Tensor
    rmse: Tensor
    delta1: Tensor


def depth_errors(depth: Tensor, truth: Tensor) -> DepthErrors:
    """Errors of depth (V, H, W) where the truth (V, H, W) is finite and positive; NaN for a view without any. Nothing
    is aligned here.
    """
    if depth.shape != truth.shape or depth.ndim != 3:
        raise ValueError(f"The depth is {tuple(depth.shape)}, the truth {tuple(truth.shape)}; give both as (V, H, W).")
    rows = []
    for d, t in zip(depth.cpu().double(), truth.cpu().double(), strict=True):
        known = torch.isfinite(t) & (t > 0)
        d, t = d[known], t[known]
        near = (d > 0) & (torch.maximum(d / t, t / d) < 1.25)
        rows.append([((d - t).abs() / t).mean(), (d - t).square().mean().sqrt(), near.double().mean()])
    return DepthErrors(*torch.tensor(rows, dtype=torch.float64).T)


def median_scale(depth: Tensor, truth: Tensor) -> float:
    """The factor that brings the median depth of all views to that of the truth, over pixels whose truth is known."""
    depth, truth = depth.cpu(), truth.cpu()
    known = torch.isfinite(truth) & (truth > 0)
    return float(truth[known].double().median() / depth[known].double().median())


class PoseErrors(NamedTuple):
    """ate: in the truth's unit; rpe_rotation: degrees; rpe_translation: the truth's unit; auc: 0 to 1."""

    ate: float
    rpe_rotation: float
    rpe_translation: float
    auc: float


def angles(R: Tensor) -> Tensor:
    """(..., 3, 3) rotations -> (...) their angles in degrees, exact for small ones too."""
    skew = torch.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], dim=-1)
    trace = R.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return torch.atan2(skew.norm(dim=-1), trace - 1).rad2deg()


def motion_errors(found: Tensor, meant: Tensor) -> tuple[Tensor, Tensor]:
    """Errors of motions (P, 4, 4) in degrees: of their rotations (P,), and of their translations' directions (P,).

    Opposite directions are 180 degrees apart, as is a motion found to be none; where none is meant it is NaN.
    """
    turned = angles(found[:, :3, :3].transpose(1, 2) @ meant[:, :3, :3])
    a, b = found[:, :3, 3], meant[:, :3, 3]
    off = torch.atan2(torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(dim=1)).rad2deg()
    off = torch.where(a.norm(dim=1) > 1e-9, off, 180.0)
    return turned, torch.where(b.norm(dim=1) > 1e-9, off, torch.nan)


def pose_errors(c2w: Tensor, truth: Tensor) -> PoseErrors:
    """Errors of camera-to-world poses (V, 4, 4) in the order of the path, V at least 2.

    ATE: root mean square distance of the centres after Umeyama's Sim(3) alignment of these. RPE: of the motions from
    each view to the next, after the same alignment, root mean squares of rotation and translation (Sturm et al., A
    benchmark for the evaluation of RGB-D SLAM systems, 2012). AUC: over all pairs of views, the mean over thresholds
    of 1 to 30 degrees of the smaller of two shares, of pairs whose relative rotation, and of those whose direction of
    relative translation, is off by less. It needs no alignment; opposite directions are 180 degrees apart, as is a
    pair found in one point that is not; pairs in one point have none.
    """
    c2w, truth = c2w.double(), truth.double()
    aligned = umeyama(c2w[:, :3, 3], truth[:, :3, 3]).apply_to_poses(c2w)
    ate = (aligned[:, :3, 3] - truth[:, :3, 3]).square().sum(dim=1).mean().sqrt()

    def motions(poses: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return torch.linalg.inv(poses[start]) @ poses[end]

    view = torch.arange(len(truth))
    step = torch.linalg.inv(motions(truth, view[:-1], view[1:])) @ motions(aligned, view[:-1], view[1:])
    first, second = torch.triu_indices(len(truth), len(truth), 1)
    turned, off = motion_errors(motions(c2w, first, second), motions(truth, first, second))
    off = off[~off.isnan()]
    threshold = torch.arange(1, AUC_DEGREES + 1)[:, None]
    shares = [(error < threshold).double().mean(dim=1) for error in (turned, off)]
    return PoseErrors(
        float(ate),
        float(angles(step[:, :3, :3]).square().mean().sqrt()),
        float(step[:, :3, 3].square().sum(dim=1).mean().sqrt()),
        float(torch.minimum(*shares).mean()),
    )
