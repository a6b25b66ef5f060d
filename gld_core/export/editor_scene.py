"""The sources as one compact binary file for the path editor in the page (web/editor/scene_file.mjs reads it).

"GLDS", then as little-endian uint32 the length of a JSON header, the header, and the parts that it names by offset and
size in bytes, counted from the end of the header: a JPEG of each photograph, and each depth map as uint16 logarithms, 0
where there is none: z = near * (far / near) ** ((value - 1) / 65534).
"""

import json
import math
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from ..cameras.keyframes import keys_of
from ..cameras.motions import scene_centre, up_direction
from ..cameras.rotations import rotation_to_quaternion
from ..geometry.depth_maps import PosedDepth
from ..io.images import to_bytes

MAGIC = b"GLDS"
# Depth values of all sources together; above, every second, third, ... row and column.
MOST_VALUES = 4_000_000


def scene_bytes(
    sources: Cameras,
    depth: float,
    images: Tensor | None = None,
    maps: PosedDepth | None = None,
    incoming: Cameras | None = None,
) -> bytes:
    """sources: N cameras; depth: of the scene; images (N, 3, H, W) in [0, 1]; maps: of the sources; incoming: cameras
    that may become keyframes.
    """
    parts: list[bytes] = []

    def place(data: bytes) -> dict[str, int]:
        start = sum(map(len, parts))
        # Views on the file's buffer begin at even numbers.
        parts.append(data + bytes(len(data) % 2))
        return {"offset": start, "size": len(data)}

    turns = rotation_to_quaternion(sources.c2w[:, :3, :3].double())
    described: list[dict[str, Any]] = []
    for view in range(len(sources)):
        K = sources.K[view].double()
        source: dict[str, Any] = {
            "position": sources.c2w[view, :3, 3].double().tolist(),
            "rotation": turns[view].tolist(),
            "K": [K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item()],
        }
        if images is not None:
            stream = BytesIO()
            Image.fromarray(to_bytes(images[view])).save(stream, "JPEG", quality=92)
            source["image"] = place(stream.getvalue())
        if maps is not None:
            source["depth"] = place_depth(maps.inverse[view], len(sources), place)
        described.append(source)
    header = {
        "version": 1,
        "width": sources.width,
        "height": sources.height,
        "depth": depth,
        "up": up_direction(sources).tolist(),
        "centre": scene_centre(sources, depth).tolist(),
        "sources": described,
        "incoming": [] if incoming is None else keys_of(incoming, sources),
    }
    text = json.dumps(header).encode()
    text += b" " * (len(text) % 2)
    return b"".join([MAGIC, struct.pack("<I", len(text)), text, *parts])


def place_depth(inverse: Tensor, sources: int, place: Callable[[bytes], dict[str, int]]) -> dict[str, Any]:
    """One depth map in the file, from 1/depth (H, W), NaN where there is none: every `stride`-th pixel from the first,
    `rows` x `columns` of them.
    """
    stride = max(1, math.ceil((sources * inverse.numel() / MOST_VALUES) ** 0.5))
    z = 1 / inverse[::stride, ::stride].double()
    known = torch.isfinite(z)
    near, far = (z[known].min().item(), z[known].max().item()) if known.any() else (1.0, 1.0)
    span = math.log(far / near) or 1.0
    values = torch.where(known, 1 + 65534 * torch.log(z.clamp(min=near) / near) / span, 0)
    grid = values.clamp(0, 65535).round().numpy().astype("<u2")
    shape = {"rows": grid.shape[0], "columns": grid.shape[1], "stride": stride}
    return {**place(np.ascontiguousarray(grid).tobytes()), **shape, "near": near, "far": near * math.exp(span)}
