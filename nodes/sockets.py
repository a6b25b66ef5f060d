"""Socket types the host does not have, and checks that wired values need before anything is computed."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gld_core.cameras import Cameras
from ..gld_core.codec import Geometry
from ..gld_core.formats import read_da3_geometry

GLDBackbone = io.Custom("GLD_BACKBONE")
GLDCameras = io.Custom("GLD_CAMERAS")
GLDViews = io.Custom("GLD_VIEWS")
DA3Geometry = io.Custom("DA3_GEOMETRY")


def da3_geometry(images: Tensor, depth: Tensor, confidence: Tensor, cameras: Cameras) -> dict:
    """images (V, H, W, 3), depth and confidence (V, H, W) as core's DA3 nodes take them."""
    return {
        "depth": depth,
        "image": images,
        "mode": "multiview",
        "confidence": confidence,
        "extrinsics": cameras.w2c[None, :, :3],
        "intrinsics": cameras.K[None],
    }


def sources_geometry(geometry: dict, sources: Cameras) -> Geometry:
    """The first views of a DA3_GEOMETRY, in the units of the sources' cameras. ValueError where there are too few."""
    found, _ = read_da3_geometry(geometry)
    if len(found) < len(sources):
        raise ValueError(
            f"The input 'geometry' has {len(found)} views, there are {len(sources)} sources; wire the geometry of all "
            "of them, in their order."
        )
    N, confidence = len(sources), geometry.get("confidence")
    depth = geometry["depth"][:N].float().cpu()
    confidence = torch.full_like(depth, torch.inf) if confidence is None else confidence[:N].float().cpu()
    return Geometry(depth, confidence, None, None, found[:N]).align_to(sources)[0]
