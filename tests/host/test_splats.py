"""Splats in the host: its own nodes render, save and read them back, and see what the core sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.splats import Splats, make_splats, render, transformed
from gld_core.synthetic.render import render_scene

SEED, V, SIDE = 3, 4, 84


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def prompt():
    """prompt(steps): splats of a rendered room, and the host's nodes around them."""

    def build(steps=0, height=SIDE, **selection) -> dict:
        size = {"seed": SEED, "views": V, "height": height, "width": height, "sources": 2, "broken": False}
        chosen = {"min_confidence": 1.05, "keep_at_least": 0.0, "confirmed_by": 0, "max_splats": 500_000} | selection
        scene = {"geometry": ["room", 0], "cameras": ["room", 1]}
        look = {"frames": 1, "splat_scale": 1.0, "sharpen": 1.0, "headlight_shading": 0.0, "opacity_threshold": 0.0}
        look |= {"render_style": "color", "background": "#000000", "width": height, "height": height}
        nodes = {
            "room": node("TestRoom", **size),
            "splats": node("GLDMakeSplats", **scene, **chosen, steps=steps),
            "camera": node("GLDSaveCameras", cameras=["room", 1], filename_prefix="c", format="COLMAP text", view=1),
            "render": node("RenderSplat", splat=["splats", 0], camera_info=["camera", 0], **look),
            "save": node("SaveImage", images=["render", 0], filename_prefix="splats"),
            "cover": node("MaskToImage", mask=["render", 1]),
            "save cover": node("SaveImage", images=["cover", 0], filename_prefix="cover"),
        }
        shown = {"viewport_state": {}, "width": 256, "height": 256, "filename_prefix": "splats"}
        nodes["save file"] = node("SaveGaussianSplat", model_3d=["ply", 0], **shown)
        for kind in ("ply", "ksplat", "spz"):
            nodes[kind] = node("SplatToFile3D", splat=["splats", 0], format=kind)
            nodes[f"back {kind}"] = node("File3DToSplat", model_3d=[kind, 0])
            nodes[f"render {kind}"] = node("RenderSplat", splat=[f"back {kind}", 0], camera_info=["camera", 0], **look)
            nodes[f"save {kind}"] = node("SaveImage", images=[f"render {kind}", 0], filename_prefix=kind)
        return nodes

    return build


def picture(result, name):
    return torch.from_numpy(np.array(Image.open(result.files(name)[0]).convert("RGB"))).permute(2, 0, 1) / 255


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


@pytest.fixture(scope="module")
def made(server, prompt):
    result = server.run(prompt())
    assert result.error is None
    return result


def test_the_host_sees_what_the_core_sees(made):
    """Covers alike; colours nearly, for the host blends in linear light and within slabs of depth."""
    images, depth, cameras = render_scene(SEED, V, SIDE, SIDE, samples=1)
    maps = PosedDepth(depth, cameras, images=images)
    # The host takes one focal length and the middle, and looks through the corners of pixels, not their middles.
    focal, middle = cameras.K[1, 1, 1].item(), SIDE / 2 + 0.5
    K = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    color, cover = render(make_splats(maps, 2), replace(cameras[1], K=K[None]))
    covers, colors = psnr(picture(made, "save cover")[0], cover), psnr(picture(made, "save"), color)
    print(f"{covers:.1f} dB in cover, {colors:.1f} dB in colour")
    assert covers > 40 and colors > 27


@pytest.mark.parametrize(("kind", "least"), [("ply", 50), ("ksplat", 40), ("spz", 30)])
def test_the_hosts_files_hold_them(made, kind, least):
    value = psnr(picture(made, f"save {kind}"), picture(made, "save"))
    print(f"{kind}: {value:.1f} dB")
    assert value > least


def saved(result) -> Splats:
    """The splats of a PLY file that the host wrote, by its own definition of the format."""
    path = result.server.base / "output" / result.history["outputs"]["save file"]["result"][0]
    header, body = path.read_bytes().split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float")]
    values = torch.frombuffer(bytearray(body), dtype=torch.float32).view(-1, len(names))
    columns = dict(zip(names, values.T, strict=True))
    xyz, color, scale, turn = (
        torch.stack([columns[f"{start}{end}"] for end in ends], 1)
        for start, ends in (("", "xyz"), ("f_dc_", "012"), ("scale_", "012"), ("rot_", "0123"))
    )
    return Splats(xyz, scale.exp(), turn, torch.sigmoid(columns["opacity"]), 0.5 + 0.28209479 * color)


def test_the_file_shows_every_view_and_better_after_refinement(server, prompt, only, made):
    images, _, cameras = render_scene(SEED, V, SIDE, SIDE, samples=1)
    better = server.run(only(prompt(steps=60), "save file"))
    assert better.error is None
    values = []
    for result in (made, better):
        # ComfyUI's axes are those of the first camera, y down.
        splats = transformed(saved(result), cameras.c2w[0])
        values.append([psnr(render(splats, cameras[view])[0], images[view]) for view in range(V)])
    print(values)
    assert min(values[0]) > 20 and min(np.subtract(values[1], values[0])) > 2


def test_nothing_to_put_splats_on_is_a_sentence(server, prompt, only):
    assert "lower 'confirmed_by'" in server.run(only(prompt(confirmed_by=16), "save")).error
