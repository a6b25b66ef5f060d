"""How a long path is best cut into windows: pictures, drift, seams, flicker, depth and cost of each way.

    python tests/bench/paths.py [--rooms 1] [--sources 1,2,3,4] [--paths forward,closed] [--no-cascade] [--only 0,2,4]

Paths of 80 views through rendered rooms that the small model has not seen: forward, around an ellipse back to the
start, to and fro, and around a corner. The sources are views of the path, evenly spread, and the targets the others.
One row a strategy, means over rooms and paths:

- PSNR dB of the targets, and *sharp*: their mean gradient as a share of the truth's
- *slope*: how much the PSNR changes from the first target to the last, by linear regression, without its sign. Most of
  it is what the path shows. *drift*: the same, with its sign, of the PSNR less that of windows of 8 which know nothing
  of each other, so that what is left is what a window hands on to the next; with its standard error over the scenes
- *far*: PSNR of the quarter of the targets furthest from a source
- *flicker*: mean difference of neighbouring frames after warping by the true depth, less the truth's own; *seam*: that
  difference between frames of different windows over that between frames of one window
- *near*, *apart*: the share of pixels whose depth two views agree on, for neighbours and for views 20 apart
- *closing*: the same as flicker between the last target of the closed path and the first
- windows, *evaluations* of the network, *views*: the sum of what is in all windows, and seconds of the processor
"""

import argparse
import re
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import gld_core  # noqa: E402
from gld_core import windows  # noqa: E402
from gld_core.cameras.motions import scene_depth  # noqa: E402
from gld_core.evaluation.metrics import psnr  # noqa: E402
from gld_core.flow import Sampling  # noqa: E402
from gld_core.geometry.depth_maps import PosedDepth, agreement  # noqa: E402
from gld_core.io.images import PATCH, to_bytes  # noqa: E402
from gld_core.synthetic.render import Room, render_views  # noqa: E402

VIEWS, HEIGHT, WIDTH, FIRST_SEED = 80, 70, 126, 1_000_100


