"""fuse_mesh beside Open3D's VoxelBlockGrid, in one run: python tests/bench/tsdf.py PYTHON [views] [side]   (80, 252)

PYTHON is a Python that has Open3D (pip install open3d, in an environment of its own). Both get the same exact depth and
pictures of a rendered room and the same voxel, truncate at 3 voxels and have one thread. The time to start and to read
the input is not in the processor time. Errors are distances to the room's surfaces, from its equations.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OPEN3D = """
import sys, time
import numpy as np, open3d as o3d, open3d.core as o3c
scene = np.load(sys.argv[1])
voxel = float(scene["voxel"])
start = time.process_time()
kinds = (o3c.float32, o3c.float32, o3c.float32)
grid = o3d.t.geometry.VoxelBlockGrid(("tsdf", "weight", "color"), kinds, ((1,), (1,), (3,)), voxel, 16, 10000)
for depth, rgb, K, w2c in zip(scene["depth"], scene["rgb"], scene["K"], scene["w2c"]):
    # Open3D counts pixels from the middle of the first.
    K = o3c.Tensor(K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]))
    depth, rgb, w2c = o3d.t.geometry.Image(depth), o3d.t.geometry.Image(rgb.astype(np.float32)), o3c.Tensor(w2c)
    blocks = grid.compute_unique_block_coordinates(depth, K, w2c, 1.0, 1000.0, 3.0)
    grid.integrate(blocks, depth, rgb, K, K, w2c, 1.0, 1000.0, 3.0)
mesh = grid.extract_triangle_mesh(weight_threshold=0.5)
seconds = time.process_time() - start
np.savez(sys.argv[2], xyz=mesh.vertex.positions.numpy(), faces=mesh.triangle.indices.numpy(), seconds=seconds)
"""

OURS = """
import sys, time
import numpy as np, torch
from gld_core.cameras import Cameras
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.mesh import fuse_mesh
scene = {name: torch.from_numpy(value) for name, value in np.load(sys.argv[1]).items()}
V, H, W = scene["depth"].shape
start = time.process_time()
cameras = Cameras(torch.linalg.inv(scene["w2c"]).float(), scene["K"].float(), H, W)
maps = PosedDepth(scene["depth"], cameras, images=scene["rgb"].permute(0, 3, 1, 2) / 255)
mesh = fuse_mesh(maps, 10_000_000, float(scene["voxel"]))
seconds = time.process_time() - start
np.savez(sys.argv[2], xyz=mesh.xyz.numpy(), faces=mesh.faces.numpy(), seconds=seconds)
"""


def edge_counts(faces: np.ndarray) -> np.ndarray:
    """How many triangles every edge has."""
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    return np.unique(pairs, axis=0, return_counts=True)[1]


def main() -> None:
    views, side = (int(value) for value in (sys.argv[2:4] + ["80", "252"][len(sys.argv) - 2 :])[:2])
    images, depth, cameras = render_scene(1, views, side, side, samples=1)
    voxel = 1.5 * pixel_footprint(PosedDepth(depth, cameras))
    print(f"{views} views of {side} x {side}, voxel {voxel:.4f}\n")
    print("| program | processor | real | vertices | triangles | error mean / 99 % | open edges | of more than two |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scene = {"depth": depth, "rgb": (images * 255).round().byte().permute(0, 2, 3, 1)}
        arrays = {name: value.numpy() for name, value in scene.items()}
        arrays |= {"K": cameras.K.double().numpy(), "w2c": cameras.w2c.double().numpy(), "voxel": np.array(voxel)}
        np.savez(f"{folder}/scene.npz", **arrays)
        for name, python, code in (("Open3D", sys.argv[1], OPEN3D), ("fuse_mesh", sys.executable, OURS)):
            start = time.perf_counter()
            command = [python, "-c", code, f"{folder}/scene.npz", f"{folder}/mesh.npz"]
            subprocess.run(
                command, check=True, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            real = time.perf_counter() - start
            made = dict(np.load(f"{folder}/mesh.npz"))
            counts, error = edge_counts(made["faces"]), distance_to_room(1, made["xyz"].astype(np.float64))
            size = f"{len(made['xyz'])} | {len(made['faces'])}"
            edges = f"{(counts == 1).sum()} | {(counts > 2).sum()}"
            print(
                f"| {name} | {float(made['seconds']):.1f} s | {real:.1f} s | {size} "
                f"| {error.mean():.5f} / {np.quantile(error, 0.99):.5f} | {edges} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

    from room_surfaces import distance_to_room

    from gld_core.geometry.depth_maps import PosedDepth
    from gld_core.geometry.points import pixel_footprint
    from gld_core.synthetic.render import render_scene

    main()
