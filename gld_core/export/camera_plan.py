"""Pictures and outlines of where all cameras stand."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..cameras import Cameras
from ..cameras.motions import up_direction
from .gltf import SOURCE_COLOR, TARGET_COLOR, Lines, camera_frusta

# Targets of which less than this share is covered are drawn in a colour of their own.
MOSTLY_UNSEEN = 0.5
UNSEEN_COLOR = (235, 70, 80)
BACKGROUND, INK = (24, 24, 28), (235, 235, 235)


def view_colors(views: int, sources: int, share: Tensor | None = None) -> list[tuple[int, int, int]]:
    """RGB of each view's frustum; share (views - sources,): of the targets, that is covered."""
    shares = [1.0] * (views - sources) if share is None else share.tolist()
    targets = [UNSEEN_COLOR if value < MOSTLY_UNSEEN else TARGET_COLOR for value in shares]
    return [SOURCE_COLOR] * sources + targets


# Seven-segment digits in a cell of width 1 and height 2, y down.
STROKES = {
    "a": ((0, 0), (1, 0)),
    "b": ((1, 0), (1, 1)),
    "c": ((1, 1), (1, 2)),
    "d": ((0, 2), (1, 2)),
    "e": ((0, 1), (0, 2)),
    "f": ((0, 0), (0, 1)),
    "g": ((0, 1), (1, 1)),
}
DIGITS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")


def frusta(cameras: Cameras, sources: int, size: float, share: Tensor | None = None) -> Lines:
    """`gltf.camera_frusta` in `view_colors`, each with its number, from 0, standing on its upper edge."""
    lines = camera_frusta(cameras, size, sources)
    colors = torch.tensor(view_colors(len(cameras), sources, share), dtype=torch.uint8)
    xyz, rgb, segments = [lines.xyz], [colors.repeat_interleave(5, dim=0)], [lines.segments]
    count = len(lines.xyz)
    for view in range(len(cameras)):
        top_left, top_right = lines.xyz[5 * view + 1], lines.xyz[5 * view + 2]
        across = (top_right - top_left) / 10
        down = cameras.c2w[view, :3, 1].double() * across.norm()
        text = str(view)
        corner = (top_left + top_right) / 2 - across * (1.5 * len(text) - 0.5) / 2 - 2.5 * down
        strokes = [
            corner + (x + 1.5 * place) * across + y * down
            for place, digit in enumerate(text)
            for name in DIGITS[int(digit)]
            for x, y in STROKES[name]
        ]
        xyz.append(torch.stack(strokes))
        rgb.append(colors[view].expand(len(strokes), 3))
        segments.append(count + torch.arange(len(strokes)).view(-1, 2))
        count += len(strokes)
    return Lines(torch.cat(xyz), torch.cat(rgb), torch.cat(segments))


def plan(
    cameras: Cameras,
    sources: int,
    xyz: Tensor,
    rgb: Tensor | None = None,
    share: Tensor | None = None,
    size: int = 768,
) -> Tensor:
    """(size, size, 3) in [0, 1]: the scene from above, the first camera looking up the page.

    xyz (P, 3) points of the scene, rgb (P, 3) uint8 (None: grey); the first `sources` cameras are sources, the others
    targets in the order of their path; share (V - sources,): of each target, that is covered. With a bar of a length
    in the cameras' units.
    """
    up = up_direction(cameras[:sources])
    forward = cameras.c2w[0, :3, 2].double()
    if (forward @ up).abs() > 0.99:
        forward = -cameras.c2w[0, :3, 1].double()
    right = torch.linalg.cross(forward, up)
    right = right / right.norm()
    to_page = torch.stack([right, -torch.linalg.cross(up, right)])
    eyes = (cameras.c2w[:, :3, 3].double() @ to_page.T).numpy()
    xyz = xyz.detach().cpu().double()
    finite = torch.isfinite(xyz).all(dim=1)
    ground, height = (xyz[finite] @ to_page.T).numpy(), (xyz[finite] @ up).numpy()

    shown = np.concatenate([eyes, np.percentile(ground, [2, 98], axis=0)]) if len(ground) else eyes
    low, high = shown.min(0), shown.max(0)
    extent = float((high - low).max()) or 1.0
    scale = 0.8 * size / extent
    offset = size / 2 - (low + high) / 2 * scale

    picture = np.full((size, size, 3), BACKGROUND, np.uint8)
    if len(ground):
        order = height.argsort(kind="stable")
        pixels = np.floor(ground[order] * scale + offset).astype(np.int64)
        inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
        colors = np.full((len(ground), 3), 120) if rgb is None else rgb.detach().cpu().numpy()[finite.numpy()]
        picture[pixels[inside, 1], pixels[inside, 0]] = 0.7 * colors[order][inside]
    page = Image.fromarray(picture)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(14)

    places = eyes * scale + offset
    colors = view_colors(len(cameras), sources, share)
    if len(cameras) - sources > 1:
        draw.line([tuple(place) for place in places[sources:]], fill=TARGET_COLOR, width=1)
    axes = (cameras.c2w[:, :3, :3].double().transpose(1, 2) @ to_page.T).numpy()
    half = (cameras.width / 2 / cameras.K[:, 0, 0].double()).numpy()
    length = size / 28
    for view in reversed(range(len(cameras))):
        x, _, z = axes[view]
        ends = [places[view] + length * (z + side * half[view] * x) for side in (-1, 1)]
        draw.polygon([tuple(places[view]), *map(tuple, ends)], outline=colors[view], width=2)
    numbered: list[np.ndarray] = []
    for view, place in enumerate(places - 0.6 * length * axes[:, 2]):
        # Of numbers that would overlap, the first.
        if all(np.hypot(*(place - other)) > 20 for other in numbered):
            numbered.append(place)
            draw.text(tuple(place), str(view), INK, font, anchor="mm")

    bar = 10.0 ** math.floor(math.log10(extent / 3))
    bar *= max(step for step in (1, 2, 5) if step * bar <= extent / 3)
    left, bottom = 16, size - 16
    draw.line([(left, bottom), (left + bar * scale, bottom)], fill=INK, width=3)
    draw.text((left, bottom - 8), f"{bar:g}", INK, font, anchor="lb")
    lines = [(f"{sources} sources", SOURCE_COLOR), (f"{len(cameras) - sources} targets", TARGET_COLOR)]
    if share is not None and len(share):
        unseen = int((share < MOSTLY_UNSEEN).sum())
        lines.append((f"{unseen} targets mostly unseen by any source", UNSEEN_COLOR))
        lines.append((f"{share.mean():.0%} of the targets covered, {share.min():.0%} of the least", INK))
    for line, (text, color) in enumerate(lines):
        draw.text((16, 12 + 20 * line), text, color, font)
    return torch.from_numpy(np.array(page)).float() / 255
