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


def check_new(path: str | Path) -> None:
    """Raise FileExistsError, with the cure, where there is something at `path`."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not written over; choose another name, or remove it first.")


def check_names(names: Sequence[str], views: int) -> None:
    """ValueError unless there is a name per view, each its own and a plain file name of up to 200 characters."""
    if len(names) != views:
        raise ValueError(f"There are {len(names)} names for {views} views; give one each.")
    for place, name in enumerate(names):
        if (
            name in names[:place]
            or name.strip() in ("", ".", "..")
            or set(name) & set('/\\:*?"<>|')
            or not name.isprintable()
            or len(name) > 200
        ):
            raise ValueError(
                f"The view name {name[:40]!r} is given twice or is no plain file name of up to 200 characters; choose "
                "another."
            )


@contextmanager
def atomic(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """`with atomic(path) as temporary:` write to `temporary`; it becomes `path` when the block ends, and is removed
    where the block raises anything at all (KeyboardInterrupt included). The folder of `path` is made where missing.

    replace=False: raises FileExistsError where `path` exists.
    """
    path = Path(path)
    if not replace:
        check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        # After the writing: safetensors puts a file of its own in the place, which only its owner may read.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """`with atomic_folder(path) as temporary:` write into the folder `temporary`; it becomes `path` when the block
    ends, and is removed with all that is in it where the block raises. FileExistsError where `path` exists.
    """
    path = Path(path)
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as outer:
        temporary = Path(outer) / path.name
        temporary.mkdir()
        yield temporary
        check_new(path)
        os.rename(temporary, path)


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


# From far to near. The names are matplotlib's, whose maps these follow at the stops.
DEPTH_COLORS = {
    "inferno": [[0.05, 0.03, 0.2], [0.36, 0.08, 0.46], [0.72, 0.21, 0.38], [0.95, 0.5, 0.2], [0.99, 0.95, 0.65]],
    "viridis": [[0.27, 0.0, 0.33], [0.23, 0.32, 0.55], [0.13, 0.57, 0.55], [0.37, 0.79, 0.38], [0.99, 0.91, 0.14]],
    "turbo": [
        [0.19, 0.07, 0.23], [0.27, 0.42, 0.94], [0.15, 0.75, 0.89], [0.26, 0.96, 0.5], [0.69, 0.98, 0.21],
        [0.96, 0.73, 0.23], [0.98, 0.4, 0.1],
    ],
    "grey": [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
}  # fmt: skip


def depth_range(depth: Tensor) -> tuple[float, float]:
    """(near, far): the 2nd and 98th percentile of what is finite and positive; (1, 2) where nothing is."""
    valid = depth[torch.isfinite(depth) & (depth > 0)]
    if not len(valid):
        return 1.0, 2.0
    near, far = np.percentile(valid[:: len(valid) // 1_000_000 + 1].double().numpy(), [2, 98])
    return float(near), float(far)


def depth_to_color(
    depth: Tensor,
    near: float | None = None,
    far: float | None = None,
    colors: str = "inferno",
    per_view: bool = False,
) -> Tensor:
    """(..., H, W) depth -> (..., 3, H, W) in [0, 1] to look at: near is bright, far is dark, linear in 1/depth; what
    is not finite and positive is mid grey, in "grey" black.

    colors: one of DEPTH_COLORS ("turbo" goes from blue to red and is not brighter but warmer where near). near, far:
    where the colours end; by default `depth_range` of all views, or with per_view of each (H, W).
    """
    depth = depth.detach().float().cpu()
    if per_view and depth.ndim > 2:
        return torch.stack([depth_to_color(view, near, far, colors, per_view) for view in depth])
    found_near, found_far = depth_range(depth)
    near, far = found_near if near is None else near, found_far if far is None else far
    valid = torch.isfinite(depth) & (depth > 0)
    inverse = 1 / torch.where(valid, depth, far)
    level = ((inverse - 1 / far) / max(1 / near - 1 / far, 1e-12)).clamp(0, 1)
    stops = torch.tensor(DEPTH_COLORS[colors])
    position = level * (len(stops) - 1)
    lower = position.long().clamp(max=len(stops) - 2)
    color = torch.lerp(stops[lower], stops[lower + 1], (position - lower)[..., None])
    return torch.where(valid[..., None], color, 0.0 if colors == "grey" else 0.5).movedim(-1, -3)


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


def ply_bytes(points: Tensor, colors: Tensor, normals: Tensor | None = None) -> bytes:
    """(P, 3) points, (P, 3) uint8 colours and (P, 3) normals -> PLY, binary little endian, float32 coordinates as they
    are. Points that are not finite are left out.
    """
    fields: dict[str, tuple[str, str, Tensor]] = {"position": ("<f4", "float", points)}
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
