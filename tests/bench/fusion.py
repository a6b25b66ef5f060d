"""Peak memory and time of fusing many views: python tests/bench/fusion.py [views] [side]   (80 views of 504 x 504)

A rendered room stands in for decoded views. Every job runs in a process of its own, which holds nothing but its input
(depth, confidence, pictures), so that the peak is that of the job.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from gld_core.cameras import Cameras
from gld_core.export import gltf
from gld_core.export.gltf import gltf_transform
from gld_core.geometry import depth_maps, mesh
from gld_core.geometry.depth_maps import PosedDepth, confidence_threshold
from gld_core.geometry.points import PointCloud, even_subset, fuse_points, point_cloud
from gld_core.synthetic.render import render_scene

JOBS = ("input", "released cloud", "cloud", "mesh", "textured mesh", "agreement, then cloud")


def job(name: str, folder: Path) -> None:
    depth, images, c2w, K = torch.load(folder / "scene.pt")
    cameras = Cameras(c2w, K, *depth.shape[1:])
    confidence = torch.full_like(depth, 2.0)
    start = time.perf_counter()
    threshold = confidence_threshold(confidence)
    keep = depth_maps.usable(depth, confidence, threshold)
    maps, parts = PosedDepth(depth, cameras, keep, images), []
    if name == "released cloud":
        xyz, rgb = point_cloud(depth, confidence, images, cameras.K, cameras.c2w, threshold)
        chosen = even_subset(xyz, 500_000)
        parts = [PointCloud(xyz[chosen], rgb[chosen])]
    if name.startswith("agreement"):
        keep &= depth_maps.agreement(maps).confirmed >= 2
        maps = PosedDepth(depth, cameras, keep, images)
    if name.endswith("cloud") and not parts:
        parts = [fuse_points(maps)]
    if name == "mesh":
        parts = [mesh.fuse_mesh(maps)]
    if name == "textured mesh":
        parts = list(mesh.view_meshes(maps))
    written = 0
    if parts:
        xyz = torch.cat([part.xyz for part in parts])
        frusta = gltf.camera_frusta(cameras, 0.03 * gltf.scene_diagonal(xyz))
        gltf.write_glb(folder / f"{name}.glb", [*parts, frusta], gltf_transform(xyz, cameras.w2c[0]))
        written = (folder / f"{name}.glb").stat().st_size
    seconds = time.perf_counter() - start
    # Not getrusage, which starts at the parent's peak.
    peak = int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 2**20
    points, faces = sum(len(part.xyz) for part in parts), sum(len(getattr(part, "faces", ())) for part in parts)
    print(f"| {name} | {seconds:.1f} s | {peak:.2f} GiB | {points} | {faces} | {written / 2**20:.1f} MiB |", flush=True)


def main() -> None:
    views, side = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (80, 504)
    images, depth, cameras = render_scene(1, views, side, side, samples=1)
    with tempfile.TemporaryDirectory() as folder:
        torch.save((depth, images, cameras.c2w, cameras.K), Path(folder) / "scene.pt")
        del images
        print(f"{views} views of {side} x {side}, {depth.numel() / 1e6:.1f} million points, CPU\n")
        print("| job | time | peak memory | points | triangles | file |\n|---|---|---|---|---|---|", flush=True)
        for name in JOBS:
            subprocess.run([sys.executable, __file__, name, folder], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in JOBS:
        job(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
