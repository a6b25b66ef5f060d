"""Point clouds and Gaussian splats as PLY files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..geometry.splats import Splats
from ..io.files import atomic

# The constant of spherical harmonics of degree 0: colour = 0.5 + SH0 * coefficient.
SH0 = 0.28209479177387814


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


def splat_ply_bytes(splats: Splats) -> bytes:
    """Splats -> the PLY of 3D Gaussian splatting's own program, binary little endian, without view-dependent colour.

    Sizes are stored as logarithms, opacities as logits, colours as spherical harmonics of degree 0, quaternions wxyz.
    Viewers take y as down in such files: `transformed` brings splats there.
    """
    opacity = torch.logit(splats.opacities.double().clamp(1e-6, 1 - 1e-6))[:, None]
    color = (splats.rgb.double() - 0.5) / SH0
    values = (splats.xyz, torch.zeros_like(splats.xyz), color, opacity, splats.scales.double().log(), splats.rotations)
    table = torch.cat([value.detach().cpu().double() for value in values], 1).float()
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += [f"scale_{axis}" for axis in range(3)] + [f"rot_{part}" for part in range(4)]
    table = table[torch.isfinite(table).all(1)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    return "\n".join(header).encode("ascii") + table.numpy().astype("<f4").tobytes()
