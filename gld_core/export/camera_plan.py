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
FONT = ImageFont.load_default(24)


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


def counted(number: int, noun: str) -> str:
    """A number and what is counted, e.g. "1 source", "2 sources"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def described(sources: int, masks: Tensor) -> str:
    """What to say about (V, H, W) masks of what is seen of the targets, which come after so many sources."""
    share = masks.mean(dim=(1, 2))
    unseen = int((share < MOSTLY_UNSEEN).sum())
    summary = f"{counted(len(share), 'target')}: {share.mean():.0%} seen by a source"
    if len(share) > 1:
        summary += f", least in view {sources + int(share.argmin())} ({share.min():.0%})"
    if unseen:
        summary += f"; {unseen} mostly unseen"
    return "\n".join([summary, *(f"view {sources + view}: {value:.0%}" for view, value in enumerate(share))])


# Of a page: its ink, its paper, its rules, and the margin of a panel in pixels.
INK, PAPER, RULE, MARGIN = (30, 30, 34), (242, 241, 236), (190, 188, 180), 36


def plan(
    cameras: Cameras,
    sources: int,
    xyz: Tensor,
    rgb: Tensor | None = None,
    share: Tensor | None = None,
    spacing: Tensor | None = None,
    width: int = 520,
) -> Tensor:
    """(height, 2 width, 3) in [0, 1]: the scene from above, the first camera looking up the page, and beside it from
    the side, the first camera looking to the right; in one scale, with a bar of a length in the cameras' units.

    xyz (P, 3) points of the scene, rgb (P, 3) uint8 (None: grey), spacing (P,) the side of the square of surface that
    each stands for, in the cameras' units (None: a pixel). The first `sources` cameras are sources, the others targets
    in the order of their path; share (V - sources,): of each target, that is covered.
    """
    up = up_direction(cameras[:sources])
    forward = cameras.c2w[0, :3, 2].double()
    if (forward @ up).abs() > 0.99:
        forward = -cameras.c2w[0, :3, 1].double()
    right = torch.linalg.cross(forward, up)
    right = right / right.norm()
    ahead = torch.linalg.cross(up, right)
    # Right, ahead and up; the page's y axis points down.
    to_scene = torch.stack([right, ahead, up])
    xyz = xyz.detach().cpu().double()
    finite = torch.isfinite(xyz).all(dim=1)
    points = (xyz[finite] @ to_scene.T).numpy()
    colors = np.full((len(points), 3), 120, np.uint8) if rgb is None else rgb.detach().cpu()[finite].numpy()
    sides = np.zeros(len(points)) if spacing is None else spacing.detach().cpu()[finite].double().numpy()

    # Far points that are few would make all else small.
    shown = (cameras.c2w[:, :3, 3].double() @ to_scene.T).numpy()
    if len(points):
        ends = [np.percentile(points, 0.5, 0, method="lower"), np.percentile(points, 99.5, 0, method="higher")]
        shown = np.concatenate([shown, ends])
    depth = 0.06 * (float(np.ptp(shown, axis=0).max()) or 1.0)
    outlines = (camera_frusta(cameras, depth).xyz @ to_scene.T).numpy().reshape(len(cameras), 5, 3)
    low, high = np.minimum(shown.min(0), outlines.min((0, 1))), np.maximum(shown.max(0), outlines.max((0, 1)))
    inner = ((points >= low) & (points <= high)).all(axis=1)
    points, colors, sides = points[inner], colors[inner], sides[inner]

    scale = (width - 2 * MARGIN) / (float((high - low).max()) or 1.0)
    height = max(width // 2, round(scale * (high - low)[1:].max()) + 2 * MARGIN)
    panels = []
    for name, across, down, toward in (("from above", 0, 1, 2), ("from the side", 1, 2, 0)):
        flipped = scale * np.array([1, -1])
        offset = np.array([width, height]) / 2 - flipped * (low + high)[[across, down]] / 2
        dots, wires = (where[..., [across, down]] * flipped + offset for where in (points, outlines))
        # The side view is from the right, so what is right is near.
        page = Image.fromarray(squares(dots, points[:, toward], colors, sides * scale, height, width))
        draw_cameras(ImageDraw.Draw(page), wires, view_colors(len(cameras), sources, share), sources)
        panels.append(with_title(page, name))
    both = np.concatenate([np.array(panel) for panel in panels], axis=1)
    top, bottom = legend(len(cameras), sources, share, 2 * width), length_bar(scale, 2 * width)
    return torch.from_numpy(np.concatenate([np.array(top), both, np.array(bottom)])).float() / 255


def squares(
    place: np.ndarray, nearness: np.ndarray, colors: np.ndarray, sides: np.ndarray, height: int, width: int
) -> np.ndarray:
    """(height, width, 3) uint8: a square for each point (P, 2), nearer ones over others; sides (P,) in pixels, at least
    2 are drawn."""
    drawn = torch.zeros(height * width, dtype=torch.int64)
    order = nearness.argsort(kind="stable")
    corner = torch.from_numpy(np.floor(place[order] - sides[order, None] / 2 + 0.5)).long()
    rank = torch.arange(1, len(order) + 1)
    size = torch.from_numpy(np.ceil(sides[order]).clip(2, 24)).long()
    for side in size.unique().tolist():
        own = size == side
        for column, row in np.ndindex(side, side):
            x, y = (corner[own] + torch.tensor([column, row])).unbind(1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            drawn.scatter_reduce_(0, (y * width + x)[inside], rank[own][inside], "amax")
    table = np.concatenate([np.array([PAPER], np.uint8), colors[order].astype(np.uint8)])
    return table[drawn.numpy()].reshape(height, width, 3)


def draw_cameras(draw: ImageDraw.ImageDraw, outlines: np.ndarray, colors: list, sources: int) -> None:
    """Cameras' pyramids (V, 5, 2) on the page, apex first, with their numbers, and the path of the targets."""
    eyes = outlines[:, 0]
    if len(eyes) - sources > 1:
        path = [tuple(eye) for eye in eyes[sources:]]
        draw.line(path, fill=INK, width=4)
        draw.line(path, fill=TARGET_COLOR, width=2)
    edges = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
    for ink, thick in ((True, 5), (False, 3)):
        for view in reversed(range(len(eyes))):
            for start, end in edges:
                line = [tuple(outlines[view, start]), tuple(outlines[view, end])]
                draw.line(line, fill=INK if ink else colors[view], width=thick)
    numbered: list[np.ndarray] = []
    for view, eye in enumerate(eyes):
        ahead = outlines[view, 1:].mean(0) - eye
        length = np.hypot(*ahead)
        at = eye - (ahead / length if length > 1 else np.array([0.0, -1])) * 20
        # Of numbers that would overlap, the first.
        if all(np.hypot(*(at - other)) > 32 for other in numbered):
            numbered.append(at)
            draw.text(tuple(at), str(view), INK, FONT, anchor="mm", stroke_width=4, stroke_fill=PAPER)


