"""Scenes as binary glTF 2.0: point clouds, triangle meshes, lines. Shown as photographed, without lights."""

import base64
import io
import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from ..cameras.conventions import OPENGL, nearest_pinhole
from ..geometry.mesh import Mesh
from ..geometry.points import PointCloud
from ..io.files import atomic
from ..io.images import to_bytes


def gltf_transform(xyz: Tensor, w2c: Tensor) -> Tensor:
    """(4, 4) float64 world to glTF (Y up, looking down -Z): from the first camera's frame, centred on the median.

    xyz (P, 3); w2c (4, 4) of the first view.
    """
    out = OPENGL @ w2c.double()
    if len(xyz):
        points = xyz.double() @ out[:3, :3].T + out[:3, 3]
        out[:3, 3] -= torch.from_numpy(np.median(points.numpy(), axis=0))
    return out


POINTS, LINES, TRIANGLES = 0, 1, 4
USHORT, UINT, FLOAT = 5123, 5125, 5126
VERTICES, INDICES = 34962, 34963
USHORT_MAX = 65535
# Of the steps of a compact part, as a share of the size of the scene.
COARSEST = 1 / 4096
SOURCE_COLOR, TARGET_COLOR = (255, 150, 30), (40, 170, 255)


@dataclass(frozen=True)
class Lines:
    """xyz (P, 3) in the world, rgb (P, 3) uint8, segments (S, 2) int64."""

    xyz: Tensor
    rgb: Tensor
    segments: Tensor


def scene_diagonal(xyz: Tensor) -> float:
    """Diagonal of the box between the 5th and 95th percentile of points (P, 3) per axis; 1 where that is 0."""
    low, high = np.percentile(xyz.double().numpy(), [5, 95], axis=0) if len(xyz) else np.zeros((2, 3))
    return float(np.linalg.norm(high - low)) or 1.0


def thinned(xyz: Tensor) -> Tensor:
    """Of points (P, 3) at most a hundred thousand, which are enough for the size of the scene."""
    return xyz[:: len(xyz) // 100_000 + 1]


def camera_frusta(cameras: Cameras, size: float, sources: int = 0) -> Lines:
    """A wire pyramid per camera, `size` deep; the first `sources` cameras in another colour. The
    released demonstration takes 0.03 of `scene_diagonal`: docs/model.md#cameras-and-points-from-geometry
    """
    W, H = float(cameras.width), float(cameras.height)
    corners = torch.tensor([[0, 0, 1], [W, 0, 1], [W, H, 1], [0, H, 1]], dtype=torch.float64)
    rays = corners @ torch.linalg.inv(cameras.K.double()).transpose(1, 2)
    local = torch.cat([torch.zeros(len(rays), 1, 3, dtype=torch.float64), size * rays / rays[..., 2:]], dim=1)
    c2w = cameras.c2w.double()
    xyz = local @ c2w[:, :3, :3].transpose(1, 2) + c2w[:, None, :3, 3]
    edges = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]])
    segments = (torch.arange(len(rays))[:, None, None] * 5 + edges).flatten(0, 1)
    colors = torch.tensor([SOURCE_COLOR] * sources + [TARGET_COLOR] * (len(rays) - sources), dtype=torch.uint8)
    return Lines(xyz.flatten(0, 1), colors.repeat_interleave(5, dim=0), segments)


def linear_colors(rgb: Tensor) -> np.ndarray:
    """(P, 3) uint8 sRGB -> (P, 4) uint16 linear with full alpha, as glTF wants COLOR_0, aligned to 4 bytes. In 8 bits
    the twelve darkest colours would become two.
    """
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    table = np.round(linear * 65535).astype("<u2")
    return np.concatenate([table[rgb.numpy()], np.full((len(rgb), 1), 65535, "<u2")], axis=1)


def small_pieces(corners: np.ndarray) -> Iterator[np.ndarray]:
    """Simplices (F, n) in pieces, in their order, each with few enough vertices for 16-bit indices."""
    if len(np.unique(corners)) < USHORT_MAX:
        yield corners
    else:
        middle = len(corners) // 2
        yield from small_pieces(corners[:middle])
        yield from small_pieces(corners[middle:])


