"""Depth maps as pictures, and contact sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from ..io.files import atomic
from ..io.images import to_bytes

# nerfstudio and others read depth files as thousandths of the cameras' unit, millimetres of metres.
DEPTH_STEP = 1e-3


def depth_unit(depth: Tensor) -> float:
    """Scene units per step of a 16-bit depth PNG, for all views (V, H, W) of a scene: DEPTH_STEP, which other programs
    expect, where the largest depth is from 1 unit to 65535 steps; else the one at which the largest depth is 65535.
    """
    valid = depth[torch.isfinite(depth) & (depth > 0)]
    largest = valid.max().item() if len(valid) else 1.0
    return DEPTH_STEP if 1 <= largest <= 65535 * DEPTH_STEP else largest / 65535


def write_depth_png(path: str | Path, depth: Tensor, unit: float) -> None:
    """(H, W) depth in scene units -> 16-bit grey PNG: value = round(depth / unit), at least 1; 0 where the depth is
    not finite and positive. `unit` is also in the file, as the text entry "depth_unit".
    """
    depth = depth.detach().cpu().double()
    steps = (depth / unit).round().clamp(1, 65535)
    values = torch.where(torch.isfinite(depth) & (depth > 0), steps, 0).numpy().astype(np.uint16)
    info = PngImagePlugin.PngInfo()
    info.add_text("depth_unit", repr(unit))
    with atomic(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=info)


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
    near, far = np.percentile(valid[:: len(valid) // 1_000_000 + 1].cpu().double().numpy(), [2, 98])
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
