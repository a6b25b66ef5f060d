"""One camera path for GLD and for video models: what ComfyUI's own nodes make of the same cameras, and MoGe's depth."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT, LENGTH = 96, 64, 9


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def video(cameras: list, **inputs) -> dict:
    settings = {"width": WIDTH, "height": HEIGHT, "length": LENGTH, "translation": 1.0, "sources": 0} | inputs
    return node("GLDVideoCameras", cameras=cameras, **settings)


def motion(name: str) -> list[np.ndarray]:
    """Camera-to-world poses of a motion of WanCameraEmbedding, as its source defines them: the last frame is one short
    of the whole."""
    poses = []
    for frame in range(LENGTH):
        share, pose = frame / LENGTH, np.eye(4)
        if name == "Zoom In":
            pose[2, 3] = 2 * 1.5 * share
        elif name == "Pan Left":
            pose[0, 3] = -1.5 * share
        else:
            pose[:3, :3] = Rotation.from_euler("z", share * np.pi / 3).as_matrix()
        poses.append(pose)
    return poses


@pytest.mark.parametrize("name", ["Static", "Zoom In", "Pan Left", "ClockWise (CW)"])
@pytest.mark.parametrize("times", [1, 2], ids=["size of the video", "twice its size"])
def test_the_camera_embedding_is_the_hosts_own(server, name, times):
    """Of cameras whose pictures have any size, and of translations at any scale, which is the host's speed where
    nothing turns. The host takes its lens for 1280x720 pixels and crops it to the video's shape.
    """
    across, W, H = HEIGHT * 1280 / 720, WIDTH * times, HEIGHT * times
    size = {"width": WIDTH, "height": HEIGHT, "length": LENGTH}
    K = [[0.5 * across * times, 0, W / 2], [0, 0.5 * HEIGHT * times, H / 2], [0, 0, 1]]
    speed = 2.5 if name in ("Zoom In", "Pan Left") else 1.0
    poses = motion(name) if name != "Static" else [np.eye(4)] * LENGTH
    cameras = {"width": W, "height": H, "K": K, "c2w": [pose.tolist() for pose in poses]}
    source = {"source": "json", "source.text": json.dumps(cameras), "views": "", "long_side": 0}
    result = server.run(
        {
            "cameras": node("GLDLoadCameras", **source),
            "ours": video(["cameras", 0], translation=speed),
            "host": node("WanCameraEmbedding", camera_pose=name, speed=speed, **size),
            "difference": node("TestDifference", one=["ours", 0], other=["host", 0]),
        }
    )
    assert result.error is None, result.error
    found = result.history["outputs"]["difference"]
    assert found["shapes"] == [[1, 24, 3, HEIGHT, WIDTH]] * 2 and found["difference"][0] < 1e-5


def room(**moge) -> dict:
    """A rendered room with the first view as MoGe sees it: depth in twice the pixels."""
    sizes = {"seed": 3, "views": 5, "height": 84, "width": 126, "sources": 1, "broken": False}
    return {
        "room": node("TestRoom", **sizes),
        "moge": node("TestMoGe", geometry=["room", 0], **({"views": 1, "panorama": False} | moge)),
    }


def pictures(result, name: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in result.files(name)]) / 255


@pytest.mark.parametrize("length", [5, 9], ids=["its own views", "views in between"])
def test_pictures_for_uni3c_are_what_the_sources_have_seen(server, length):
    """Against the room rendered from the same cameras."""
    prompt = room() | {
        "video": video(["room", 1], geometry=["moge", 0], width=128, height=80, length=length),
        "rendered": node("SaveImage", images=["video", 1], filename_prefix="video/rendered"),
        "mask": node("MaskToImage", mask=["video", 2]),
        "covered": node("SaveImage", images=["mask", 0], filename_prefix="video/covered"),
        "start": node("SaveImage", images=["video", 3], filename_prefix="video/start"),
        "fitted": node("ImageScale", image=["room", 2], upscale_method="bilinear", width=128, height=80, crop="center"),
        "true": node("SaveImage", images=["fitted", 0], filename_prefix="video/true"),
    }
    result = server.run(prompt)
    rendered, covered, true = (pictures(result, name) for name in ("rendered", "covered", "true"))
    assert rendered.shape == (length, 80, 128, 3) and true.shape == (5, 80, 128, 3)
    seen = covered[..., 0] > 0.5
    assert np.abs(rendered[~seen] - 0.5).max() < 0.01 and not seen.all()
    error = np.abs(rendered[:: (length - 1) // 4] - true).mean(-1)
    own = seen[:: (length - 1) // 4]
    assert own[0].mean() > 0.9 and np.median(error[0][own[0]]) < 0.02
    for view in range(1, 5):
        # The room's views are a third of a metre and more apart.
        assert np.median(error[view][own[view]]) < 0.03 < np.median(np.abs(true[0] - true[view]))
    assert np.abs(pictures(result, "start")[0] - true[0]).mean() < 0.02


def test_moges_depth_of_one_photograph_does_what_depth_anything_does(server):
    prompt = room() | {
        "camera": node("GLDLoadCameras", source="geometry", **{"source.geometry": ["moge", 0]}, views="", long_side=0)
    }
    for name, geometry, cameras in (("one", ["moge", 0], ["camera", 0]), ("other", ["room", 0], ["room", 1])):
        sources = {"cameras": cameras, "sources": 1, "geometry": geometry}
        move = {"motion": "orbit", "motion.number": 8, "motion.source": 0, "motion.degrees": 20.0}
        place = {"cameras": ["room", 1], "geometry": geometry, "sources": 1, "min_confidence": 1.0}
        place["path"] = {"version": 1, "keys": []}
        check = {"min_confidence": 1.0, "max_points": 1000}
        prompt |= {
            f"set {name}": node("GLDSetCameras", **sources, **move),
            f"video {name}": video([f"set {name}", 0], sources=1),
            f"place {name}": node("GLDPlaceCameras", **place, keyframes=["room", 1]),
            f"preview {name}": node("GLDPreviewCameras", **(sources | {"cameras": ["room", 1]}), **check),
        }
    for what, slot in (("video", 0), ("place", 2), ("preview", 2)):
        prompt[f"{what} {slot}"] = node("TestDifference", one=[f"{what} one", slot], other=[f"{what} other", slot])
    # ComfyUI's own node takes what the test's node makes for MoGe's.
    prompt["depth"] = node("MoGeRender", moge_geometry=["moge", 0], output="depth")
    prompt["save"] = node("PreviewImage", images=["depth", 0])
    result = server.run(prompt)
    assert len(result.files("save")) == 1
    for name in ("video 0", "place 2", "preview 2"):
        assert 0 <= result.history["outputs"][name]["difference"][0] < 2e-3, name


@pytest.mark.parametrize(
    "moge, words",
    [
        ({"views": 2}, "2 depth maps with intrinsics (2, 3, 3). MoGe does not tell how several photographs stand"),
        ({"panorama": True}, "no intrinsics, as that of a panorama; take it from Run MoGe Inference"),
    ],
    ids=["two photographs", "a panorama"],
)
def test_what_moge_does_not_know_is_a_sentence(server, moge, words):
    prompt = room(**moge) | {"video": video(["room", 1], geometry=["moge", 0])}
    prompt["save"] = node("PreviewImage", images=["video", 1])
    assert words in server.run(prompt).error


@pytest.mark.parametrize(
    "size, words",
    [
        ({"length": 6}, "There are 6 frames; a Wan model takes 1, 5, 9"),
        ({"width": 4096, "height": 4096, "length": 1001}, "camera_embedding of 376 GiB; lower length"),
    ],
    ids=str,
)
def test_a_video_that_cannot_be_is_a_sentence(server, size, words):
    prompt = room() | {"video": video(["room", 1], **size)}
    prompt["save"] = node("TestDifference", one=["video", 0], other=["video", 0])
    assert words in server.run(prompt).error


def test_one_moge_photograph_for_several_sources_is_a_sentence(server):
    prompt = room() | {
        "set": node("GLDSetCameras", cameras=["room", 1], sources=2, geometry=["moge", 0], motion="orbit")
    }
    prompt["video"] = video(["set", 0])
    prompt["save"] = node("TestDifference", one=["video", 0], other=["video", 0])
    assert (
        "MoGe's of one photograph, but there are 2 sources; set the number of sources to 1" in server.run(prompt).error
    )
