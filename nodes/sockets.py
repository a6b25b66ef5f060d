"""Socket types the host does not have, and checks that wired values need before anything is computed."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gld_core.autoencoder import Geometry
from ..gld_core.cameras import Cameras
from ..gld_core.io.comfyui import read_da3_geometry, read_moge_geometry
from ..gld_core.io.images import fit_camera
from ..gld_core.io.scenes import view_numbers

GLDBackbone = io.Custom("GLD_BACKBONE")
GLDCameras = io.Custom("GLD_CAMERAS")
GLDViews = io.Custom("GLD_VIEWS")
DA3Geometry = io.Custom("DA3_GEOMETRY")
MoGeGeometry = io.Custom("MOGE_GEOMETRY")


def source_geometry_input(tooltip: str, optional: bool = False) -> io.MultiType.Input:
    """Geometry of the sources alone, which ComfyUI's Depth Anything 3 and MoGe nodes give too."""
    return io.MultiType.Input("geometry", [DA3Geometry, MoGeGeometry], optional=optional, tooltip=tooltip)


def seen_confidence_input(**options) -> io.Float.Input:
    return io.Float.Input(
        "min_confidence",
        default=1.0,
        min=1.0,
        max=100.0,
        step=0.01,
        tooltip="Minimum confidence: depth below it counts as unseen. The lowest confidence is 1.",
        **options,
    )


def long_side_input() -> io.Int.Input:
    return io.Int.Input(
        "long_side",
        default=0,
        min=0,
        max=2016,
        step=14,
        tooltip="Length of the longer image side in pixels after resizing. The shorter side becomes the nearest "
        "multiple of 14. 0 means the size that the model was trained at, 504 for the released ones.",
    )


def da3_geometry(images: Tensor, depth: Tensor, confidence: Tensor | None, cameras: Cameras) -> dict:
    """images (V, H, W, 3), depth and confidence (V, H, W) as core's DA3 nodes take them."""
    return {
        "depth": depth,
        "image": images,
        "mode": "multiview",
        "confidence": confidence,
        "extrinsics": cameras.w2c[None, :, :3],
        "intrinsics": cameras.K[None],
    }


def pictures(images: Tensor, name: str) -> Tensor:
    """IMAGE (..., H, W, C) as (..., 3, H, W) in [0, 1]: as the host saves it, which clamps what bicubic scaling and
    bright scenes leave outside. ValueError, naming the input, for NaN and infinite values.
    """
    images = images[..., :3].movedim(-1, -3)
    if not torch.isfinite(images).all():
        raise ValueError(
            f"The input '{name}' has values that are infinite or no numbers (NaN); look for the node that made them."
        )
    return images.clamp(0, 1)


def indices(text: str, name: str) -> list[int]:
    """'0, 3-5' -> [0, 3, 4, 5]. ValueError names the input."""
    return view_numbers(text, f"The input '{name}'")


def check_geometry(geometry: dict) -> None:
    """ValueError unless a DA3_GEOMETRY has depth, pictures and, where there is any, confidence of the same pixels."""
    given: list[Any] = [geometry.get(name) for name in ("depth", "image", "confidence")]
    depth, images, confidence = given
    shapes = [tuple(value.shape[:3]) for value in given if torch.is_tensor(value)]
    whole = len(shapes) == 3 or (len(shapes) == 2 and confidence is None)
    if not whole or len(set(shapes)) != 1 or depth.ndim != 3 or images.shape[3:] != (3,):
        raise ValueError(
            f"The input 'geometry' has depth, image and confidence of shapes {shapes}, not (V, H, W), (V, H, W, 3) and "
            "(V, H, W); take it from Decode GLD Depth or a multi-view Depth Anything 3 node."
        )


def is_moge(geometry: dict) -> bool:
    """Whether it is a MOGE_GEOMETRY: of the two, only DA3_GEOMETRY always says its mode."""
    return "mode" not in geometry and "extrinsics" not in geometry


def fitted_geometry(geometry: dict, sources: Cameras) -> dict:
    """A DA3_GEOMETRY as it is, or a MOGE_GEOMETRY as that of the one source: resized and cropped around its middle to
    the source's size, depth in MoGe's unit. ValueError where there are more sources.
    """
    if not is_moge(geometry):
        return geometry
    found, _ = read_moge_geometry(geometry)
    if len(sources) > 1:
        raise ValueError(
            f"The input 'geometry' is MoGe's of one photograph, but there are {len(sources)} sources; set the number "
            "of sources to 1, or connect the geometry of Estimate GLD Cameras."
        )
    fit, _ = fit_camera(found.K[0], found.height, found.width, sources.height, sources.width)
    picture = fit.apply(geometry["image"][0].float().cpu().movedim(-1, 0)).movedim(0, -1)
    # Between the depths of two surfaces there is nothing.
    depth = torch.nn.functional.interpolate(geometry["depth"][None].float().cpu(), (fit.rows, fit.columns))[0]
    depth = depth[:, fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
    return da3_geometry(picture[None], depth, None, sources)


def source_photographs(images: Tensor, sources: Cameras) -> Tensor:
    """The first of images (V, H, W, 3), one for each source, as (N, 3, H, W) in [0, 1] on the CPU."""
    return images[: len(sources), ..., :3].movedim(-1, 1).cpu().float().nan_to_num().clamp(0, 1)


def sources_geometry(geometry: dict, sources: Cameras) -> Geometry:
    """The first views of a geometry, in the units of the sources' cameras. ValueError where there are too few."""
    geometry = fitted_geometry(geometry, sources)
    check_geometry(geometry)
    found, _ = read_da3_geometry(geometry)
    if len(found) < len(sources):
        raise ValueError(
            f"The input 'geometry' has {len(found)} views for {len(sources)} sources; connect the geometry of all "
            "sources, in their order."
        )
    N, confidence = len(sources), geometry.get("confidence")
    depth = geometry["depth"][:N].float().cpu()
    confidence = torch.full_like(depth, torch.inf) if confidence is None else confidence[:N].float().cpu()
    return Geometry(depth, confidence, None, None, found[:N]).align_to(sources)[0]
