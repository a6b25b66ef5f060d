"""What the diffusion models are told about cameras: Pluecker rays and projection matrices."""

import torch
from torch import Tensor

from .autoencoder import Views
from .cameras import Cameras
from .cameras.conventions import in_one_point


def recentred(c2w: Tensor) -> Tensor:
    """(V, 4, 4) float64: cameras that stand in one point (pan, tilt, zoom) moved to the origin, others as they are.

    The scale of docs/model.md#camera-conditioning divides by how far the views are apart. Without distances it would
    enlarge that one point, or its rounding, 1e8 times, and the network would be given those numbers for translations.
    """
    c2w = c2w.double().clone()
    if in_one_point(c2w):
        c2w[:, :3, 3] = 0
    return c2w


def relative_to_last(c2w: Tensor) -> Tensor:
    """(V, 4, 4) poses seen from the last one, which becomes the identity. float64."""
    c2w = recentred(c2w)
    return torch.linalg.inv(c2w[-1]) @ c2w


def translation_scale(c2w: Tensor) -> Tensor:
    """What brings the largest translation coordinate, relative to the last view, to 1.
    docs/model.md#camera-conditioning
    """
    return 1 / (relative_to_last(c2w)[:, :3, 3].abs().max() + 1e-8)


def pluecker_map(cameras: Cameras) -> Tensor:
    """(V, 6, H, W) ray direction and moment (origin x direction), poses relative to the last view and rescaled."""
    c2w = relative_to_last(cameras.c2w)
    origin = c2w[:, :3, 3] * translation_scale(cameras.c2w)
    y, x = torch.meshgrid(
        torch.arange(cameras.height, dtype=torch.float64),
        torch.arange(cameras.width, dtype=torch.float64),
        indexing="ij",
    )
    # Quirk: half a pixel less in x, half a pixel more in y.
    pixels = torch.stack([x - 0.5, y + 0.5, torch.ones_like(x)]).flatten(1)
    maps = torch.empty(len(cameras), 6, pixels.shape[1])
    for rays, R, o, K in zip(maps, c2w[:, :3, :3], origin, cameras.K.double(), strict=True):
        direction = R @ torch.linalg.inv(K) @ pixels
        # PyTorch's own norm of so few rows takes five times as long as all the rest.
        direction /= direction.square().sum(dim=0).sqrt()
        rays[:3] = direction
        rays[3:] = torch.linalg.cross(o[:, None], direction, dim=0)
    return maps.unflatten(2, (cameras.height, cameras.width))


def camera_map(cameras: Cameras, sources: int, conditional: bool = True) -> Tensor:
    """(V, 7, H, W): the mask (0 for the first `sources` views, 1 for targets), then the Pluecker map, or zeros."""
    maps = torch.zeros(len(cameras), 7, cameras.height, cameras.width)
    maps[sources:, 0] = 1
    if conditional:
        maps[:, 1:] = pluecker_map(cameras)
    return maps


def scaled_w2c(cameras: Cameras) -> Tensor:
    """(V, 4, 4) float64 world-to-camera of the poses as given (but `recentred`), times `translation_scale`."""
    w2c = torch.linalg.inv(recentred(cameras.c2w))
    w2c[:, :3, 3] *= translation_scale(cameras.c2w)
    return w2c


def normalized_intrinsics(K: Tensor, height: int, width: int) -> Tensor:
    """(V, 3, 3) float64 K in units of the image, principal point from its centre, without skew."""
    out = torch.zeros_like(K, dtype=torch.float64)
    out[:, 0, 0] = K[:, 0, 0].double() / width
    out[:, 1, 1] = K[:, 1, 1].double() / height
    out[:, 0, 2] = K[:, 0, 2].double() / width - 0.5
    out[:, 1, 2] = K[:, 1, 2].double() / height - 0.5
    out[:, 2, 2] = 1
    return out


def projection_matrices(w2c: Tensor, K: Tensor) -> Tensor:
    """(V, 3, 4, 4) float32: what PRoPE multiplies q, k and v, and the attention's output by.

    w2c (V, 4, 4), K (V, 3, 3) normalised. With P = lift(K) w2c they are P^T, inv(w2c) lift(K) and P.
    docs/model.md#attention-with-cameras-prope
    """
    w2c = w2c.double()
    lifted = torch.eye(4, dtype=torch.float64).repeat(len(K), 1, 1)
    lifted[:, :3, :3] = K
    P = lifted @ w2c
    # Quirk: lift(K) itself in the second, not its inverse.
    return torch.stack([P.transpose(1, 2), torch.linalg.inv(w2c) @ lifted, P], dim=1).float()


# Quirk: the DA3 cascade normalises K by this size whatever the images'.
DA3_CASCADE_SIZE = 504


def conditions(views: Views, level: int, conditional: bool) -> dict[str, Tensor]:
    """Camera conditioning of one guidance branch for the diffusion model of `level`, float32 on the CPU.

    camera_map (V, 7, H, W) and matrices (V, 3, 4, 4), as `MultiViewDiT.prepare` takes them. The unconditional branch
    has no Pluecker channels and identity poses. docs/model.md#guidance
    """
    cameras = views.cameras
    H, W = cameras.height, cameras.width
    da3_cascade = views.backbone == "da3" and level == 0
    size = (DA3_CASCADE_SIZE, DA3_CASCADE_SIZE) if da3_cascade else (H, W)
    w2c, K = scaled_w2c(cameras), cameras.K
    if conditional:
        if "camera_map" not in views.computed:
            views.computed["camera_map"] = camera_map(cameras, len(views.level1))
        rays = views.computed["camera_map"]
    else:
        rays = camera_map(cameras, len(views.level1), conditional=False)
        w2c = torch.eye(4, dtype=torch.float64).expand_as(w2c)
        # Quirk: without cameras K is the identity in pixels, but the DA3 cascade keeps the true one.
        if not da3_cascade:
            K = torch.eye(3).expand_as(K)
    return {"camera_map": rays, "matrices": projection_matrices(w2c, normalized_intrinsics(K, *size))}
