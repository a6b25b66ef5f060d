"""How good a model is: its views of scenes whose truth is known, beside baselines.

    python -m gld_core eval --models MODELS --out RESULTS --rooms 50

writes results.json, results.md, and a folder per scene with its contact sheet and figures. Scenes that are finished are
left as they are when the command is started again. Pictures and depth are measured on targets, cameras on all views
(metrics.py). The rows of a scene are:

- cascade, level 1: the views as the whole model makes them, and without level 0. Cameras are those that the backbone
  estimates from the generated pictures. Depth is brought to the scene's unit by the Sim(3) of the recovered cameras
  (`Geometry.align_to`), and beside it by the median over the scene's targets.
- nearest source: every target replaced by the photograph of the source whose camera is nearest.
- wrong cameras: the same model, every target's motion from the first source undone where it should be done
  (S inv(T) S for poses S, T): as far and turned as much, but the other way.
- photographs: cameras, and depth where the truth is exact, that the backbone finds in the true pictures: the least
  errors to expect of the rows above.

Rendered rooms have exact depth. For photographs the truth is what the backbone finds in them, as in the research.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import windows
from ..cameras import Cameras
from ..flow import Callback, Sampling
from ..io.cameras import read_scene
from ..io.scenes import Scene, choose_views
from ..pipeline import GLD
from ..synthetic.render import render_scene
from ..synthetic.rooms import REACH, SIZES, VIEWS
from .lpips import LPIPS
from .metrics import angles
from .report import Row, means, picture_errors, pose_row, scaled_depth_errors

OVERLAP = 2
# Of rendered rooms: targets lie between these and beyond them.
ROOM_SOURCES = [2, 7]


@dataclass(frozen=True)
class Case:
    """A scene with its truth, sources first: images (V, 3, H, W), depth (V, H, W) or None, cameras; `place` of each
    view along the path.
    """

    name: str
    images: Tensor
    depth: Tensor | None
    cameras: Cameras
    sources: int
    place: list[int]

    @property
    def labels(self) -> list[str]:
        return [f"{'source' if view < self.sources else 'target'} {place}" for view, place in enumerate(self.place)]


def choose_case(
    path: Path, size: int, sources: Sequence[int] | int, targets: Sequence[int] | None
) -> tuple[Scene, list[int], int]:
    """A scene with cameras, its chosen views, sources first, and how many those are. ValueError where a view has no
    picture or its camera cannot be used; no picture is decoded.
    """
    scene = read_scene(path, size)
    chosen, wanted = scene.choose(sources, targets)
    for view in wanted:
        scene.picture(view)
    scene.cameras_of(chosen + wanted)
    return scene, chosen + wanted, len(chosen)


def read_case(path: Path, size: int, sources: Sequence[int] | int, targets: Sequence[int] | None) -> Case:
    scene, order, count = choose_case(path, size, sources, targets)
    images, cameras = scene.load(order, [])
    return Case(path.resolve().stem if path.is_file() else path.resolve().name, images, None, cameras, count, order)


def render_case(
    seed: int, sources: Sequence[int] | int, targets: Sequence[int] | None, size: tuple[int, int] = SIZES[0]
) -> Case:
    """Views of a rendered room. size: height and width."""
    chosen, wanted = choose_views(VIEWS, sources, targets)
    order = chosen + wanted
    images, depth, cameras = render_scene(seed, VIEWS, *size, reach=REACH)
    return Case(f"room_{seed:06}", images[order], depth[order], cameras[order], len(chosen), order)


def plan(sources: int, views: int, window: int) -> list[windows.Window]:
    """The windows of a scene: one, if all views fit in. ValueError where a window has no room for a target."""
    if window >= views:
        return [windows.Window(list(range(views)), list(range(views)))]
    return windows.split_into_windows(sources, views, window, OVERLAP)


def wrong_cameras(cameras: Cameras, sources: int) -> Cameras:
    """Sources as they are; every target T becomes S inv(T) S, with S the first source."""
    c2w = cameras.c2w.double().clone()
    c2w[sources:] = c2w[0] @ torch.linalg.inv(c2w[sources:]) @ c2w[0]
    return replace(cameras, c2w=c2w)


def nearest_sources(cameras: Cameras, sources: int) -> Tensor:
    """(M,) index of the nearest source of every target, by distance over the largest one plus angle in radians."""
    c2w = cameras.c2w.double()
    distance = torch.cdist(c2w[:, :3, 3], c2w[:, :3, 3])
    turned = angles(c2w[:, None, :3, :3].transpose(-1, -2) @ c2w[None, :, :3, :3]).deg2rad()
    return (distance / distance.max().clamp(min=1e-12) + turned)[sources:, :sources].argmin(dim=1)


class Evaluation:
    """Measures scenes with one model. sampling: how both levels are sampled;
    window: views that are made together.
    """

    def __init__(self, gld: GLD, cascade: bool, window: int, sampling: Sampling, lpips: LPIPS | None):
        self.gld = gld
        self.cascade = cascade
        self.window = window
        self.sampling = sampling
        self.lpips = lpips

    @property
    def samplings(self) -> int:
        """The number of samplings of a scene. Each of them reports its steps."""
        return 4 if self.cascade else 2

    def generate(self, case: Case, cameras: Cameras, callback: Callback):
        """Views, level-1 and level-0 features (None without the cascade), and their windows."""
        views = self.gld.encode_views(case.images[: case.sources], cameras)
        parts = plan(case.sources, len(cameras), self.window)
        sampling = replace(self.sampling, callback=callback)
        level1 = windows.sample(self.gld, 1, views, None, parts, sampling)
        level0 = None
        if self.cascade:
            level0 = windows.sample(self.gld, 0, views, level1, parts, sampling)
        return views, level1, level0, parts

    def pictures(self, case: Case, views, level1, level0, parts) -> Tensor:
        rgb, _ = windows.decode_rgb(self.gld, views, level1, level0, parts)
        if not torch.isfinite(rgb).all():
            raise ValueError(f"The model gives pictures of {case.name} that are not finite; its weights are damaged.")
        return rgb.clamp(0, 1)

    def picture_row(self, case: Case, targets: Tensor) -> Row:
        errors = picture_errors(targets, case.images[case.sources :], self.lpips)
        return means(errors) | {"psnr_of_targets": errors["psnr"].tolist()}

    def measure(self, case: Case, callback: Callback) -> tuple[dict[str, Row], dict[str, list[Tensor]]]:
        """The rows of a scene, and the pictures that they were measured on, one of every view for every row."""
        N, cameras = case.sources, case.cameras
        along = sorted(range(len(case.place)), key=case.place.__getitem__)
        own = self.gld.autoencoder.estimate(case.images)
        own_depth = own.align_to(cameras)[0].depth.cpu()
        truth = own_depth if case.depth is None else case.depth

        def depth_row(depth: Tensor) -> Row:
            return means(scaled_depth_errors(depth[N:], truth[N:]))

        rows: dict[str, Row] = {}
        shown = {"photo": list(case.images)}
        views, level1, level0, parts = self.generate(case, cameras, callback)
        for name, fine in (("cascade", level0), ("level 1", None))[0 if self.cascade else 1 :]:
            rgb = self.pictures(case, views, level1, fine, parts)
            geometry = windows.decode_geometry(self.gld, views, level1, fine, parts)
            poses = pose_row(self.gld.estimate_cameras(rgb), cameras, along)
            rows[name] = self.picture_row(case, rgb[N:]) | depth_row(geometry.depth) | poses
            shown[name] = list(rgb)
        copied = case.images[nearest_sources(cameras, N)]
        rows["nearest source"] = self.picture_row(case, copied)
        shown["nearest source"] = [*case.images[:N], *copied]
        wrong = self.pictures(case, *self.generate(case, wrong_cameras(cameras, N), callback))
        rows["wrong cameras"] = self.picture_row(case, wrong[N:])
        shown["wrong cameras"] = list(wrong)
        rows["photographs"] = ({} if case.depth is None else depth_row(own_depth)) | pose_row(
            own.cameras, cameras, along
        )
        return rows, shown