class Builder:
    """A glTF document and its one buffer. compact, page: as in `glb_bytes`."""

    def __init__(self, compact: bool = False, page: bool = False) -> None:
        self.compact, self.page = compact, page
        self.buffer = bytearray()
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "gld-novel-views"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": []}],
        }
        if compact:
            self.document["extensionsUsed"].append("KHR_mesh_quantization")
            self.document["extensionsRequired"] = ["KHR_mesh_quantization"]

    def append(self, name: str, item: dict[str, Any]) -> int:
        """Add to one of the document's lists; returns the index."""
        items = self.document.setdefault(name, [])
        items.append(item)
        return len(items) - 1

    def view(self, data: bytes, **properties: int) -> int:
        """A stretch of the buffer."""
        self.buffer += b"\0" * (-len(self.buffer) % 4)
        view = {"buffer": 0, "byteOffset": len(self.buffer), "byteLength": len(data), **properties}
        self.buffer += data
        return self.append("bufferViews", view)

    def accessor(self, array: np.ndarray, component: int, target: int, **properties: Any) -> int:
        """A (P, n) or (P,) array, little endian as it is; rows are padded to 4 bytes, as glTF wants vertices."""
        kind = "SCALAR" if array.ndim == 1 else f"VEC{array.shape[1]}"
        stride = {}
        if array.ndim == 2 and array.strides[0] % 4:
            array = np.pad(array, ((0, 0), (0, 1)))
            stride = {"byteStride": array.strides[0]}
        view = self.view(array.tobytes(), target=target, **stride)
        item = {"bufferView": view, "componentType": component, "count": len(array), "type": kind, **properties}
        return self.append("accessors", item)

    def material(self, texture: Tensor | None) -> int:
        """Unlit; with a texture (3, H, W), that one as JPEG, where `page` puts it."""
        shading: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        if texture is not None:
            file = io.BytesIO()
            Image.fromarray(to_bytes(texture.nan_to_num(0))).save(file, format="JPEG", quality=92)
            if self.page:
                text = base64.b64encode(file.getvalue()).decode()
                image = self.append("images", {"uri": f"data:image/jpeg;base64,{text}"})
            else:
                image = self.append("images", {"bufferView": self.view(file.getvalue()), "mimeType": "image/jpeg"})
            sampler = self.append("samplers", {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071})
            shading["baseColorTexture"] = {"index": self.append("textures", {"source": image, "sampler": sampler})}
        unlit = {"extensions": {"KHR_materials_unlit": {}}, "doubleSided": True}
        return self.append("materials", {"pbrMetallicRoughness": shading, **unlit})

    def add(self, part: PointCloud | Mesh | Lines, matrix: Tensor) -> None:
        """A node with one primitive, or several where 16 bits do not reach; coordinates go through `matrix` (4, 4).
        What is not finite is left out.
        """
        matrix = matrix.double()
        moved = part.xyz.detach().cpu().double() @ matrix[:3, :3].T + matrix[:3, 3]
        xyz = moved.float()
        finite = torch.isfinite(xyz).all(dim=1)
        index = {Mesh: "faces", Lines: "segments"}.get(type(part))
        if index is None:
            pieces = [finite.nonzero()[:, 0].numpy()]
        else:
            simplices = getattr(part, index)
            kept = simplices[finite[simplices].all(dim=1)].numpy()
            pieces = [kept]
        if not len(pieces[0]):
            return
        compact = self.compact
        if compact:
            shown = moved[np.unique(pieces[0])]
            low = shown.amin(0)
            step = max(float((shown.amax(0) - low).max()) / USHORT_MAX, 1e-30)
            # One pixel of the sky, far behind everything else, would make the steps of all that is near coarse.
            compact = step <= COARSEST * scene_diagonal(thinned(shown))
        if compact and index is not None:
            pieces = list(small_pieces(pieces[0]))
        mode = POINTS if index is None else (TRIANGLES if isinstance(part, Mesh) else LINES)
        name = {POINTS: "points", LINES: "cameras", TRIANGLES: "mesh"}[mode]
        node: dict[str, Any] = {"name": name}
        position = xyz.numpy().astype("<f4")
        if compact:
            node |= {"translation": low.tolist(), "scale": [step] * 3}
            position = ((moved - low) / step).nan_to_num(0).clamp(0, USHORT_MAX).round().numpy().astype("<u2")
        material = self.material(part.texture if isinstance(part, Mesh) else None)
        primitives = []
        for piece in pieces:
            used, corners = (piece, None) if index is None else np.unique(piece, return_inverse=True)
            attributes = self.attributes(part, used, position[used], compact)
            primitives.append({"attributes": attributes, "mode": mode, "material": material})
            if corners is not None:
                kind = ("<u2", USHORT) if compact else ("<u4", UINT)
                primitives[-1]["indices"] = self.accessor(corners.ravel().astype(kind[0]), kind[1], INDICES)
        node["mesh"] = self.append("meshes", {"name": name, "primitives": primitives})
        self.document["scenes"][0]["nodes"].append(self.append("nodes", node))

    def attributes(
        self, part: PointCloud | Mesh | Lines, used: np.ndarray, position: np.ndarray, compact: bool
    ) -> dict[str, int]:
        """The accessors of some vertices (P,) of a part, at `position` (P, 3) as the file holds it."""
        bounds = {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
        found = {"POSITION": self.accessor(position, USHORT if compact else FLOAT, VERTICES, **bounds)}
        if isinstance(part, Mesh) and part.uv is not None:
            uv = part.uv.numpy()[used]
            if compact:
                place = (uv.clip(0, 1) * USHORT_MAX).round().astype("<u2")
                found["TEXCOORD_0"] = self.accessor(place, USHORT, VERTICES, normalized=True)
            else:
                found["TEXCOORD_0"] = self.accessor(uv.astype("<f4"), FLOAT, VERTICES)
        if part.rgb is not None:
            colors = linear_colors(part.rgb[torch.from_numpy(used)])
            found["COLOR_0"] = self.accessor(colors, USHORT, VERTICES, normalized=True)
        return found

    def add_cameras(self, cameras: Cameras, matrix: Tensor, sources: int, near: float) -> None:
        """A node with a camera for every view, "source 0000" and so on. glTF has its optical axis in the middle. near:
        the depth from which they show.
        """
        poses = matrix.double() @ cameras.c2w.double() @ OPENGL
        for view, (K, pose) in enumerate(zip(cameras.K.double(), poses, strict=True)):
            lens = {
                "yfov": 2 * math.atan(cameras.height / 2 / K[1, 1].item()),
                "aspectRatio": cameras.width / K[0, 0].item() / (cameras.height / K[1, 1].item()),
                "znear": near,
            }
            name = f"{'source' if view < sources else 'target'} {view:04}"
            camera = self.append("cameras", {"name": name, "type": "perspective", "perspective": lens})
            node = {"name": name, "camera": camera, "matrix": pose.T.flatten().tolist()}
            self.document["scenes"][0]["nodes"].append(self.append("nodes", node))

    def glb(self) -> bytes:
        """The file."""
        self.buffer += b"\0" * (-len(self.buffer) % 4)
        self.document["buffers"] = [{"byteLength": len(self.buffer)}]
        text = json.dumps(self.document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(self.buffer))
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(self.buffer), b"BIN\0")
        return head + chunks + self.buffer