def with_title(page: Image.Image, name: str) -> Image.Image:
    """A panel below its name."""
    titled = Image.new("RGB", (page.width, page.height + 40), PAPER)
    titled.paste(page, (0, 40))
    draw = ImageDraw.Draw(titled)
    draw.line([(16, 1), (page.width - 16, 1)], fill=RULE, width=2)
    draw.text((16, 8), name, INK, FONT)
    return titled


def legend(views: int, sources: int, share: Tensor | None, width: int) -> Image.Image:
    """What the colours mean, and how much of the targets is covered."""
    lines = [[(counted(sources, "source"), SOURCE_COLOR)]]
    if views > sources:
        lines[0].append((counted(views - sources, "target"), TARGET_COLOR))
    if share is not None and len(share):
        lines.append([(f"{share.mean():.0%} of the targets covered, {share.min():.0%} of the least", PAPER)])
        unseen = int((share < MOSTLY_UNSEEN).sum())
        if unseen:
            lines[0].append((f"{counted(unseen, 'target')} mostly unseen by any source", UNSEEN_COLOR))
    strip = Image.new("RGB", (width, 20 + 34 * len(lines)), PAPER)
    draw = ImageDraw.Draw(strip)
    for line, entries in enumerate(lines):
        left, top = 16, 12 + 34 * line
        for text, color in entries:
            if color != PAPER:
                draw.rectangle((left, top + 4, left + 20, top + 24), fill=color)
                left += 32
            draw.text((left, top), text, INK, FONT)
            left += int(FONT.getlength(text)) + 40
    return strip


def length_bar(scale: float, width: int) -> Image.Image:
    """A bar of a round length. scale: pixels per unit."""
    most = width / 6 / scale
    bar = 10.0 ** math.floor(math.log10(most))
    bar *= max(step for step in (1, 2, 5) if step * bar <= most)
    strip = Image.new("RGB", (width, 44), PAPER)
    draw = ImageDraw.Draw(strip)
    draw.line([(16, 20), (16 + bar * scale, 20)], fill=INK, width=5)
    draw.text((28 + bar * scale, 20), f"{bar:g}", INK, FONT, anchor="lm")
    return strip
