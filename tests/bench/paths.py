"""How a long path is best cut into windows: pictures, drift, seams, flicker, depth and cost of each way.

    python tests/bench/paths.py [--models FOLDER] [--rooms 2] [--sources 1,2,4] [--steps 4] [--only NAME,NAME]

Paths of 80 views through rendered rooms that the small model has not seen: forward, around an ellipse back to the
start, to and fro, and around a corner. The sources are views of the path, evenly spread, and the targets the others.
One row a strategy, means over rooms and paths:

- PSNR dB of the targets, and *sharp*: their mean gradient as a share of the truth's
- *drift*: what the PSNR gains (loses, if below 0) from the first target to the last by linear regression
- *far*: PSNR of the quarter of the targets furthest from a source
- *flicker*: mean difference of neighbouring frames after warping by the true depth, less the truth's own; *seam*: that
  difference between frames of different windows over that between frames of one window
- *near*, *apart*: the share of pixels whose depth two views agree on, for neighbours and for views 20 apart
- *closing*: the same as flicker between the last target of the closed path and the first
- windows, *evaluations* of the network, *views*: the sum of what is in all windows, and seconds
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import gld_core  # noqa: E402
from gld_core import flow, windows  # noqa: E402
from gld_core.cameras.motions import scene_depth  # noqa: E402
from gld_core.conditioning import conditions  # noqa: E402
from gld_core.evaluation.metrics import psnr  # noqa: E402
from gld_core.flow import Sampling  # noqa: E402
from gld_core.geometry.depth_maps import PosedDepth, agreement  # noqa: E402
from gld_core.io.images import PATCH  # noqa: E402
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


def measure(scene: Scene, rgb, depth, plan) -> dict[str, float]:
    N, truth = scene.sources, scene.images
    errors = psnr(rgb[N:].clamp(0, 1), truth[N:])
    order = torch.tensor(scene.place[N:]).double()
    centred = order - order.mean()
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
        "drift": (centred @ errors.double() / centred.square().sum() * (VIEWS - 1)).item(),
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


def reprojected_noise(cameras, sources: int, h: int, w: int, shape, level: int) -> torch.Tensor:
    """One noise field along the path: every target's token takes the noise of the nearest token of the view before it
    that shows the same point at the scene's depth, and new noise where none does.
    """
    noise = Sampling().initial_noise(shape, level)
    depth = scene_depth(cameras[:sources])
    step_y, step_x = cameras.height / h, cameras.width / w
    v, u = torch.meshgrid((torch.arange(h) + 0.5) * step_y, (torch.arange(w) + 0.5) * step_x, indexing="ij")
    for view in range(sources + 1, len(cameras)):
        now, before = cameras[view : view + 1], cameras[view - 1 : view]
        rays = torch.stack([u, v, torch.ones_like(u)], dim=-1).double() @ torch.linalg.inv(now.K[0].double()).T
        points = depth * rays @ now.c2w[0, :3, :3].double().T + now.c2w[0, :3, 3].double()
        w2c = torch.linalg.inv(before.c2w[0].double())
        local = (points @ w2c[:3, :3].T + w2c[:3, 3]) @ before.K[0].double().T
        x, y = (
            (local[..., 0] / local[..., 2] / step_x).floor().long(),
            (local[..., 1] / local[..., 2] / step_y).floor().long(),
        )
        inside = (local[..., 2] > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
        noise[view][:, inside] = noise[view - 1][:, y[inside], x[inside]]
    return noise


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


Plan = Callable[[Scene], list[windows.Window]]


def chain(size: int, overlap: int) -> Plan:
    return lambda scene: windows.split_into_windows(scene.sources, VIEWS, size, overlap, scene.kind == "closed")


# name: plan, and what else is done: warped noise
STRATEGIES: dict[str, tuple[Plan, str]] = {
    "chain 8, overlap 2 (0.1.0)": (chain(8, 2), ""),
    "chain 8, overlap 1": (chain(8, 1), ""),
    "chain 16, overlap 2": (chain(16, 2), ""),
    "chain 8, overlap 2, noise carried": (chain(8, 2), "noise"),
}


def planned(name: str, extra: str = "", **options) -> None:
    STRATEGIES[name] = (
        lambda scene: by_overlap(scene.cameras, scene.sources, closed=scene.kind == "closed", **options),
        extra,
    )


planned("nearest 2, shared 2", nearest=2, shared=2)
planned("nearest 2, shared 1", nearest=2, shared=1)
planned("nearest 1, shared 1", nearest=1, shared=1)
planned("anchors 4, nearest 2", nearest=2, shared=1, gap=4)
planned("anchors 6, nearest 2, size 10", size=10, nearest=2, shared=1, gap=6)
STRATEGIES["together: nearest 2, shared 2"] = (STRATEGIES["nearest 2, shared 2"][0], "together")
planned("nearest 2, shared 1, noise carried", extra="noise", nearest=2, shared=1)
planned("nearest 2, shared 2, noise carried", extra="noise", nearest=2, shared=2)
planned("nearest 3, shared 1, noise carried", extra="noise", nearest=3, shared=1)
planned("nearest 2, shared 1, size 9, noise carried", extra="noise", size=9, nearest=2, shared=1)
planned("nearest 3, shared 1, size 10, noise carried", extra="noise", size=10, nearest=3, shared=1)
planned("anchors 4, nearest 2, noise carried", extra="noise", nearest=2, shared=1, gap=4)
planned("anchors 6, nearest 2, size 10, noise carried", extra="noise", size=10, nearest=2, shared=1, gap=6)
STRATEGIES["chain 16, overlap 2, noise carried"] = (chain(16, 2), "noise")
STRATEGIES["together: nearest 2, shared 2, noise carried"] = (STRATEGIES["nearest 2, shared 2"][0], "together noise")


STRATEGIES["chain 8, overlap 1, noise carried"] = (chain(8, 1), "noise")
STRATEGIES["chain 8, overlap 1, noise static"] = (chain(8, 1), "noise static")
STRATEGIES["chain 12, overlap 2, noise carried"] = (chain(12, 2), "noise")
STRATEGIES["chain 12, overlap 2"] = (chain(12, 2), "")


@torch.inference_mode()
def together(gld, level, views, level1, plan, steps, noise=None):
    """All windows step together: a view's velocity is the mean over the windows that have it."""
    noise = Sampling(noise=noise).initial_noise(views.latent_shape, level)
    network, velocities = gld.diffusion[level], []
    for window in plan:
        local = windows.part(views, window)
        source = (local.level1 if level else local.level0).transpose(0, 1)[None]
        given = None if level1 is None else level1[window.views].transpose(0, 1)[None]
        branches = [network.prepare(source, **conditions(local, level, full), level1=given) for full in (False, True)]
        velocities.append(flow.guided(network, *branches, 1.5))
    # The windows of the plan overlap in what they hold, too.
    counts = torch.zeros(len(noise))
    for window in plan:
        counts[window.views] += 1

    def velocity(x, t):
        total = torch.zeros_like(x)
        for window, one in zip(plan, velocities, strict=True):
            total[:, :, window.views] += one(x[:, :, window.views], t)
        return total / counts.view(1, 1, -1, 1, 1)

    shift = flow.default_shift("da3", noise.shape[1], max(len(window.views) for window in plan))
    return flow.integrate(velocity, noise.transpose(0, 1)[None], flow.time_grid(steps, shift))[0].transpose(0, 1)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--models", type=Path, default=ROOT / "gld_core" / "nano")
    parse.add_argument("--rooms", type=int, default=2)
    parse.add_argument("--sources", default="1,2,4")
    parse.add_argument("--steps", type=int, default=4)
    parse.add_argument("--paths", default=",".join(PATHS))
    parse.add_argument("--no-cascade", action="store_true", help="level 1 alone, half the time")
    parse.add_argument("--only", help="strategies whose name holds one of these, separated by commas")
    args = parse.parse_args()
    gld = gld_core.load(args.models, keep=True)
    counts = [int(n) for n in args.sources.split(",")]
    strategies = {
        name: value
        for name, value in STRATEGIES.items()
        if args.only is None or any(part in name for part in args.only.split(","))
    }
    keys = (
        "PSNR",
        "sharp",
        "drift",
        "far",
        "flicker",
        "seam",
        "near",
        "apart",
        "closing",
        "windows",
        "views",
        "seconds",
    )
    for sources in counts:
        scenes = [
            Scene(kind, FIRST_SEED + room, sources) for room in range(args.rooms) for kind in args.paths.split(",")
        ]
        print(f"\n{sources} sources\n\n| strategy | {' | '.join(keys)} |\n|---|{'--:|' * len(keys)}", flush=True)
        for name, (make, extra) in strategies.items():
            rows = []
            for scene in scenes:
                start = time.perf_counter()
                views = gld.encode_views(scene.images[:sources], scene.cameras)
                plan = make(scene)
                noise: list = [None, None]
                if "noise" in extra:
                    for level in (0, 1):
                        own = Sampling().initial_noise(views.latent_shape, level)
                        if "static" in extra:
                            own[sources + 1 :] = own[sources]
                        noise[level] = own if "static" in extra else carry_noise(own, scene.cameras, sources)
                level0 = None
                if "together" in extra:
                    level1 = together(gld, 1, views, None, plan, args.steps, noise[1])
                    if not args.no_cascade:
                        level0 = together(gld, 0, views, level1, plan, args.steps, noise[0])
                else:
                    level1 = windows.sample(gld, 1, views, None, plan, Sampling(args.steps, noise=noise[1]))
                    if not args.no_cascade:
                        level0 = windows.sample(gld, 0, views, level1, plan, Sampling(args.steps, noise=noise[0]))
                rgb, _ = windows.decode_rgb(gld, views, level1, level0, plan)
                depth = windows.decode_geometry(gld, views, level1, level0, plan).depth
                seconds = time.perf_counter() - start
                row = measure(scene, rgb, depth, plan)
                row |= {"windows": len(plan), "views": sum(len(window.views) for window in plan), "seconds": seconds}
                rows.append(row)
            cells = []
            for key in keys:
                values = [row[key] for row in rows if key in row]
                cells.append(f"{np.mean(values):.3f}" if values else "")
            drift = np.mean([abs(row["drift"]) for row in rows])
            print(f"| {name} | {' | '.join(cells)} | drift |{drift:.2f}|", flush=True)


if __name__ == "__main__":
    main()