def glb_bytes(
    parts: Iterable[PointCloud | Mesh | Lines],
    matrix: Tensor,
    cameras: Cameras | None = None,
    sources: int = 0,
    compact: bool = False,
    page: bool = False,
) -> bytes:
    """Point clouds, meshes and lines of the world -> a .glb file; `matrix` (4, 4) brings the world to glTF's axes (Y
    up, looking down -Z: `gltf_transform`). Materials are unlit; colours are sRGB in, linear in the file. `cameras` are
    cameras of the scene that programs can look through, the first `sources` of them named so. compact: positions in
    steps of 1/65535 of each part's size (KHR_mesh_quantization), places in textures and indices in 16 bits, but not for
    parts that a few points far away make so large that the steps would show. page: textures as data URIs; from the
    buffer a web page takes them by an address of its own (blob:), which ComfyUI's policy forbids where API nodes are
    switched off.

    Raises ValueError where there is nothing finite to show.
    """
    builder, points = Builder(compact, page), []
    for part in parts:
        builder.add(part, matrix)
        if cameras is not None:
            some = thinned(part.xyz)
            points.append(some[torch.isfinite(some).all(1)])
    if not builder.buffer:
        raise ValueError(
            "The scene has no point left; lower the confidence threshold, the views that must agree or the voxel."
        )
    if cameras is not None:
        near = 1e-3 * scene_diagonal(torch.cat(points))
        builder.add_cameras(nearest_pinhole(cameras)[0], matrix, sources, near)
    return builder.glb()


def write_glb(
    path: str | Path,
    parts: Iterable[PointCloud | Mesh | Lines],
    matrix: Tensor,
    cameras: Cameras | None = None,
    sources: int = 0,
    compact: bool = False,
    page: bool = False,
) -> None:
    """`glb_bytes` to a new file. Raises FileExistsError where there is one already."""
    with atomic(path, replace=False) as temporary:
        temporary.write_bytes(glb_bytes(parts, matrix, cameras, sources, compact, page))
