"""Point clouds as PLY files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..io.files import atomic


def ply_bytes(points: Tensor, colors: Tensor, normals: Tensor | None = None) -> bytes:
    """(P, 3) points, (P, 3) uint8 colours and (P, 3) normals -> PLY, binary little endian, coordinates as they are:
    float64 as double, others as float. Points that are not finite are left out.
    """
    wide = points.dtype == torch.float64
    fields: dict[str, tuple[str, str, Tensor]] = {
        "position": ("<f8" if wide else "<f4", "double" if wide else "float", points)
    }
    if normals is not None:
        fields["normal"] = ("<f4", "float", normals)
    fields["color"] = ("u1", "uchar", colors)
    names = {"position": "x y z", "normal": "nx ny nz", "color": "red green blue"}
    finite = torch.isfinite(points).all(dim=1)
    data = np.empty(int(finite.sum()), np.dtype([(name, kind, 3) for name, (kind, _, _) in fields.items()]))
    properties = []
    for name, (_, kind, values) in fields.items():
        data[name] = values.detach().cpu()[finite].numpy()
        properties += [f"property {kind} {part}" for part in names[name].split()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(data)}", *properties, "end_header", ""]
    return "\n".join(header).encode("ascii") + data.tobytes()


def write_ply(
    path: str | Path, points: Tensor, colors: Tensor, normals: Tensor | None = None, replace: bool = False
) -> None:
    """`ply_bytes` to a file. Raises FileExistsError where there is one already, unless `replace`."""
    with atomic(path, replace) as temporary:
        temporary.write_bytes(ply_bytes(points, colors, normals))
