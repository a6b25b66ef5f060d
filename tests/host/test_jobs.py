"""A job outside the page gives what the same graph gives, to the bit, on the CPU with one thread."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gld_core
from gld_core.cameras.conventions import OPENGL
from gld_core.export.ply import SH0
from gld_core.export.scenes import EXPORTS, KINDS, glb_parts, scene_splats, write_scene_glb
from gld_core.geometry.splats import transformed
from gld_core.io.comfyui import preview_world
from gld_core.jobs import Job

STEPS, SPLAT_STEPS = 3, 2
SETTINGS = {"size": 84, "steps": STEPS}
SELECTION = {"min_confidence": 1.05, "keep_at_least": 0.0, "confirmed_by": 0, "max_points": 500_000}


def node(class_type: str, /, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def posed(server, prompt: dict, scene: Path) -> dict:
    """Other views of a scene with cameras."""
    return {"input": str(scene), "sources": (0, 5)}


def photograph(server, prompt: dict, scene: Path) -> dict:
    """A photograph of another size, on an orbit in two windows."""
    path = server.base / "input" / "photograph.png"
    Image.open(scene / "frame_00000.png").resize((131, 93)).save(path)
    prompt["one"] = node("LoadImage", image=path.name)
    prompt["estimate"] = node("GLDEstimateCameras", backbone=["backbone", 0], images=["one", 0], long_side=84, fov=0.0)
    motion = {"motion": "orbit", "motion.degrees": 25.0, "motion.number": 6, "motion.ease": "in_out"}
    inputs = {"cameras": ["estimate", 0], "sources": 0, "geometry": ["estimate", 2], **motion}
    prompt["path"] = node("GLDSetCameras", **inputs)
    for level in (1, 0):
        prompt[f"level{level}"]["inputs"] |= {"window": 5, "overlap": 1}
    along = {"motion": "orbit", "degrees": 25.0, "number": 6, "ease": "in_out"}
    return {"input": str(path), **along, "window": 5, "overlap": 1}


def photographs(server, prompt: dict, scene: Path) -> dict:
    """Two photographs without cameras, and the way between them in two windows."""
    folder = server.base / "input" / "pair"
    folder.mkdir(exist_ok=True)
    for number in (0, 3):
        Image.open(scene / f"frame_0000{number}.png").save(folder / f"{number}.png")
    for number in (0, 3):
        prompt[f"picture {number}"] = node("LoadImage", image=f"pair/{number}.png")
    prompt["both"] = node("ImageBatch", image1=["picture 0", 0], image2=["picture 3", 0])
    prompt["estimate"] = node("GLDEstimateCameras", backbone=["backbone", 0], images=["both", 0], long_side=84, fov=0.0)
    inputs = {"cameras": ["estimate", 0], "sources": 0, "geometry": ["estimate", 2], "motion": "interpolate"}
    prompt["path"] = node("GLDSetCameras", **inputs, **{"motion.number": 5})
    for level in (1, 0):
        prompt[f"level{level}"]["inputs"] |= {"window": 5, "overlap": 1}
    return {"input": str(folder), "motion": "interpolate", "number": 5, "window": 5, "overlap": 1}


def path_file(server, prompt: dict, scene: Path) -> dict:
    """A photograph, and a file of cameras for the targets."""
    prompt["one"] = node("LoadImage", image="room/frame_00000.png")
    prompt["estimate"] = node("GLDEstimateCameras", backbone=["backbone", 0], images=["one", 0], long_side=84, fov=0.0)
    source = {"source": "file", "source.path": "room", "source.width": 0, "source.height": 0}
    source["source.ignore_distortion"] = False
    prompt["file"] = node("GLDLoadCameras", **source, views="", long_side=84, fov=0.0)
    inputs = {"cameras": ["estimate", 0], "sources": 0, "motion": "views", "motion.targets": ["file", 0]}
    prompt["path"] = node("GLDSetCameras", **inputs)
    return {"input": str(scene / "frame_00000.png"), "path": str(scene)}


def with_exports(prompt: dict, cameras: list) -> dict:
    """The graph with every export, and nodes that keep what the files do not."""
    geometry = {"geometry": ["depth", 0], "cameras": cameras}
    selection = {name: value for name, value in SELECTION.items() if name != "max_points"}
    prompt["keep rgb"] = node("TestKeep", value=["rgb", 0])
    for kind in KINDS:
        prompt[f"glb {kind}"] = node("GLDExportGLB", **geometry, **SELECTION, kind=kind, show_cameras=True)
        if kind in ("points", "mesh"):
            prompt[f"glb {kind}"]["inputs"]["kind.voxel"] = 0.0
    prompt["ply"] = node("GLDExportPLY", **geometry, **SELECTION, voxel=0.0, axes="upright, Z up")
    prompt["keep ply"] = node("TestKeep", value=["ply", 0])
    for name, format in (("colmap", "COLMAP"), ("nerfstudio", "nerfstudio")):
        inputs = {**geometry, **SELECTION, "format": format, "filename_prefix": name}
        prompt[name] = node("GLDExportDataset", **inputs)
    prompt["colmap"]["inputs"]["format.binary"] = True
    prompt["splats"] = node("GLDMakeSplats", **geometry, **selection, max_splats=500_000, steps=SPLAT_STEPS)
    prompt["keep splats"] = node("TestKeep", value=["splats", 0])
    prompt["order"] = node("GLDOrderViews", images=["rgb", 0], views=["views", 0], sources="left out", fps=12.0)
    prompt["keep frames"] = node("TestKeep", value=["order", 0])
    return prompt


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [posed, photograph, photographs, path_file], ids=lambda kind: kind.__name__)
def test_a_graph_and_a_job_give_the_same_to_the_bit(server, graph, only, core, scene, tmp_path, kind):
    prompt = graph(sources="0, 5", seed=11, steps=STEPS, source_views="photographs")
    job = Job(**kind(server, prompt, scene), **SETTINGS, seed=11, splat_steps=SPLAT_STEPS)
    if "path" in prompt:
        prompt["views"]["inputs"] |= {"images": ["estimate", 1], "cameras": ["path", 0]}
    with_exports(prompt, prompt["views"]["inputs"]["cameras"])
    wanted = [name for name in prompt if name.startswith(("keep", "glb ", "colmap", "nerfstudio"))]
    result = server.run(only(prompt, *wanted))
    assert result.error is None, result.error

    def kept(name: str) -> dict[str, torch.Tensor]:
        return load_file(result.files(f"keep {name}", "kept")[0])

    made = gld_core.run(job, gld=core)
    N = made.sources
    assert torch.equal(kept("rgb")["value"].movedim(-1, 1), torch.cat([made.photographs, made.rgb[N:]]))
    # What the video is made of.
    assert torch.equal(kept("frames")["value"].movedim(-1, 1), made.rgb[N:])
    # The nodes know no names of views.
    made = replace(made, names=[f"{view:04}" for view in range(len(made.names))])
    maps = made.maps(job)
    for shown in KINDS:
        parts = glb_parts(maps, shown, job.voxel, job.max_points)
        # A texture lies elsewhere in files for ComfyUI's page.
        write_scene_glb(tmp_path / f"{shown}.glb", maps, parts, N, True, page=True)
        assert result.files(f"glb {shown}", "3d")[0].read_bytes() == (tmp_path / f"{shown}.glb").read_bytes(), shown
    EXPORTS["ply"](tmp_path, made, replace(job, axes="upright, Z up"))
    assert bytes(kept("ply")["value"].numpy()) == (tmp_path / "scene.ply").read_bytes()
    for name in ("colmap", "nerfstudio"):
        EXPORTS[name](tmp_path, made, job)
        folder = max((server.base / "output").glob(f"{name}_*"), key=lambda path: path.stat().st_mtime)
        assert contents(folder) == contents(tmp_path / name), name
    splats = transformed(scene_splats(maps, N, 500_000, SPLAT_STEPS), OPENGL @ preview_world(maps.cameras))
    theirs = kept("splats")
    assert torch.equal(theirs["positions"][0], splats.xyz.float())
    assert torch.equal(theirs["opacities"][0, :, 0], splats.opacities.float())
    assert torch.equal(theirs["sh"][0, :, 0], ((splats.rgb - 0.5) / SH0).float())


def test_quick_sampling_is_the_same_in_both(server, graph, only, core, scene):
    prompt = graph(sources="0, 5", seed=3)
    for level in (1, 0):
        del prompt[f"level{level}"]
    models = {"level1_model": ["model1", 0], "level0_model": ["model0", 0]}
    prompt["sample"] = node("GLDSample", views=["views", 0], **models, seed=3, steps=5, cfg=1.5, quality="quick")
    sampler = {"sampler_name": "euler", "scheduler": "gld", "shift": 0.0, "long_paths": "quality"}
    prompt["sample"]["inputs"] |= sampler
    prompt["rgb"]["inputs"] |= {"level1": ["sample", 0], "level0": ["sample", 1]}
    prompt["keep"] = node("TestKeep", value=["rgb", 0])
    result = server.run(only(prompt, "keep"))
    made = gld_core.run(str(scene), gld=core, sources=(0, 5), size=84, steps=5, seed=3, fast=True)
    found = load_file(result.files("keep", "kept")[0])["value"]
    assert torch.equal(found.movedim(-1, 1), made.rgb)
