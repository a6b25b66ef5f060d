"""How near splats, points and a mesh come to held-out views: python tests/bench/splats.py [height] [width] [rooms]

Rendered rooms, 8 views to make the scene of and 3 between them held out, with exact and with noisy depth. The noise is
smooth over some 20 pixels and differs between views, with a standard deviation of 1 % of the depth. Points and mesh go
through the same renderer: a point as a round Gaussian as large as its voxel, a mesh as its vertices, each with the size
and turn of its surface.
"""

import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F

from gld_core.geometry.depth_maps import PosedDepth, unit
from gld_core.geometry.mesh import fuse_mesh
from gld_core.geometry.points import fuse_points
from gld_core.geometry.splats import Splats, make_splats, refine, render, surfels
from gld_core.synthetic.render import render_scene

SOURCES, HELD = list(range(0, 15, 2)), [3, 7, 11]
STEPS = 200


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * (a - b).square().mean().log10().item()


def noisy(depth: torch.Tensor, seed: int) -> torch.Tensor:
    V, H, W = depth.shape
    noise = torch.randn(V, 1, H // 20 + 2, W // 20 + 2, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, (H, W), mode="bicubic", align_corners=True)[:, 0]
    return depth * (1 + 0.01 * smooth / smooth.std())


def discs(xyz: torch.Tensor, normal: torch.Tensor, side: float, rgb: torch.Tensor) -> Splats:
    ones = torch.ones(len(xyz))
    # Seen from along the normal a disc is round.
    return surfels(xyz, unit(normal), ones, side * ones, xyz[0] + 1, ones, rgb.float() / 255)


def main() -> None:
    H, W, rooms = (int(value) for value in (sys.argv[1:4] + ["126", "168", "3"][len(sys.argv) - 1 :])[:3])
    threads = torch.get_num_threads()
    print(f"{rooms} rooms, 8 views of {W} x {H}, 3 held out, {STEPS} steps of refinement, {threads} threads\n")
    print("| depth | scene | PSNR held out | size | seconds |\n|---|---|---|---|---|")
    for kind in ("exact", "noisy"):
        results: dict[str, list[tuple[float, int, float]]] = {}
        for seed in range(1, rooms + 1):
            images, depth, cameras = render_scene(seed, 15, H, W, samples=2)
            depth = noisy(depth, seed) if kind == "noisy" else depth
            maps = PosedDepth(depth[SOURCES], cameras[SOURCES], images=images[SOURCES])

            def score(name: str, splats: Splats, start: float, images=images, cameras=cameras, results=results) -> None:
                seconds = time.process_time() - start
                value = statistics.mean(psnr(render(splats, cameras[view])[0], images[view]) for view in HELD)
                results.setdefault(name, []).append((value, len(splats), seconds))

            start = time.process_time()
            cloud = fuse_points(maps)
            assert cloud.normals is not None and cloud.voxel is not None
            score("points", discs(cloud.xyz, cloud.normals, cloud.voxel, cloud.rgb), start)
            start = time.process_time()
            mesh = fuse_mesh(maps)
            assert mesh.rgb is not None and mesh.voxel is not None
            score("mesh", discs(mesh.xyz, mesh.normals(), mesh.voxel, mesh.rgb), start)
            start = time.process_time()
            splats = make_splats(maps, len(SOURCES))
            score("splats, made", splats, start)
            start = time.process_time()
            score("splats, refined", refine(splats, maps.images, maps.cameras, steps=STEPS), start)
        for name, values in results.items():
            value, size, seconds = (statistics.mean(part) for part in zip(*values, strict=True))
            print(f"| {kind} | {name} | {value:.2f} dB | {size:.0f} | {seconds:.1f} |", flush=True)
    print(f"\nPeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
