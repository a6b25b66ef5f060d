"""The command `views`: novel views, depth and points from a posed scene."""

import argparse
from pathlib import Path

import torch

from ..cameras.conventions import nearest_pinhole
from ..export.pictures import DEPTH_STEP, contact_sheet, depth_to_color, depth_unit, write_depth_png
from ..export.ply import write_ply
from ..flow import FAST, RELEASED
from ..geometry.depth_maps import confidence_threshold
from ..geometry.points import point_cloud
from ..io.cameras import read_scene
from ..io.images import write_png
from ..io.nerfstudio import write_transforms
from ..io.posed_folders import write_npz
from ..pipeline import load
from .options import (
    DTYPES,
    Progress,
    add_model_options,
    add_sampling_options,
    add_source_options,
    check_out,
    choose_device,
    say,
)

MAX_POINTS = 500_000


def views(args: argparse.Namespace) -> None:
    """From a posed scene to all results in args.out. What is given is checked before a network is loaded."""
    check_out(args.out, args.overwrite)
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps is {args.steps}; at least 1 network evaluation is needed.")
    device = choose_device(args.device)
    scene = read_scene(args.scene, args.size)
    chosen = args.num_sources if args.sources is None else args.sources
    sources, targets = scene.choose(chosen, args.targets)
    photographs, cameras = scene.load(sources, targets)
    order = sources + targets
    names, N = [scene.names[view] for view in order], len(sources)
    say(f"{N} source and {len(targets)} target views of {cameras.width} x {cameras.height}; loading {args.models}")
    dtype = DTYPES[args.dtype] if args.dtype else (torch.bfloat16 if device.type == "cuda" else torch.float32)
    gld = load(args.models, backbone=args.backbone, device=device, dtype=dtype)

    encoded = gld.encode_views(photographs, cameras)
    sampling = {"steps": args.steps, "cfg": args.cfg, "shift": args.shift, "seed": args.seed}
    sampling["solver"] = FAST if args.fast else RELEASED
    level1 = gld.sample_level1(encoded, callback=Progress("level 1"), **sampling)
    level0 = None if args.no_cascade else gld.cascade_level0(encoded, level1, callback=Progress("level 0"), **sampling)

    say(f"decoding and writing to {args.out}")
    rgb = gld.decode_rgb(encoded, level1, level0).float().cpu()
    files: list[dict[str, object]] = []
    for view, name in enumerate(names):
        kind = "sources" if view < N else "targets"
        write_png(args.out / kind / f"{name}.png", photographs[view] if view < N else rgb[view])
        files.append({"file_path": f"{kind}/{name}.png", "depth_file_path": f"depth/{name}.png"})
    geometry, _ = gld.decode_geometry(encoded, level1, level0).align_to(cameras)
    depth, confidence = geometry.depth.float().cpu(), geometry.depth_conf.float().cpu()
    unit = depth_unit(depth)
    if unit != DEPTH_STEP:
        say(f"depth/*.png has steps of {unit:.6g}: give nerfstudio --depth-unit-scale-factor {unit:.6g}")
    for view, name in enumerate(names):
        write_depth_png(args.out / "depth" / f"{name}.png", depth[view], unit)
        camera = {"pose": (cameras.world_c2w if cameras.origin.any() else cameras.c2w)[view]}
        camera["intrinsic"] = cameras.K[view]
        arrays = {"depth": depth[view], "confidence": confidence[view], **camera}
        write_npz(args.out / "depth" / f"{name}.npz", depth_unit=unit, **arrays)
    write_transforms(
        args.out / "transforms.json",
        nearest_pinhole(cameras)[0],
        files,
        ply_file_path="points.ply",
        depth_unit_scale_factor=unit,
    )
    threshold = confidence_threshold(confidence)
    xyz, colors = point_cloud(depth, confidence, rgb, cameras.K, cameras.c2w, threshold)
    if len(xyz) > MAX_POINTS:
        kept = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(args.seed))[:MAX_POINTS].sort().values
        xyz, colors = xyz[kept], colors[kept]
    xyz = xyz.double() + cameras.origin if cameras.origin.any() else xyz
    write_ply(args.out / "points.ply", xyz, colors, replace=True)
    labels = [f"{'source' if view < N else 'target'} {name}" for view, name in enumerate(names)]
    pictured = [view for view in order if scene.views[view].picture is not None]
    shown = dict(zip(pictured, scene.photographs(pictured), strict=True))
    rows = {"photo": [shown.get(view) for view in order], "view": list(rgb), "depth": list(depth_to_color(depth))}
    write_png(args.out / "contact_sheet.png", contact_sheet(labels, rows))
    say(f"{args.out / 'contact_sheet.png'} shows the result")


def add(commands) -> None:
    command = commands.add_parser("views", help="novel views, depth and points from a folder of posed photographs")
    command.add_argument("scene", type=Path, help="folder of pictures, each with a same-named .npz (pose, intrinsic)")
    add_source_options(command)
    add_sampling_options(command)
    add_model_options(command)
    command.set_defaults(action=views)
