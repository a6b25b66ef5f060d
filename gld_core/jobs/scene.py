"""One scene: read it, make its views, write its files."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .. import windows
from ..autoencoder import Autoencoder
from ..cameras import Cameras, motions
from ..cameras.conventions import check_scene
from ..checkpoints import weights_hash
from ..evaluation.report import means, picture_errors
from ..export.pictures import contact_sheet, depth_to_color, depth_unit, write_depth_png
from ..export.ply import write_ply
from ..export.scenes import EXPORTS, Decoded, video_package
from ..flow import QUICK, RELEASED, Callback, Sampling
from ..geometry.depth_maps import confidence_threshold
from ..geometry.points import point_cloud
from ..io.cameras import read_scene
from ..io.files import atomic, naming_full_disk
from ..io.images import write_png
from ..io.nerfstudio import write_transforms
from ..io.posed_folders import write_npz
from ..io.scenes import Scene, interpolate
from ..pipeline import GLD, load, own_settings
from .description import DEFAULT_MOTION, Job
from .results import (
    KEPT,
    check_apart,
    check_free,
    exports_failed,
    result_folder,
    sentence,
    views_are_kept,
    write_result,
)

# The models were trained on up to eight views, of which one to four are sources.
MOST_PHOTOGRAPHS = 4


def comfyui_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """(V, C, h, w) initial noise as ComfyUI draws it for the latent (1, C, V, h, w), so that one seed starts the same
    views there and here.
    """
    V, C, *grid = shape
    return torch.randn((1, C, V, *grid), generator=torch.Generator().manual_seed(seed))[0].transpose(0, 1)


def estimate(autoencoder: Autoencoder, photographs: Tensor, fov: float = 0.0) -> tuple[Cameras, Tensor, Tensor]:
    """Cameras, depth and confidence (V, H, W) on the CPU, of photographs (V, 3, H, W) in [0, 1] alone. fov: horizontal
    field of view in degrees, 0: as estimated. ValueError for a backbone that cannot find where several stand.
    """
    found = autoencoder.estimate(photographs)
    cameras = found.cameras
    if fov:
        K = cameras.K.clone()
        K[:, 0, 0] = K[:, 1, 1] = cameras.width / 2 / math.tan(math.radians(fov) / 2)
        cameras = replace(cameras, K=K)
    cameras.check()
    if len(cameras) > 1 and not cameras.c2w[:, :3, 3].any():
        raise ValueError(
            f"This backbone cannot find the positions of {len(cameras)} photographs; give it one photograph, load "
            "the cameras, or use the backbone da3 or vggt."
        )
    return cameras, found.depth.cpu(), found.depth_conf.cpu()


@dataclass(frozen=True)
class Given:
    """What was read for a job: the sources' photographs (N, 3, H, W); cameras of the sources and, where they are known
    before, of the targets; the path's cameras; names of the views; and the targets' true pictures, None where unknown.
    """

    photographs: Tensor
    cameras: Cameras | None
    path: Cameras | None
    names: list[str]
    truth: list[Tensor | None]


def count_of_sources(job: Job, scene: Scene) -> int:
    if job.num_sources is not None:
        return job.num_sources
    return 2 if scene.posed else min(len(scene), MOST_PHOTOGRAPHS)


def choose_photographs(job: Job, scene: Scene) -> list[int]:
    """Source views of a scene whose targets come from elsewhere, all of them where asked for as many."""
    if job.sources is not None:
        for view in job.sources:
            if view >= len(scene):
                raise ValueError(f"There is no source view {view}; {job.input} has views 0 to {len(scene) - 1}.")
        return list(job.sources)
    usable = scene.usable if scene.posed else range(len(scene))
    shown = [view for view in usable if scene.views[view].picture is not None]
    count = min(count_of_sources(job, scene), len(shown)) if job.num_sources is None else job.num_sources
    if count > len(shown) or not shown:
        raise ValueError(f"{job.input} has {len(shown)} photographs, and {count} sources are asked for; ask for fewer.")
    return shown if count == len(shown) else [shown[view] for view in interpolate(len(shown), count)]


def read(job: Job) -> Given:
    """Check the job, `settled` for its networks, and read what it needs. ValueError, in a sentence, for anything that
    cannot be used.
    """
    job.check()
    if "video" in job.export:
        video_package()
    scene = read_scene(job.input, job.size)
    known = scene.posed and not (job.motion or job.path)
    if not scene.posed and job.targets is not None:
        raise ValueError(f"{job.input} has no cameras, so targets cannot be chosen of it; give a motion or a path.")
    if known:
        sources, targets = scene.choose(list(job.sources) if job.sources else count_of_sources(job, scene), job.targets)
    else:
        sources, targets = choose_photographs(job, scene), []
    names = [scene.names[view] for view in sources + targets]
    cameras: Cameras | None = None
    if scene.posed:
        photographs, cameras = scene.load(sources, targets)
        check_scene(cameras, len(sources))
    else:
        photographs = scene.photographs(sources)
    truth: list[Tensor | None] = [None] * len(targets)
    shown = [place for place, view in enumerate(targets) if scene.views[view].picture is not None]
    if shown:
        H, W = photographs.shape[-2:]
        pictures, _ = scene.load([targets[place] for place in shown], [], size=(H, W))
        for place, picture in zip(shown, pictures, strict=True):
            truth[place] = picture
    path = None
    if job.path:
        H, W = photographs.shape[-2:]
        file = read_scene(job.path, None, (H, W))
        path = file.cameras_of(file.all(), file.fits(file.all(), (H, W)))
    return Given(photographs, cameras, path, names, truth)


def place_targets(job: Job, given: Given, gld: GLD) -> tuple[Cameras, list[str]]:
    """Cameras of all views, sources first, and their names."""
    own, depth, N = given.cameras, None, len(given.photographs)
    if own is not None and len(own) > N:
        return own, given.names
    if own is None:
        own, measured, _ = estimate(gld.autoencoder, given.photographs, job.fov)
        depth = motions.scene_depth(own, measured)
    if given.path is not None and job.motion is None:
        targets, kind = given.path, "path"
    else:
        kind = job.motion or DEFAULT_MOTION
        targets = motions.targets(
            own, kind, job.number, depth, base=job.start, ease=job.ease, first_is_source=job.first_is_source,
            keys=given.path, loop=job.closed, **(motions.DEFAULTS.get(kind, {}) | job.motion_settings),
        )  # fmt: skip
    cameras = motions.join(own, targets)
    check_scene(cameras, N, depth)
    return cameras, given.names + [f"{kind}_{number:04}" for number in range(len(targets))]


def silent(stage: str) -> Callback | None:
    return None


def make(job: Job, given: Given, gld: GLD, progress: Callable[[str], Callback | None] = silent) -> Decoded:
    """The views of a `settled` job. progress(stage) gives the callback of a sampling."""
    cameras, names = place_targets(job, given, gld)
    N, V = len(given.photographs), len(cameras)
    if job.confirmed_by >= V and set(job.export) - {"video"}:
        raise ValueError(f"confirmed_by is {job.confirmed_by}, and a view has {V - 1} others; lower it.")
    views = gld.encode_views(given.photographs, cameras)
    plan, together = windows.plan_windows(N, V, job.window, job.overlap, job.closed, job.long_paths), job.window == 0
    noise = comfyui_noise(views.latent_shape, job.seed)
    if together and len(plan) > 1:
        noise = windows.path_noise(noise, N, job.closed, job.long_paths)
    sampling = Sampling(job.steps, job.cfg, job.shift, job.seed, noise, solver=QUICK if job.fast else RELEASED)

    def sample(level: int, level1: Tensor | None) -> Tensor:
        local = replace(sampling, callback=progress(f"level {level}"))
        return windows.sample(gld, level, views, level1, plan, local, together=together)

    level1 = sample(1, None)
    level0 = sample(0, level1) if job.cascade else None
    rgb, _ = windows.decode_rgb(gld, views, level1, level0, plan)
    geometry = windows.decode_geometry(gld, views, level1, level0, plan)
    return Decoded(names, cameras, rgb.clamp(0, 1), geometry.depth, geometry.depth_conf, given.photographs)


def keep(made: Decoded, path: Path) -> None:
    """Decoded views as they are, for exports that are made later."""
    cameras = made.cameras
    tensors = {name: getattr(made, name) for name in ("rgb", "depth", "confidence", "photographs")}
    tensors |= {"c2w": cameras.c2w, "K": cameras.K, "origin": cameras.origin}
    tensors["size"] = torch.tensor([cameras.height, cameras.width])
    content = safetensors.torch.save(
        {name: value.cpu().contiguous() for name, value in tensors.items()}, {"names": json.dumps(made.names)}
    )
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def kept(job: Job, folder: Path, weights: str | None) -> Decoded | None:
    """The views of an earlier run of this job in the folder, of which an export failed; None where there are none."""
    if not views_are_kept(folder, job, weights):
        return None
    path = folder / KEPT
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = json.loads(file.metadata()["names"])
            # Copies: the file is removed when the exports are made.
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        # Another process has made the exports since.
        return None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and the views are made anew.") from error
    height, width = found.pop("size").tolist()
    cameras = Cameras(found.pop("c2w"), found.pop("K"), height, width, found.pop("origin"))
    return Decoded(names, cameras, **found)


def write(job: Job, given: Given, made: Decoded, folder: Path) -> tuple[dict[str, float], dict[str, str]]:
    """All files of a scene into the folder. Returns the figures of its targets whose truth is known, and the sentences
    of exports that failed. Where there are any, the folder also holds what all exports are made of.
    """
    N, cameras = made.sources, made.cameras
    files: list[dict[str, object]] = []
    for view, name in enumerate(made.names):
        kind = "sources" if view < N else "targets"
        write_png(folder / kind / f"{name}.png", made.photographs[view] if view < N else made.rgb[view])
        files.append({"file_path": f"{kind}/{name}.png", "depth_file_path": f"depth/{name}.png"})
    unit = depth_unit(made.depth)
    for view, name in enumerate(made.names):
        write_depth_png(folder / "depth" / f"{name}.png", made.depth[view], unit)
        arrays = {"depth": made.depth[view], "confidence": made.confidence[view]}
        camera = {"pose": (cameras.world_c2w if cameras.origin.any() else cameras.c2w)[view]}
        write_npz(folder / "depth" / f"{name}.npz", depth_unit=unit, **arrays, **camera, intrinsic=cameras.K[view])
    write_transforms(
        folder / "transforms.json", cameras, files, depth_unit_scale_factor=unit, ply_file_path="points.ply"
    )
    threshold = confidence_threshold(made.confidence)
    looks = torch.cat([made.photographs, made.rgb[N:]])
    xyz, colors = point_cloud(made.depth, made.confidence, looks, cameras.K, cameras.c2w, threshold)
    if len(xyz) > job.max_points:
        generator = torch.Generator().manual_seed(job.seed)
        kept = torch.randperm(len(xyz), generator=generator)[: job.max_points].sort().values
        xyz, colors = xyz[kept], colors[kept]
    write_ply(folder / "points.ply", cameras.world_points(xyz), colors, replace=True)
    labels = [f"{'source' if view < N else 'target'} {name}" for view, name in enumerate(made.names)]
    truth = [*given.photographs, *given.truth] if given.truth else [*given.photographs, *[None] * (len(labels) - N)]
    rows = {"photo": truth, "view": list(made.rgb), "depth": list(depth_to_color(made.depth))}
    write_png(folder / "contact_sheet.png", contact_sheet(labels, rows))
    failed = {}
    for export in job.export:
        try:
            with naming_full_disk(folder.parent):
                EXPORTS[export](folder, made, job)
        except Exception as error:
            failed[export] = sentence(error)
    if failed:
        keep(made, folder / KEPT)
    known = [(view, picture) for view, picture in enumerate(given.truth, N) if picture is not None]
    if not known:
        return {}, failed
    chosen, pictures = zip(*known, strict=True)
    return means(picture_errors(made.rgb[list(chosen)], torch.stack(pictures), None)), failed


def run(
    job: Job | str | os.PathLike,
    out: str | os.PathLike | None = None,
    gld: GLD | None = None,
    models_dir: str | os.PathLike | None = None,
    **settings: Any,
) -> Decoded:
    """A whole job from Python, as the command `views` does it.

    job: a `Job`, or its input with the other fields as keyword arguments. gld: the networks; without them those of
    models_dir are loaded, in float32 on the CPU. out: where files are written, by `write`, into a new or an empty
    folder, or one where exports of the same views failed; without it nothing is. Returns the decoded views. Raises
    ValueError, in a sentence, before anything is computed, for what cannot be used; and after all else is written,
    where an export failed.

        gld_core.run("photograph.jpg", out="results", models_dir="models/gld", motion="orbit", degrees=30.0, number=24)
    """
    if not isinstance(job, Job):
        job = Job.from_values({"input": str(job), **settings}, "The job")
    elif settings:
        job = replace(job, **settings)
    started = time.monotonic()
    models = models_dir or ""
    if gld is None and not models:
        raise ValueError("Neither gld nor models_dir is given; give the folder of the models.")
    job = job.settled(*(own_settings(models, "da3") if gld is None else (gld.own_size, gld.own_steps)))
    if out is None:
        return make(job, read(job), gld or load(models))
    out = Path(out)
    check_apart(job, out)
    weights = weights_hash(models, "da3") if gld is None else gld.weights
    made = kept(job, out, weights)
    if made is None:
        check_free(out)
    given = read(job)
    with result_folder(out) as folder:
        made = made or make(job, given, gld or load(models))
        figures, failed = write(job, given, made, folder)
        write_result(folder, job, weights, time.monotonic() - started, figures, failed)
    if failed:
        raise ValueError(exports_failed(out, failed))
    return made
