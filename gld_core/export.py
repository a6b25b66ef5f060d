"""Results to files: pictures, depth, point cloud, cameras. Every file appears whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from .cameras import Cameras


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """`with atomic(path) as temporary:` write to `temporary`; it becomes `path` when the block ends, and is removed
    where the block raises anything at all (KeyboardInterrupt included). The folder of `path` is made where missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    temporary = Path(name)
    try:
        os.close(handle)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_bytes(image: Tensor) -> np.ndarray:
    """(3, H, W) float in [0, 1], clamped -> (H, W, 3) uint8."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def write_png(path: str | Path, image: Tensor) -> None:
    """(3, H, W) float in [0, 1] (clamped) -> 8-bit RGB PNG."""
    with atomic(path) as temporary:
        Image.fromarray(to_bytes(image)).save(temporary, format="PNG")


def depth_unit(depth: Tensor) -> float:
    """Scene units per step of a 16-bit depth PNG, for all views (V, H, W) of a scene: the largest finite depth falls
    on 65535. (1.0 where no pixel has a finite, positive depth.)
    """
    valid = depth[torch.isfinite(depth) & (depth > 0)]
    return valid.max().item() / 65535 if len(valid) else 1.0


def write_depth_png(path: str | Path, depth: Tensor, unit: float) -> None:
    """(H, W) depth in scene units -> 16-bit grey PNG: value = round(depth / unit), at least 1; 0 where the depth is
    not finite and positive. `unit` is also in the file, as the text entry "depth_unit".
    """
    depth = depth.detach().double().cpu()
    steps = (depth / unit).round().clamp(1, 65535)
    values = torch.where(torch.isfinite(depth) & (depth > 0), steps, 0).numpy().astype(np.uint16)
    info = PngImagePlugin.PngInfo()
    info.add_text("depth_unit", repr(unit))
    with atomic(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=info)


def write_npz(path: str | Path, **arrays: Tensor | float) -> None:
    """Named arrays -> compressed .npz. `views` writes depth (scene units) and confidence, float32 (H, W), depth_unit
    of the PNG beside it, and the view's camera as `pose` (OpenCV camera-to-world, 4x4) and `intrinsic` (3x3, pixels).
    """
    plain: dict[str, Any] = {
        name: value.detach().cpu().numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()
    }
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **plain)


def depth_to_color(depth: Tensor, near: float | None = None, far: float | None = None) -> Tensor:
    """(..., H, W) depth -> (..., 3, H, W) in [0, 1] to look at: near is bright yellow, far is dark violet, linear in
    1/depth; what is not finite and positive is grey. `near` and `far` default to the 2nd and 98th percentile.
    """
    depth = depth.detach().float().cpu()
    valid = torch.isfinite(depth) & (depth > 0)
    if valid.any():
        sample = depth[valid].double().numpy()
        near = float(np.percentile(sample, 2)) if near is None else near
        far = float(np.percentile(sample, 98)) if far is None else far
    else:
        near, far = 1.0, 2.0
    inverse = 1 / torch.where(valid, depth, far)
    level = ((inverse - 1 / far) / max(1 / near - 1 / far, 1e-12)).clamp(0, 1)
    stops = torch.tensor(
        [[0.05, 0.03, 0.2], [0.36, 0.08, 0.46], [0.72, 0.21, 0.38], [0.95, 0.5, 0.2], [0.99, 0.95, 0.65]]
    )
    position = level * (len(stops) - 1)
    lower = position.long().clamp(max=len(stops) - 2)
    color = torch.lerp(stops[lower], stops[lower + 1], (position - lower)[..., None])
    return torch.where(valid[..., None], color, 0.5).movedim(-1, -3)


def contact_sheet(
    labels: Sequence[str], rows: Mapping[str, Sequence[Tensor | None]], cell: int = 240, per_band: int = 8
) -> Tensor:
    """One picture of many: a column per view with its label above, a row per kind with its name at the left.

    `rows` maps a name to one (3, H, W) image in [0, 1], or None for a blank cell, per label; all images have one
    size. Cells are scaled to `cell` pixels on the long side; after `per_band` columns a new band starts below.
    Returns (3, height, width) in [0, 1].
    """
    H, W = next(image.shape[-2:] for row in rows.values() for image in row if image is not None)
    cell_h, cell_w = max(1, round(cell * H / max(H, W))), max(1, round(cell * W / max(H, W)))
    font = ImageFont.load_default(14)
    gap, head, side = 6, 24, 16 + int(max(font.getlength(name) for name in rows))
    columns = min(per_band, len(labels))
    bands = -(-len(labels) // per_band)
    band_h = head + len(rows) * (cell_h + gap) + gap
    sheet = Image.new("RGB", (side + columns * (cell_w + gap), bands * band_h), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    for view, label in enumerate(labels):
        x = side + view % per_band * (cell_w + gap)
        top = view // per_band * band_h
        while font.getlength(label) > cell_w and len(label) > 1:
            label = label[:-1]
        draw.text((x, top + 4), label, (235, 235, 235), font)
        for line, (name, images) in enumerate(rows.items()):
            y = top + head + line * (cell_h + gap)
            draw.text((8, y + cell_h // 2 - 8), name, (170, 170, 180), font)
            image = images[view]
            if image is None:
                draw.rectangle((x, y, x + cell_w - 1, y + cell_h - 1), (40, 40, 46))
            else:
                sheet.paste(Image.fromarray(to_bytes(image)).resize((cell_w, cell_h), Image.Resampling.LANCZOS), (x, y))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255


def write_transforms(
    path: str | Path, cameras: Cameras, files: Sequence[Mapping[str, object]], **extra: object
) -> None:
    """Cameras -> a nerfstudio-style transforms.json.

    `transform_matrix` is camera-to-world with OpenGL camera axes (x right, y up, z backward): the OpenCV c2w with its
    second and third column negated; the world is left as it is. fl_x, fl_y, cx, cy, w, h are per frame, in pixels.
    `files` gives each frame's own entries (file_path, depth_file_path, ...); `extra` goes to the top level.
    """
    opengl = cameras.c2w.double().cpu() * torch.tensor([1.0, -1, -1, 1])
    frames = []
    for c2w, K, names in zip(opengl.tolist(), cameras.K.double().tolist(), files, strict=True):
        intrinsics = {"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2]}
        frames.append({**names, **intrinsics, "w": cameras.width, "h": cameras.height, "transform_matrix": c2w})
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"camera_model": "PINHOLE", **extra, "frames": frames}, indent=2) + "\n")


def write_ply(path: str | Path, points: Tensor, colors: Tensor) -> None:
    """(P, 3) points and (P, 3) uint8 colours -> PLY, binary little endian, float32 coordinates as they are."""
    vertex = np.dtype([("position", "<f4", 3), ("color", "u1", 3)])
    data = np.empty(len(points), vertex)
    data["position"] = points.detach().cpu().numpy()
    data["color"] = colors.detach().cpu().numpy()
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header", ""]
    with atomic(path) as temporary:
        temporary.write_bytes("\n".join(header).encode("ascii") + data.tobytes())
