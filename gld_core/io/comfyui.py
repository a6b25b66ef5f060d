"""Cameras from and to ComfyUI's own types."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..cameras.conventions import OPENGL, PRINCIPAL_RANGE
from ..cameras.rotations import quaternion_to_rotation, rotation_to_quaternion
from .images import PATCH
from .parsing import FLIP, assemble, inverse, matrix, number, pinhole, without_skew

# The core's 3D nodes take this vertical field of view where a camera has none.
LOAD3D_FOV = 35.0


def preview_world(sources: Cameras) -> Tensor:
    """(4, 4) from the cameras' world to the 3D preview's: Y up and looking down -Z from the first camera."""
    return OPENGL @ torch.linalg.inv(sources.c2w[0].double())


def read_load3d(
    infos: Sequence[Mapping[str, Any]], height: int, width: int, world: Tensor = OPENGL
) -> tuple[Cameras, list[str]]:
    """ComfyUI's LOAD3D_CAMERA, one or more, for images of height x width.

    The viewer's world is right-handed with y up, its cameras look down -z. world (4, 4): the rigid transform from the
    cameras' world to the viewer's, as `geometry.gltf_transform` gives for an exported scene; the default turns y and z
    around. Without a quaternion the camera looks at its target, upright. zoom multiplies the focal length. The field of
    view is the vertical one: across, the image shows what its own shape does, whatever the viewer's `aspect`.
    Raises ValueError for an orthographic camera.
    """
    poses, intrinsics, names = [], [], []
    for view, info in enumerate(infos):
        what = f"3D camera {view}"
        if not isinstance(info, Mapping):
            raise ValueError(f"{what} is none; take it from a 3D node's camera output.")
        if str(info.get("cameraType", "perspective")).lower().startswith("ortho"):
            raise ValueError(f"{what} is orthographic; switch the 3D view to a perspective camera.")
        position = vector(info, "position", what)
        pose = np.eye(4)
        if info.get("quaternion"):
            turn = vector(info, "quaternion", what, "xyzw")
            if not 1e-9 < turn.norm() < 1e9:
                raise ValueError(f"{what} has a quaternion of length {turn.norm():.3g}; give one of length 1.")
            pose[:3, :3] = quaternion_to_rotation(turn).numpy()
        else:
            pose[:3, :3] = upright(position, vector(info, "target", what), what).numpy()
        pose[:3, 3] = position.numpy()
        fov = number(info.get("fov") or LOAD3D_FOV, f"The fov of {what}")
        if not 1e-6 < fov < 180:
            raise ValueError(f"{what} has a field of view of {fov} degrees; give one between 0 and 180.")
        fy = height / 2 / math.tan(math.radians(fov) / 2) * number(info.get("zoom") or 1, f"The zoom of {what}")
        fx = fy * number(info.get("pixel_aspect", 1), f"The pixel_aspect of {what}")
        middle = vector({"principal_point": {"x": 0.5, "y": 0.5}, **info}, "principal_point", what, "xy").tolist()
        intrinsics.append(pinhole(fx, fy, width * middle[0], height * middle[1]))
        poses.append(np.linalg.inv(world.double().numpy()) @ pose @ FLIP)
        names.append(f"camera_{view:02d}")
    return assemble("The list of 3D cameras", poses, intrinsics, height, width), names


def vector(info: Mapping[str, Any], key: str, what: str, axes: str = "xyz") -> Tensor:
    """float64 from {"x": ..., ...}. ValueError where it is missing or not of finite numbers."""
    value = info.get(key)
    if not isinstance(value, Mapping) or any(axis not in value for axis in axes):
        raise ValueError(f"{what} has no {key} ({', '.join(axes)}); take it from a 3D node's camera output.")
    return torch.tensor([number(value[axis], f"The {key} of {what}") for axis in axes], dtype=torch.float64)


def upright(position: Tensor, target: Tensor, what: str) -> Tensor:
    """(3, 3) three.js axes of a camera at `position` looking at `target`, y up; straight up or down, x to the right."""
    backward = position - target
    if backward.norm() == 0:
        raise ValueError(f"{what} stands on its target, so it looks nowhere; move it away.")
    backward = backward / backward.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 1, 0], dtype=torch.float64), backward)
    right = right / right.norm() if right.norm() > 1e-6 else torch.tensor([1.0, 0, 0], dtype=torch.float64)
    return torch.stack([right, torch.linalg.cross(backward, right), backward], dim=1)


def to_load3d(cameras: Cameras, distance: float = 1.0, world: Tensor = OPENGL) -> list[dict[str, Any]]:
    """Cameras -> LOAD3D_CAMERA dicts, whose target lies `distance` ahead. `world` as in `read_load3d`.

    What the type has no place for is added where it is needed: `pixel_aspect`, the focal length across as a share of
    that down, and `principal_point`, shares of width and height. `read_load3d` takes them, viewers leave them out (but
    `aspect` is theirs too). Raises ValueError for a K with skew.
    """
    H, W = cameras.height, cameras.width
    out = []
    for c2w, (fx, fy, cx, cy) in zip(cameras.c2w.double(), without_skew("a 3D camera", cameras.K), strict=True):
        matrix = world.double() @ c2w @ OPENGL
        position = matrix[:3, 3]
        info: dict[str, Any] = {
            "position": dict(zip("xyz", position.tolist(), strict=True)),
            "target": dict(zip("xyz", (position - distance * matrix[:3, 2]).tolist(), strict=True)),
            "quaternion": dict(zip("xyzw", rotation_to_quaternion(matrix[:3, :3]).tolist(), strict=True)),
            "fov": math.degrees(2 * math.atan(H / 2 / fy)),
            "aspect": (W / fx) / (H / fy),
            "zoom": 1,
            "cameraType": "perspective",
        }
        if abs(fx / fy - 1) > 1e-7:
            info["pixel_aspect"] = fx / fy
        if abs(cx / W - 0.5) > 1e-7 or abs(cy / H - 0.5) > 1e-7:
            info["principal_point"] = {"x": cx / W, "y": cy / H}
        out.append(info)
    return out


def read_moge_geometry(geometry: Mapping[str, Any]) -> tuple[Cameras, list[str]]:
    """ComfyUI's MOGE_GEOMETRY of one photograph: its camera, in the world's origin, for images of its depth's size.

    intrinsics (1, 3, 3) are shares of width and height, depth (1, H, W) is along the camera's axis. Raises ValueError
    for a panorama, which has no K, and for several photographs, of which MoGe gives neither poses nor a common unit.
    """
    what = "The MOGE_GEOMETRY"
    shapes = {name: tuple(getattr(geometry.get(name), "shape", ())) for name in ("depth", "image", "intrinsics")}
    depth, image, intrinsics = shapes.values()
    if len(depth) != 3 or image != (*depth, 3):
        raise ValueError(f"{what} has depth {depth} and image {image}; take it from Run MoGe Inference.")
    if not intrinsics:
        raise ValueError(f"{what} has no intrinsics, as that of a panorama; take it from Run MoGe Inference.")
    if len(geometry["depth"]) != 1 or intrinsics != (1, 3, 3):
        raise ValueError(
            f"{what} has {depth[0]} depth maps with intrinsics {intrinsics}. MoGe does not tell how several "
            "photographs stand to each other; give it one, or use Estimate GLD Cameras."
        )
    height, width = depth[1:]
    K = geometry["intrinsics"][0].double().cpu() * torch.tensor([[width], [height], [1.0]], dtype=torch.float64)
    return assemble(what, [np.eye(4)], [K.numpy()], height, width), ["photograph"]


def wan_camera_embedding(
    cameras: Cameras, scale: float = 1.0, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """ComfyUI's WAN_CAMERA_EMBEDDING of F cameras, F being 1 more than a multiple of 4: (1, 24, (F + 3) / 4, H, W).

    Moment and direction of the ray through the middle of every pixel (Pluecker, 6 channels), in the frame of the first
    camera, translations times `scale`. The first frame counts four times; then groups of four frames are one, whose
    channels are 4 of each of the 6. What the core's WanCameraEmbedding makes of its own motions. progress(done, total)
    is called after each frame; what it raises ends the work.
    """
    F = len(cameras)
    if F % 4 != 1:
        raise ValueError(f"There are {F} frames; a Wan model takes 1, 5, 9 and so on.")
    c2w = torch.linalg.inv(cameras.c2w[0].double()) @ cameras.c2w.double()
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1).double()
    out = torch.empty(6, 4, (F + 3) // 4, cameras.height, cameras.width)
    for frame, (pose, K) in enumerate(zip(c2w, cameras.K.double(), strict=True)):
        direction = pose[:3, :3] @ torch.nn.functional.normalize(torch.linalg.inv(K) @ pixels, dim=0)
        moment = torch.linalg.cross((pose[:3, 3] * scale)[:, None].expand_as(direction), direction, dim=0)
        ray = torch.cat([moment, direction]).view(6, 1, cameras.height, cameras.width)
        group, part = divmod(frame + 3, 4)
        out[:, (slice(4) if frame == 0 else slice(part, part + 1)), group] = ray.float()
        if progress is not None:
            progress(frame + 1, F)
    return out.flatten(0, 1)[None]


def read_da3_geometry(geometry: Mapping[str, Any]) -> tuple[Cameras, list[str]]:
    """ComfyUI's DA3_GEOMETRY: extrinsics (1, S, 3, 4) world-to-camera, intrinsics (1, S, 3, 3) in pixels of its depth
    (S, H, W).

    The core's own node may leave K in pixels of the size that the network worked at. Its principal points are that
    size's exact middle, a multiple of 14; such a K is scaled to the depth's size. Raises ValueError where there are no
    cameras, as from a single-view model, or tensors of other shapes.
    """
    what = "The DA3_GEOMETRY"
    if "extrinsics" not in geometry or "intrinsics" not in geometry:
        raise ValueError(f"{what} holds no cameras; use a multi-view Depth Anything 3 model.")
    for name, (dimensions, last) in {"depth": (3, ()), "extrinsics": (4, (4,)), "intrinsics": (4, (3, 3))}.items():
        value = geometry.get(name)
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        if len(shape) != dimensions or shape[dimensions - len(last) :] != last or not all(shape):
            raise ValueError(f"{what} has {name} of shape {shape}; take it from a multi-view Depth Anything 3 node.")
    w2c, K = geometry["extrinsics"][0].double().cpu(), geometry["intrinsics"][0].double().cpu().clone()
    S, height, width = geometry["depth"].shape[:3]
    if len(w2c) != S or len(K) != S:
        raise ValueError(f"{what} has {S} depth maps but {len(w2c)} poses and {len(K)} intrinsics; give one of each.")
    middle = torch.tensor([width, height], dtype=torch.float64) / 2
    worked_at = 2 * K[0, :2, 2]
    common = (K[:, :2, 2] == K[0, :2, 2]).all() and (worked_at % PATCH == 0).all() and (worked_at > 0).all()
    if common:
        K[:, :2] *= (middle / K[0, :2, 2])[None, :, None]
    elif not ((K[:, :2, 2] / (2 * middle) - 0.5).abs() <= 0.5 - PRINCIPAL_RANGE[0]).all():
        raise ValueError(f"{what} has intrinsics of another image size than its depth of {width}x{height}; scale K.")
    c2w = []
    for view, extrinsic in enumerate(w2c.numpy()):
        name = f"extrinsic {view} of the DA3_GEOMETRY"
        c2w.append(inverse(matrix(extrinsic, name), name))
    return assemble(what, c2w, list(K.numpy()), height, width), [f"view_{view:02d}" for view in range(S)]