def look_at(eyes: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """(V, 4, 4) OpenCV camera-to-world in a world with z up."""
    forward = (goals - eyes) / np.linalg.norm(goals - eyes, axis=1, keepdims=True)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    c2w = np.tile(np.eye(4), (len(eyes), 1, 1))
    c2w[:, :3, :3] = np.stack([right, np.cross(forward, right), forward], axis=2)
    c2w[:, :3, 3] = eyes
    return c2w


def path(kind: str, room: Room) -> np.ndarray:
    """(V, 4, 4) poses, about two metres long, of several tries the one that is clearest of furniture."""
    best, found = -np.inf, np.empty(0)
    t = np.linspace(0, 1, VIEWS)[:, None]
    for _ in range(60):
        a = room.rng.uniform(0, 2 * np.pi)
        ahead, aside = np.array([np.cos(a), np.sin(a), 0]), np.array([-np.sin(a), np.cos(a), 0])
        start = np.array([*room.rng.uniform(0.25, 0.75, 2) * room.size[:2], room.rng.uniform(1.2, 1.6)])
        if kind == "forward":
            eyes = start + 1.6 * t * ahead + 0.1 * np.sin(6 * t) * aside
            goals = start + 4.5 * ahead + np.array([0, 0, -0.5]) + 0 * t
        elif kind == "closed":
            angle = 2 * np.pi * np.arange(VIEWS)[:, None] / VIEWS
            eyes = start + 0.5 * np.cos(angle) * aside + 0.3 * np.sin(angle) * ahead
            goals = start + 3 * ahead + np.array([0, 0, -0.5]) + 0 * t
        elif kind == "to and fro":
            eyes = start + 0.7 * np.sin(4 * np.pi * t) * aside
            goals = start + 3 * ahead + np.array([0, 0, -0.4]) + 0.3 * np.sin(4 * np.pi * t) * aside
        else:
            angle = np.pi / 2 * t
            eyes = start + 1.2 * (np.sin(angle) * ahead + (1 - np.cos(angle)) * aside)
            goals = eyes + 2.5 * (np.cos(angle) * ahead + np.sin(angle) * aside) + np.array([0, 0, -0.4])
        score = room.clearance(eyes)
        if score > best:
            best, found = score, look_at(eyes, goals)
    return found


KEYS = (
    "PSNR", "sharp", "slope", "drift", "far", "flicker", "seam", "near", "apart", "closing",
    "windows", "evaluations", "views", "seconds",
)  # fmt: skip
PATHS = ("forward", "closed", "to and fro", "corner")


class Scene:
    """A path with its truth, sources first: images, depth, cameras; `place` of each view along the path."""

    def __init__(self, kind: str, seed: int, sources: int):
        room = Room(np.random.default_rng(seed))
        c2w = path(kind, room)
        focal = WIDTH / 2 / np.tan(np.radians(70) / 2)
        K = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
        images, depth, cameras = render_views(room, c2w, K, HEIGHT, WIDTH)
        spread = (
            np.linspace(0, VIEWS, sources, endpoint=False) if kind == "closed" else np.linspace(0, VIEWS - 1, sources)
        )
        chosen = [int(round(x)) for x in spread] if sources > 1 else [VIEWS // 2]
        self.place = chosen + [view for view in range(VIEWS) if view not in chosen]
        self.kind, self.sources = kind, sources
        self.images, self.depth, self.cameras = images[self.place], depth[self.place], cameras[self.place]
        self.along = sorted(range(VIEWS), key=self.place.__getitem__)


def warped(image, depth, from_camera, to_camera):
    """`image` of from_camera as to_camera sees it, by the exact `depth` (H, W) of to_camera; mask of what is inside."""
    H, W = depth.shape
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1).double() @ torch.linalg.inv(to_camera.K[0].double()).T
    points = rays * depth[..., None].double() @ to_camera.c2w[0, :3, :3].double().T + to_camera.c2w[0, :3, 3].double()
    w2c = torch.linalg.inv(from_camera.c2w[0].double())
    local = (points @ w2c[:3, :3].T + w2c[:3, 3]) @ from_camera.K[0].double().T
    grid = local[..., :2] / local[..., 2:] / torch.tensor([W, H]) * 2 - 1
    inside = (grid.abs() < 1).all(-1) & (local[..., 2] > 0)
    return F.grid_sample(image[None], grid[None].float(), align_corners=False)[0], inside


def steps_between(scene: Scene, pictures) -> torch.Tensor:
    """(V - 1,) mean difference of each frame along the path to the one before it, warped onto it."""
    out = []
    for before, after in zip(scene.along[:-1], scene.along[1:], strict=True):
        moved, inside = warped(
            pictures[before], scene.depth[after], scene.cameras[before : before + 1], scene.cameras[after : after + 1]
        )
        out.append((moved - pictures[after]).abs().mean(0)[inside].mean())
    return torch.stack(out)


def sharpness(pictures) -> float:
    return (pictures.diff(dim=2).abs().mean() + pictures.diff(dim=3).abs().mean()).item()


def agree(scene: Scene, depth, apart: int) -> float:
    shares = []
    for start in range(0, VIEWS - apart, 5):
        pair = [scene.along[start], scene.along[start + apart]]
        found = agreement(PosedDepth(depth[pair], scene.cameras[pair]), tolerance=0.05)
        yes, no = found.confirmed.sum().item(), found.denied.sum().item()
        shares.append(yes / max(1, yes + no))
    return float(np.mean(shares))


def save_frames(folder: Path, scene: Scene, rgb) -> None:
    """The path's frames in order, photographs included, and one sheet of generated frames above the true ones."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [to_bytes(image) for image in [*scene.images[: scene.sources], *rgb[scene.sources :]]]
    truth = [to_bytes(image) for image in scene.images]
    for frame, view in enumerate(scene.along):
        Image.fromarray(np.hstack([shown[view], truth[view]])).save(folder / f"{frame:03d}.png")
    rows = [
        np.hstack([pictures[view] for view in scene.along[start : start + 10]])
        for start in range(0, VIEWS, 10)
        for pictures in (shown, truth)
    ]
    Image.fromarray(np.vstack(rows)).save(folder / "sheet.png")


def measure(scene: Scene, rgb, depth, plan) -> dict[str, float]:
    N, truth = scene.sources, scene.images
    errors = psnr(rgb[N:].clamp(0, 1), truth[N:])
    centres = scene.cameras.c2w[:, :3, 3]
    distance = torch.cdist(centres[N:], centres[:N]).amin(1)
    furthest = distance.argsort(descending=True)[: len(distance) // 4]
    shown = torch.cat([truth[:N], rgb[N:].clamp(0, 1)])
    moved = steps_between(scene, shown)
    flicker = moved - steps_between(scene, truth)
    made = {view: number for number, window in enumerate(plan) for view in window.new}
    same = torch.tensor(
        [made[a] == made[b] for a, b in zip(scene.along[:-1], scene.along[1:], strict=True) if a >= N and b >= N]
    )
    kept = torch.tensor([a >= N and b >= N for a, b in zip(scene.along[:-1], scene.along[1:], strict=True)])
    moved, flicker = moved[kept], flicker[kept]
    row = {
        "PSNR": errors.mean().item(),
        "sharp": sharpness(rgb[N:].clamp(0, 1)) / sharpness(truth[N:]),
        "far": errors[furthest].mean().item(),
        "flicker": flicker.mean().item(),
        "seam": (moved[~same].mean() / moved[same].mean()).item() if same.any() and not same.all() else 1.0,
        "near": agree(scene, depth, 1),
        "apart": agree(scene, depth, 20),
    }
    if scene.kind == "closed":
        first, last = scene.along[1], scene.along[-1]
        ends = (scene.cameras[last : last + 1], scene.cameras[first : first + 1])
        gaps = []
        for pictures in (shown, truth):
            moved, inside = warped(pictures[last], scene.depth[first], *ends)
            gaps.append((moved - pictures[first]).abs().mean(0)[inside].mean())
        row["closing"] = (gaps[0] - gaps[1]).item()
    return row


def overlap(cameras, depth: float) -> torch.Tensor:
    """(V, V) float64: the share of view i's picture that view j has in its picture too, as a mean over points at 0.6, 1
    and 1.7 times `depth`, in the cameras' units, along i's axis; not who hides what.
    """
    H, W = cameras.height, cameras.width
    v, u = torch.meshgrid((torch.arange(6) + 0.5) / 6 * H, (torch.arange(8) + 0.5) / 8 * W, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).view(-1, 3).double()
    rays = pixels @ torch.linalg.inv(cameras.K.double()).transpose(1, 2)
    c2w = cameras.c2w.double()
    local = torch.cat([rays * depth * factor for factor in (0.6, 1.0, 1.7)], dim=1)
    points = local @ c2w[:, :3, :3].transpose(1, 2) + c2w[:, None, :3, 3]
    projection = cameras.K.double() @ torch.linalg.inv(c2w)[:, :3]
    shares = []
    for P in projection:
        x, y, z = (points @ P[:, :3].T + P[:, 3]).unbind(-1)
        shares.append(((z > 0) & (x > 0) & (x < W * z) & (y > 0) & (y < H * z)).double().mean(dim=1))
    return torch.stack(shares, dim=1)


def by_overlap(
    cameras,
    sources: int,
    size: int = 8,
    nearest: int = 2,
    shared: int = 2,
    gap: int = 0,
    closed: bool = False,
) -> list[windows.Window]:
    """Windows of at most `size` views, each with the `nearest` sources that overlap most with its new targets.

    gap 0: along the path, each with the last `shared` targets of the one before. Otherwise anchors first, one target
    in gap + 1, along the path in the same way; then each stretch between two anchors, with both of them.
    """
    V = len(cameras)
    if size >= V:
        return [windows.Window(list(range(V)), list(range(V)))]
    nearest = min(nearest, sources)
    seen = overlap(cameras, scene_depth(cameras[:sources]))
    made: set[int] = set()
    out: list[windows.Window] = []

    def add(held: list[int], new: list[int]) -> None:
        score = seen[new][:, :sources].sum(dim=0)
        # Of sources that overlap alike, the first.
        chosen = sorted(score.argsort(descending=True, stable=True)[:nearest].tolist())
        views = chosen + sorted(held + new)
        out.append(windows.Window(views, [view for view in views if view not in made]))
        made.update(views)

    targets = list(range(sources, V))
    first = targets if gap == 0 else sorted({*targets[:: gap + 1], *([] if closed else [targets[-1]])})
    room = size - nearest
    start = 0
    while start < len(first):
        held = first[max(0, start - shared) : start]
        new = first[start : start + room - len(held)]
        add(held, new)
        start += len(new)
    if gap:
        ends = [*zip(first[:-1], first[1:], strict=True), *([(first[-1], first[0])] if closed else [])]
        for before, after in ends:
            between = list(range(before + 1, after if after > before else V))
            if between:
                add(sorted([before, after]), between)
    left = [view for view in range(sources) if view not in made]
    if left:
        out[-1] = windows.Window(sorted(left + out[-1].views), sorted(left + out[-1].new))
    return out


def carry_noise(noise: torch.Tensor, cameras, sources: int) -> torch.Tensor:
    """One noise field carried along the path: noise (V, C, h, w), or with special tokens (V, C, S + h*w, 1).

    Every patch of a target takes the noise of the patch that shows the same point, for a scene as deep as
    `scene_depth`, in the last key view, and keeps its own noise where that does not show it. A target becomes the next
    key view when it has less than three quarters of the last one. What stays in sight then starts from the same noise
    in neighbouring views, so that it flickers less.
    """
    h, w = cameras.height // PATCH, cameras.width // PATCH
    out = noise.clone()
    tokens = out.flatten(2)[:, :, -h * w :]
    depth = scene_depth(cameras[:sources])
    v, u = torch.meshgrid(torch.arange(h) * PATCH + PATCH / 2, torch.arange(w) * PATCH + PATCH / 2, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).view(-1, 3).double()
    c2w, K = cameras.c2w.double(), cameras.K.double()
    projection = K @ torch.linalg.inv(c2w)[:, :3]
    key = sources
    for view in range(sources + 1, len(cameras)):
        points = depth * pixels @ torch.linalg.inv(K[view]).T @ c2w[view, :3, :3].T + c2w[view, :3, 3]
        x, y, z = (points @ projection[key, :, :3].T + projection[key, :, 3]).unbind(-1)
        column, row = (x / z / PATCH).floor().long(), (y / z / PATCH).floor().long()
        inside = (z > 0) & (column >= 0) & (column < w) & (row >= 0) & (row < h)
        tokens[view][:, inside] = tokens[key][:, (row * w + column)[inside]]
        if inside.double().mean() < 0.75:
            key = view
    return out


@dataclass(frozen=True)
class Strategy:
    """kind: "chain" of windows with all sources; "nearest": those that overlap most with the new targets; "alone": a
    chain whose windows do not know of each other; "together": they step together, and blend where they overlap.
    common: the share of the noise's variance that all targets have in common; carried: it moves with the scene;
    near: neighbours have half in common. long_paths: a choice of the nodes, which says what there is in common.
    """

    kind: str = "chain"
    size: int = 8
    shared: int = 2
    nearest: int = 4
    gap: int = 0
    common: float = 0.0
    carried: bool = False
    near: bool = False
    long_paths: str | None = None
    seed: int = 0

    def plan(self, scene: Scene) -> list[windows.Window]:
        closed = scene.kind == "closed"
        if self.kind == "nearest":
            return by_overlap(scene.cameras, scene.sources, self.size, self.nearest, self.shared, self.gap, closed)
        if self.kind == "together":
            return windows.spread_windows(scene.sources, VIEWS, self.size, self.shared, closed)
        plan = windows.split_into_windows(scene.sources, VIEWS, self.size, self.shared, closed)
        return [windows.Window(w.views, w.views) for w in plan] if self.kind == "alone" else plan

    def noise(self, scene: Scene, shape, level: int) -> torch.Tensor:
        noise = Sampling(seed=self.seed).initial_noise(shape, level)
        if self.long_paths is not None:
            return windows.path_noise(noise, scene.sources, scene.kind == "closed", self.long_paths)
        if self.near:
            return windows.with_neighbours_noise(noise, scene.sources, scene.kind == "closed")
        if not self.carried:
            return windows.with_common_noise(noise, scene.sources, self.common)
        own = Sampling(seed=1).initial_noise(shape, level)
        carried = carry_noise(noise, scene.cameras, scene.sources)
        return self.common**0.5 * carried + (1 - self.common) ** 0.5 * own


DEFAULT = Strategy("together", windows.SIZE, windows.OVERLAP, long_paths="speed")
SMOOTH = replace(DEFAULT, long_paths="smooth")
STRATEGIES = {
    "windows of 8 in a row (0.1.0)": Strategy(),
    "windows of 8 in a row, overlap 1": Strategy(shared=1),
    "windows of 12 in a row": Strategy(size=12),
    "windows of 12 in a row, overlap 4": Strategy(size=12, shared=4),
    "windows of 16 in a row": Strategy(size=16),
    "windows of 12 in a row, half of the noise in common": Strategy(size=12, common=0.5),
    "windows of 12 in a row, all noise in common": Strategy(size=12, common=1.0),
    "windows of 12 in a row, half of the noise carried along the path": Strategy(size=12, common=0.5, carried=True),
    "windows of 8 in a row, 2 nearest sources, overlap 1": Strategy("nearest", nearest=2, shared=1),
    "the same, half of the noise in common": Strategy("nearest", nearest=2, shared=1, common=0.5),
    "anchors first, windows of 8": Strategy("nearest", nearest=2, shared=1, gap=4),
    "anchors first, windows of 12": Strategy("nearest", size=12, nearest=2, shared=2, gap=8),
    "anchors first, windows of 12, half in common": Strategy("nearest", 12, nearest=2, gap=8, common=0.5),
    "windows of 8 that know nothing of each other, another seed": Strategy("alone", shared=0, seed=1),
    "windows of 12 together (the default)": DEFAULT,
    "windows of 12 together, half of the noise in common (smooth)": SMOOTH,
    "windows of 8 together (quality)": Strategy("together", long_paths="quality"),
    "windows of 12 together, another seed": replace(DEFAULT, seed=1),
    "windows of 12 together, overlap 4": replace(DEFAULT, shared=4),
    "windows of 12 together, all noise of its own": replace(DEFAULT, long_paths=None),
    "windows of 12 together, half in common with each neighbour": replace(DEFAULT, long_paths=None, near=True),
}


def generate(gld, scene: Scene, strategy: Strategy, steps: int, levels: tuple[int, ...]):
    """Pictures, depth, plan."""
    views = gld.encode_views(scene.images[: scene.sources], scene.cameras)
    plan, made = strategy.plan(scene), {0: None, 1: None}
    for level in levels:
        noise = strategy.noise(scene, views.latent_shape, level)
        given = None if level == 1 else made[1]
        together = strategy.kind == "together"
        made[level] = windows.sample(gld, level, views, given, plan, Sampling(steps, noise=noise), together)
    rgb, _ = windows.decode_rgb(gld, views, made[1], made[0], plan)
    return rgb, windows.decode_geometry(gld, views, made[1], made[0], plan).depth, plan


def slope(scene: Scene, errors: torch.Tensor) -> float:
    """How much `errors` of the targets gain from the first view of the path to the last, by linear regression."""
    order = torch.tensor(scene.place[scene.sources :]).double()
    centred = order - order.mean()
    return (centred @ errors.double() / centred.square().sum() * (VIEWS - 1)).item()


def status(name: str) -> float:
    """MiB of this process. VmHWM: the most so far; VmRSS: now (Linux)."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) / 1024


def peak_memory(models: Path, size: int, count: int) -> float:
    """MiB that a path of `count` views takes at its peak beyond networks and photographs, in 1 step of level 1."""
    gld = gld_core.load(models, keep=True)
    t = np.linspace(0, 1, count)[:, None]
    c2w = look_at(np.array([1.6, 0, 0]) * t, np.array([1.6, 0, 0]) * t + np.array([0, 3.0, 0]))
    K = torch.tensor([[90.0, 0, WIDTH / 2], [0, 90, HEIGHT / 2], [0, 0, 1]]).expand(count, 3, 3)
    cameras = gld_core.Cameras(torch.from_numpy(c2w), K, HEIGHT, WIDTH)
    views = gld.encode_views(torch.rand(4, 3, HEIGHT, WIDTH), cameras)
    plan = windows.spread_windows(4, count, size, 2)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    level1 = windows.sample(gld, 1, views, None, plan, Sampling(1), together=True)
    windows.decode_rgb(gld, views, level1, None, plan)
    return status("VmHWM") - before


def print_memory(models: Path) -> None:
    print("\n| views of the path | windows of 8, MiB | windows of 12, MiB |\n|--:|--:|--:|")
    for count in (20, 80, 320):
        cells = []
        for size in (8, 12):
            with get_context("spawn").Pool(1) as pool:
                cells.append(f"{pool.apply(peak_memory, (models, size, count)):.0f}")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--models", type=Path, default=ROOT / "gld_core" / "nano")
    parse.add_argument("--rooms", type=int, default=1)
    parse.add_argument("--numbers", help="these rooms, by number from 0, in place of the first --rooms")
    parse.add_argument("--sources", default="1,2,3,4")
    parse.add_argument("--steps", type=int, default=4)
    parse.add_argument("--paths", default=",".join(PATHS))
    parse.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parse.add_argument("--no-cascade", action="store_true", help="level 1 alone, half the time")
    parse.add_argument("--only", help="numbers of strategies, from 0, separated by commas")
    parse.add_argument("--memory", action="store_true", help="only the memory of paths of three lengths")
    parse.add_argument("--out", type=Path, help="folder for contact sheets and frames")
    args = parse.parse_args()
    if args.memory:
        return print_memory(args.models)
    gld = gld_core.load(args.models, keep=True, dtype=getattr(torch, args.dtype))
    levels = (1,) if args.no_cascade else (1, 0)
    rooms = [int(room) for room in args.numbers.split(",")] if args.numbers else range(args.rooms)
    names = list(STRATEGIES)
    if args.only:
        names = [names[int(number)] for number in args.only.split(",")]
    for sources in [int(n) for n in args.sources.split(",")]:
        scenes = [Scene(kind, FIRST_SEED + room, sources) for room in rooms for kind in args.paths.split(",")]
        alone = []
        for scene in scenes:
            rgb, _, _ = generate(gld, scene, Strategy("alone", shared=0), args.steps, levels)
            alone.append(psnr(rgb[sources:].clamp(0, 1), scene.images[sources:]))
        head = False
        for name in names:
            rows = []
            for scene, reference in zip(scenes, alone, strict=True):
                start = time.process_time()
                rgb, depth, plan = generate(gld, scene, STRATEGIES[name], args.steps, levels)
                seconds = time.process_time() - start
                row = measure(scene, rgb, depth, plan)
                errors = psnr(rgb[sources:].clamp(0, 1), scene.images[sources:])
                row["slope"] = abs(slope(scene, errors))
                row["drift"] = slope(scene, errors - reference)
                row |= {"windows": len(plan), "evaluations": len(plan) * args.steps * len(levels)}
                row |= {"views": sum(len(window.views) for window in plan), "seconds": seconds}
                rows.append(row)
                if args.out:
                    save_frames(args.out / f"{sources} {scene.kind} {name}", scene, rgb)
            keys = [key for key in KEYS if any(key in row for row in rows)]
            if not head:
                print(
                    f"\n{sources} sources\n\n| strategy | {' | '.join(keys)} |\n|---|{'--:|' * len(keys)}", flush=True
                )
                head = True
            cells = [f"{np.mean([row[key] for row in rows if key in row]):.3f}" for key in keys]
            if len(rows) > 1:
                error = np.std([row["drift"] for row in rows], ddof=1) / len(rows) ** 0.5
                cells[keys.index("drift")] += f" ± {error:.2f}"
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
