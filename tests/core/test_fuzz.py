"""Damaged and absurd inputs: each is right, or refused in one sentence before work starts. Seeded, so cases repeat."""

import copy
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

import gld_core
from gld_core import checkpoints
from gld_core.cameras import Cameras, motions
from gld_core.cameras.conventions import check_scene
from gld_core.conditioning import camera_map, conditions
from gld_core.export.datasets import write_nerfstudio_dataset
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.points import PointCloud
from gld_core.io import cameras, colmap, comfyui
from gld_core.io.cameras import read_scene
from gld_core.io.nerfstudio import write_transforms
from gld_core.io.posed_folders import write_scene
from gld_core.io.scenes import view_numbers
from gld_core.synthetic.random_models import dit_shapes, random_weights
from gld_core.synthetic.render import render_scene

pytestmark = pytest.mark.slow

NUMBERS = (math.nan, math.inf, -math.inf, 0.0, 1e-30, 1e30, -1e30, 1e38, 1e300, 1e5, -3.0)
JUNK = (None, True, "x", "", "..", "a\0b", "²", [], {}, [[]], {"x": 1}, 2**63, -(2**70), 10**400, *NUMBERS)


@contextmanager
def at_most(seconds: int):
    """AssertionError in a call that does not come back."""

    def late(*_):
        raise AssertionError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(case, call, *arguments, **named):
    """What the call gives, or None where it refuses in a sentence; AssertionError for any other end."""
    try:
        with at_most(60):
            return call(*arguments, **named)
    except Exception as error:
        sentence = str(error)
        kind = type(error) in (ValueError, FileNotFoundError)
        assert kind and "\n" not in sentence and len(sentence) < 700, f"case {case}: {error!r}"
        assert sentence.endswith((".", ".)")), f"case {case}: {sentence}"
        return None


def damaged(choose: random.Random, data: bytes) -> bytes:
    """Up to ten bytes changed, cut out, put in, or all that follows cut off."""
    out = bytearray(data)
    for _ in range(choose.choice((1, 1, 1, 3, 10))):
        at = choose.randrange(len(out) or 1)
        kind = choose.randrange(4)
        if kind == 0 and out:
            out[at] = choose.randrange(256)
        elif kind == 1:
            del out[at : at + choose.choice((1, 5, 40, len(out)))]
        else:
            bits = (b"-", b"9" * 5000, b"nan ", b"1e999 ", b"[" * 9999, b"{", b"\0", b"\n", b" ", b"\xff" * 8, b"\xb2")
            out[at:at] = choose.choice(bits)
    return bytes(out)


def places(value, path=()):
    """Paths of everything in nested lists and dicts."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*path, key))


def altered(choose: random.Random, value):
    """A copy in which one part, at any depth, is left out, doubled or something else."""
    value = copy.deepcopy(value)
    depth = choose.randrange(1, 6)
    found = list(places(value))
    *path, key = choose.choice([p for p in found if len(p) == depth] or found[1:])
    parent = value
    for step in path:
        parent = parent[step]
    kind = choose.randrange(4)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[key] = choose.choice(JUNK)
    return value


def usable(cameras: Cameras) -> bool:
    """Whether a network can be given them."""
    return bool(torch.isfinite(camera_map(cameras, 1)).all()) if cameras.height * cameras.width < 10**6 else True


# Cameras of other programs


@pytest.fixture(scope="module")
def room():
    return render_scene(0, 4, 28, 42)


@pytest.fixture(scope="module")
def files(room, tmp_path_factory):
    """The room's cameras in every format, by name."""
    folder, (_, _, cameras) = tmp_path_factory.mktemp("cameras"), room
    names = [f"view_{view}.png" for view in range(4)]
    xyz, rgb = torch.rand(5, 3), torch.zeros(5, 3, dtype=torch.uint8)
    for name, binary in (("binary", True), ("text", False)):
        colmap.write_colmap(folder / name, cameras, names, xyz, rgb, binary)
    write_transforms(folder / "transforms.json", cameras, [{"file_path": name} for name in names])
    matrices = {"c2w": cameras.c2w.tolist(), "K": cameras.K.tolist(), "width": 42, "height": 28, "names": names}
    (folder / "matrices.json").write_text(json.dumps(matrices), encoding="utf-8")
    lines = ["https://example.org"]
    for view, matrix in enumerate(cameras.w2c.tolist()):
        lines.append(" ".join(map(str, [view, 1.0, 1.5, 0.5, 0.5, 0, 0, *sum(matrix[:3], [])])))
    (folder / "realestate10k.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["transforms.json", "matrices.json", "realestate10k.txt", "binary", "text"])
def test_damaged_camera_files(files, tmp_path, name):
    for case in range(80):
        choose = random.Random(case)
        target = tmp_path / name
        if (files / name).is_dir():
            target.mkdir(exist_ok=True)
            spoiled = choose.choice(sorted((files / name).iterdir()))
            for path in (files / name).iterdir():
                content = path.read_bytes()
                (target / path.name).write_bytes(damaged(choose, content) if path == spoiled else content)
            answer(case, colmap.read_colmap_points, target)
        else:
            target.write_bytes(damaged(choose, (files / name).read_bytes()))
        found = answer(case, cameras.read_cameras, target, 28, 42)
        assert found is None or usable(found[0]), case


@pytest.mark.parametrize("name", ["transforms.json", "matrices.json"])
def test_wrong_values_in_camera_files(files, tmp_path, name):
    content = json.loads((files / name).read_text(encoding="utf-8"))
    for case in range(150):
        (tmp_path / name).write_text(json.dumps(altered(random.Random(case), content)), encoding="utf-8")
        found = answer(case, cameras.read_cameras, tmp_path / name)
        assert found is None or usable(found[0]), case


def flat(matrix) -> str:
    return " ".join(map(str, matrix.ravel()))


def other_formats(folder, cameras):
    """The room's cameras as other programs write them, by the file that is chosen."""
    flip = np.diag([1.0, -1, -1, 1])
    c2w, w2c, K = cameras.c2w.double().numpy(), cameras.w2c.double().numpy(), cameras.K.double().numpy()
    names = [f"view_{view}.png" for view in range(len(c2w))]
    path = [{"camera_to_world": (pose @ flip).ravel().tolist(), "fov": 50.0} for pose in c2w]
    content = {"camera_path.json": {"render_height": 28, "render_width": 42, "camera_path": path}}
    content["cameras.json"] = [
        {"img_name": name, "position": pose[:3, 3].tolist(), "rotation": pose[:3, :3].tolist(), "width": 42,
         "height": 28, "fx": k[0, 0], "fy": k[1, 1]}
        for name, pose, k in zip(names, c2w, K, strict=True)
    ]  # fmt: skip
    shots = {
        name: {
            "camera": "a",
            "rotation": Rotation.from_matrix(pose[:3, :3]).as_rotvec().tolist(),
            "translation": pose[:3, 3].tolist(),
        }
        for name, pose in zip(names, w2c, strict=True)
    }
    camera = {"projection_type": "perspective", "width": 42, "height": 28, "focal": 1.0, "k1": 0.0, "k2": 0.0}
    content["reconstruction.json"] = [{"cameras": {"a": camera}, "shots": shots}]
    poses = [[*Rotation.from_matrix((pose @ flip)[:3, :3]).as_quat().tolist(), *pose[:3, 3].tolist()] for pose in c2w]
    content["metadata.json"] = {"w": 42, "h": 28, "K": K[0].T.ravel().tolist(), "poses": poses}
    for name, value in content.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    rows = [
        np.r_[np.c_[pose[:3, 1], pose[:3, 0], -pose[:3, 2], pose[:3, 3], [28, 42, 40.0]].ravel(), 1, 9] for pose in c2w
    ]
    np.save(folder / "poses_bounds.npy", np.array(rows))
    np.savez(folder / "results.npz", depth=np.zeros((4, 28, 42)), extrinsics=w2c[:, :3], intrinsics=K)
    text = [
        " ".join(map(str, [view, *pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]))
        for view, pose in enumerate(c2w)
    ]
    (folder / "tum.txt").write_text("\n".join(text), encoding="utf-8")
    kitti = "\n".join(" ".join(map(str, pose[:3].ravel())) for pose in c2w)
    (folder / "kitti.txt").write_text(kitti, encoding="utf-8")
    csv = [f"{name},1,{view},3,10,80,5,36,0,0,0,0,0,0,0,0" for view, name in enumerate(names)]
    header = "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"
    (folder / "capture.csv").write_text("\n".join([header, *csv]), encoding="utf-8")
    blocks = [
        "40 0 0\n" + "\n".join(" ".join(map(str, row)) for row in (*pose[:3, :3], pose[:3, 3])) for pose in flip @ w2c
    ]
    (folder / "bundle.out").write_text("\n".join(["# Bundle file v0.3", "4 0", *blocks]), encoding="utf-8")
    entries = "".join(
        f'<camera id="{view}" sensor_id="0" label="{name}"><transform>{flat(pose)}</transform></camera>'
        for view, (name, pose) in enumerate(zip(names, c2w, strict=True))
    )
    sensor = (
        '<sensor id="0" type="frame"><calibration><resolution width="42" height="28"/><f>40</f></calibration></sensor>'
    )
    xml = f"<document><chunk><sensors>{sensor}</sensors><cameras>{entries}</cameras></chunk></document>"
    (folder / "metashape.xml").write_text(xml, encoding="utf-8")


OTHER_FORMATS = (
    "camera_path.json", "cameras.json", "reconstruction.json", "metadata.json", "poses_bounds.npy", "results.npz",
    "tum.txt", "kitti.txt", "capture.csv", "bundle.out", "metashape.xml",
)  # fmt: skip


@pytest.fixture(scope="module")
def others(room, tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    other_formats(folder, room[2])
    return folder


def poses_of(path):
    """Cameras of all views that can be used."""
    return cameras.read_scene(path, None, (28, 42), fov=50.0).cameras


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_damaged_files_of_other_programs(others, tmp_path, name):
    assert answer("as it is", poses_of, others / name) is not None
    for case in range(60):
        choose = random.Random(f"{name} {case}")
        (tmp_path / name).write_bytes(damaged(choose, (others / name).read_bytes()))
        found = answer((name, case), poses_of, tmp_path / name)
        assert found is None or usable(found), case
    for case in range(60) if name.endswith(".json") else ():
        changed = altered(random.Random(case), json.loads((others / name).read_text(encoding="utf-8")))
        (tmp_path / name).write_text(json.dumps(changed), encoding="utf-8")
        found = answer((name, case), poses_of, tmp_path / name)
        assert found is None or usable(found), case


def npz_that_claims(path, shape, name="pose"):
    """An archive of one array whose head claims a shape, followed by zeros that pack to almost nothing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as file:
        file.write(npy_head(shape))
        for _ in range(300):
            file.write(bytes(1_000_000))


POSE = b"<transform>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</transform>"
CAMERA = b'<camera id="1" sensor_id="0" component_id="0" label="a">' + POSE + b"</camera>"
CALIBRATION = b'<calibration><resolution width="42" height="28"/><f>40</f></calibration>'
SHOT = b'"%d":{"camera":"a","rotation":[0,0,0],"translation":[0,0,0]}'
SPLAT = b'{"position":[1,2,3],"rotation":[1,0,0,0,1,0,0,0,1],"width":42,"height":28,"fx":40,"fy":40}'


def xml(cameras: bytes, sensor: bytes = b"", components: bytes = b"") -> bytes:
    one = b'<sensors><sensor id="0" type="frame">' + sensor + CALIBRATION + b"</sensor></sensors>"
    parts = (components, one, b"<cameras>", cameras, b"</cameras>")
    return b"<document><chunk>" + b"".join(parts) + b"</chunk></document>"


def listed(entry: bytes, count: int) -> bytes:
    return b",".join([entry] * count)


def hostile_texts():
    """Names of files, each of another folder, and what is in them: more than is read, or little that every view goes
    through again.
    """
    many = 20_001
    yield "a.json", b'{"frames": [' + listed(b"[]", 3_000_000) + b"]}"
    yield "a.json", b"[" + listed(b"1", 12_000_000) + b"]"
    yield "a.json", b'{"frames": ' + b"[" * 1_000_000
    yield "a.json", b"{" + b",".join(b'"%d":1' % number for number in range(1_000_000)) + b"}"
    yield "transforms.json", b'{"fl_x":40,"w":42,"h":28,"frames":[' + listed(b'{"c2w":[]}', many) + b"]}"
    yield "transforms.json", b'{"K":[' + listed(b"1", 900_000) + b'],"frames":[' + listed(b"{}", 19_000) + b"]}"
    yield "transforms.json", b'{"camera_model":"' + b"a" * 20_000_000 + b'","frames":[' + listed(b"{}", 19_000) + b"]}"
    yield "camera_path.json", b'{"render_height":28,"render_width":42,"camera_path":[' + listed(b"{}", many) + b"]}"
    yield "cameras.json", b"[" + listed(SPLAT, many) + b"]"
    yield "metadata.json", b'{"w":42,"h":28,"K":[],"poses":[' + listed(b"[]", many) + b"]}"
    yield "matrices.json", b'{"K":[],"c2w":[' + listed(b"[]", many) + b"]}"
    shots = b",".join(SHOT % number for number in range(many))
    yield "reconstruction.json", b'[{"cameras":{"a":{}},"shots":{' + shots + b"}}]"
    yield "kitti.txt", b"1 " * 15_000_000
    yield "kitti.txt", b"1 0 0 0 0 1 0 0 0 0 1 0\n" * many
    yield "kitti.txt", b"1 0 0 0 0 1 0 0 0 0 1 0\n" + b"\n" * 30_000_000
    yield "tum.txt", b"1 0 0 0 0 0 0 1\n" * many
    yield "tum.txt", b"1 0 0 0 0 0 0 1\n" + b"1 " * 15_000_000
    yield "realestate10k.txt", b"1 0.5 0.5 .5 .5 0 0 1 0.0 0 0 0 1 0 0 0 0 1 0\n" * many
    yield "capture.csv", b"#name,x,y,alt,heading,pitch,roll,f\n" + b"a,1,0,3,10,80,5,36\n" * many
    yield "capture.csv", b"#name,x,y,alt,heading,pitch,roll,f\n" + b"a," * 15_000_000
    yield "bundle.out", b"# Bundle file v0.3\n" + b"9" * 20 + b" 0\n" + b"1 0 0\n" * 3_000_000
    yield "metashape.xml", b"<document><chunk>" + b"<a/>" * 4_000_000
    yield "metashape.xml", xml(CAMERA * many)
    yield "metashape.xml", xml(CAMERA * 19_000, b"<calibration/>" * 200_000)
    rotation = b"<transform><rotation>" + b" " * 15_000_000 + b"</rotation></transform>"
    yield "metashape.xml", xml(CAMERA * 1000, b"", b'<component id="0">' + rotation + b"</component>")


def colmap_files(folder, **changes):
    """A COLMAP model of one view in folder, some of whose files are what is given."""
    one = Cameras(torch.eye(4)[None], torch.tensor([[[40.0, 0, 21], [0, 40, 14], [0, 0, 1]]]), 28, 42)
    colmap.write_colmap(folder, one, ["a.png"], binary=not any(name.endswith("txt") for name in changes))
    for name, content in changes.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder


def hostile(folder):
    """Files that ask for more than they are."""
    image = struct.pack("<i7di", 1, 1, 0, 0, 0, 0, 0, 0, 1) + b"a\0" + bytes(8)
    endless = struct.pack("<Q", 1) + struct.pack("<i7di", *range(9)) + b"a" * 2_000_000
    yield colmap_files(folder / "endless", images_bin=endless)
    yield colmap_files(folder / "claims", images_bin=struct.pack("<Q", 2**60) + image)
    yield colmap_files(folder / "cameras", cameras_bin=struct.pack("<Q", 2**60) + bytes(10_000_000))
    yield colmap_files(folder / "many", images_bin=struct.pack("<Q", 20_001) + image * 20_001)
    yield colmap_files(folder / "text", images_txt=b"1 1 0 0 0 0 0 0 1 a.png\n\n" * 20_001)
    yield colmap_files(folder / "line", cameras_txt=b"1 PINHOLE " + b"4" * 30_000_000)
    (folder / "npz").mkdir()
    npz_that_claims(folder / "npz/a.npz", (10**9, 4))
    yield folder / "npz"
    npz_that_claims(folder / "results.npz", (10**6, 3, 4), "extrinsics")
    yield folder / "results.npz"
    for number, shape in enumerate(((10**9, 17), (20_001, 17))):
        (folder / f"{number}.npy").write_bytes(npy_head(shape) + bytes(8 * 17 * 20_001))
        yield folder / f"{number}.npy"
    for number, (name, text) in enumerate(hostile_texts()):
        (folder / str(number)).mkdir()
        (folder / str(number) / name).write_bytes(text)
        yield folder / str(number) / name
    Image.new("1", (13_000, 11_000)).save(folder / "a.png")
    yield folder / "a.png"


def npy_head(shape) -> bytes:
    head = BytesIO()
    npy.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return head.getvalue()


def test_a_file_that_claims_too_much_is_refused_at_once(tmp_path):
    """In a process of its own, so that its memory can be told: at most 200 MB each, and a second of processor time
    where the piece of work takes 0.4 s. A machine may be slow for a while: what takes long does so three times.
    """
    paths = [str(path) for path in hostile(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "host/site")}
    found = subprocess.run([sys.executable, "-c", REFUSED, *paths], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr[-2000:]
    lines = found.stdout.splitlines()
    assert len(lines) == len(paths), found.stdout
    for path, line in zip(paths, lines, strict=True):
        print(Path(path).name, line)
        sentence, works, megabytes = line.rsplit("|", 2)
        assert len(sentence) < 700 and float(works) < 2.5 and float(megabytes) < 200, (path, line)


REFUSED = """
import sys, time
from pathlib import Path
import piece_of_work
from gld_core.io.cameras import read_scene
from gld_core.io.scenes import view_numbers

def resident(most):
    return int(Path("/proc/self/status").read_text().split("VmHWM:" if most else "VmRSS:")[1].split()[0]) / 1024

def read(path):
    scene = read_scene(path, None, (28, 42), fov=50.0)
    scene.load([0], []) if scene.posed else scene.photographs([0])

def refused(path):
    start = time.process_time()
    try:
        read(path)
    except ValueError as error:
        return str(error), time.process_time() - start
    sys.exit(f"{path} was read")

work = piece_of_work.seconds()
for path in sys.argv[1:]:
    # The most that was resident starts anew from what is.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident(False)
    sentence, seconds = refused(path)
    megabytes = resident(True) - before
    for _ in range(2):
        if seconds > 2.5 * work:
            work, seconds = piece_of_work.seconds(), refused(path)[1]
    print(sentence, seconds / work, megabytes, sep="|")
"""


def test_a_picture_that_would_grow_without_end_is_refused_by_its_head(tmp_path):
    """A kilobyte of 8 million pixels in one row, which at 504x14 would take 19 GB."""
    Image.new("1", (8_000_000, 1)).save(tmp_path / "a.png")
    with at_most(60), pytest.raises(ValueError, match="^a.png of 8000000x1 pixels is too long and narrow"):
        read_scene(tmp_path, 504).photographs([0])


@pytest.mark.parametrize("text", ["0-9999999," * 800, "0-19999, 5", "0-1," * 10_001])
def test_a_list_of_views_is_counted_before_it_is_made(text):
    start = time.process_time()
    tracemalloc.start()
    with pytest.raises(ValueError, match="lists more than 20000 views"):
        view_numbers(text, "The input 'targets'")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10e6 and time.process_time() - start < 1


def test_a_name_that_no_file_can_have_is_a_view_without_a_picture(files, tmp_path):
    content = json.loads((files / "transforms.json").read_text(encoding="utf-8"))
    content["frames"][0]["file_path"] = "n" * 5000
    (tmp_path / "transforms.json").write_text(json.dumps(content), encoding="utf-8")
    for path in (tmp_path, tmp_path / "transforms.json"):
        assert len(read_scene(path, None, (28, 42)).cameras) == 4


def test_a_colmap_model_of_no_images_is_a_sentence(tmp_path):
    colmap_files(tmp_path, images_bin=bytes(8))
    with pytest.raises(ValueError, match="holds no views"):
        read_scene(tmp_path)


def test_a_folder_whose_file_has_no_frames_is_a_sentence(tmp_path):
    (tmp_path / "transforms.json").write_text('{"frames": []}', encoding="utf-8")
    with pytest.raises(ValueError, match="holds no views"):
        read_scene(tmp_path)


def test_wrong_values_in_3d_cameras(room):
    infos = [
        {**info, "pixel_aspect": 1.0, "principal_point": {"x": 0.5, "y": 0.5}} for info in comfyui.to_load3d(room[2])
    ]
    for case in range(150):
        changed = altered(random.Random(case), infos)
        found = answer(case, comfyui.read_load3d, changed, 28, 42)
        assert found is None or usable(found[0]), case


def test_wrong_tensors_in_a_da3_geometry(room):
    _, depth, cameras = room
    geometry = {"depth": depth, "extrinsics": cameras.w2c[None, :, :3], "intrinsics": cameras.K[None]}
    for case in range(60):
        choose = random.Random(case)
        name = choose.choice(list(geometry))
        value = geometry[name]
        wrong = (None, value[0], value[None], value[:0], value[..., :1], value * math.nan, value * 1e30, value * 0)
        changed = {**geometry, name: choose.choice(wrong)}
        found = answer(case, comfyui.read_da3_geometry, changed)
        assert found is None or usable(found[0]), case


def test_nested_json_and_numbers_without_end(tmp_path):
    for text in ("[" * 100_000, '{"c2w": ' * 5000, '{"width": ' + "9" * 5000 + "}"):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"a\.json is not JSON .*; export it again"):
            cameras.read_cameras(tmp_path / "a.json")


def test_a_camera_file_in_another_encoding_is_read(files, tmp_path):
    text = (files / "realestate10k.txt").read_bytes().replace(b"example", b"ex\xe4mple")
    (tmp_path / "a.txt").write_bytes(text)
    assert len(cameras.read_cameras(tmp_path / "a.txt", 28, 42)[0]) == 4


# Cameras and pictures that the networks are given


def given_to_networks(c2w, K, height, width) -> list[torch.Tensor]:
    cameras = Cameras(c2w, K, height, width)
    check_scene(cameras, 2)
    views = gld_core.Views("da3", cameras, *torch.zeros(2, 2, 8, 2, 3), torch.zeros(8))
    return [value for level in (0, 1) for value in conditions(views, level, True).values()]


def test_cameras_no_network_could_take(room):
    cameras = room[2]
    for case in range(300):
        choose = random.Random(case)
        c2w, K, size = cameras.c2w.double(), cameras.K.double(), [28, 42]
        matrices = choose.choice((c2w, K))
        kind = choose.randrange(8)
        if kind < 4:
            matrices[choose.randrange(4), choose.randrange(3), choose.randrange(3)] = choose.choice(NUMBERS)
        elif kind == 4:
            c2w[:, :3, choose.choice((0, 3, slice(3)))] *= choose.choice((*NUMBERS, -1, 2, 1.03))
        elif kind == 5:
            K *= choose.choice((0, 0.5, -1, 1e30))
        elif kind == 6:
            size[choose.randrange(2)] = choose.choice((0, -28, 1, 10**9, 10**30, math.nan))
        else:
            c2w = choose.choice((c2w[:3], c2w[:, :3], c2w[0], c2w[:0], c2w.transpose(1, 2)))

        found = answer(case, given_to_networks, c2w, K, *size)
        assert found is None or all(torch.isfinite(value).all() for value in found), case


def test_focal_lengths_no_lens_has(room):
    for focal in (1e-3, 1e6, 1e30):
        K = room[2].K.clone()
        K[2, 0, 0] = focal
        with pytest.raises(ValueError, match="K of view 2 has focal lengths .* give focal lengths in pixels"):
            Cameras(room[2].c2w, K, 28, 42).check()


def test_a_k_that_has_no_inverse(room):
    K = room[2].K.clone()
    K[1, 2, 2] = 0
    with pytest.raises(ValueError, match=r"K of view 1 is not \[\[fx, skew, cx\]"):
        Cameras(room[2].c2w, K, 28, 42).check()


@pytest.fixture(scope="module")
def gld(random_models):
    return gld_core.load(random_models)


def test_pictures_of_any_shape_type_and_value(gld, room):
    images, _, cameras = room
    for case in range(60):
        choose = random.Random(case)
        shape = (
            choose.choice((0, 1, 2)),
            choose.choice((3, 3, 3, 1, 2, 4)),
            *choose.choice(((28, 42), (28, 41), (0, 42))),
        )
        x = torch.rand(shape, generator=torch.Generator().manual_seed(case))
        if x.numel() and choose.random() < 0.3:
            x.view(-1)[choose.randrange(x.numel())] = choose.choice((math.nan, math.inf, -5.0, 255.0))
        changes = (x.double(), x.half(), (x * 255).byte(), x > 0.5, x.to(torch.complex64), x[None], x.movedim(1, -1), x)
        given = choose.choice(changes)
        views = answer(case, gld.encode_views, given, cameras)
        if views is not None:
            assert torch.isfinite(views.level0).all() and torch.isfinite(views.level1).all(), case
            torch.testing.assert_close(views.level1, gld.encode_views(given.float(), cameras).level1)
    assert answer("as they are", gld.encode_views, images[:2], cameras) is not None


WRONG_SETTINGS = [
    {"cfg": math.nan},
    {"cfg": math.inf},
    {"shift": math.nan},
    {"shift": math.inf},
    {"shift": -1.0},
    {"steps": 0},
    {"seed": -1},
    {"seed": 2**70},
    {"noise": torch.zeros(3, 256, 2, 3)},
]


@pytest.mark.parametrize("wrong", WRONG_SETTINGS, ids=lambda wrong: f"{next(iter(wrong))}")
def test_settings_that_cannot_be_sampled_with(gld, room, wrong):
    views = gld.encode_views(room[0][:2], room[2])
    with pytest.raises(ValueError, match=next(iter(wrong))):
        gld.sample_level1(views, **{"steps": 1, **wrong})


def test_latents_that_are_not_finite_or_absurd_are_not_decoded(gld, room):
    views = gld.encode_views(room[0][:2], room[2])
    for value in (math.nan, math.inf, 1e30):
        latent = torch.zeros(views.latent_shape)
        latent[1, 2, 1, 1] = value
        for decode in (gld.decode_rgb, gld.decode_geometry):
            with pytest.raises(ValueError, match="level-1 latent has values that are not finite"):
                decode(views, latent, None)


def test_motions_with_any_setting(room):
    cameras = room[2]
    for case in range(150):
        choose = random.Random(case)
        name = choose.choice((*motions.MOTIONS, "interpolate", "keyframes", "x"))
        code = getattr(motions.MOTIONS.get(name), "__code__", None)
        names = code.co_varnames[2 : code.co_argcount] if code else ()
        settings = {setting: choose.choice((*NUMBERS, 0.3, 20, 360)) for setting in names}
        settings |= {"base": choose.choice((0, 0, 3, 4, -1)), "ease": choose.choice(("none", "in_out", "x"))}
        settings |= {"first_is_source": choose.random() < 0.5, "loop": choose.random() < 0.5}
        if name == "keyframes":
            settings["keys"] = cameras[choose.sample(range(4), choose.randrange(5))]
        depth, count = choose.choice((None, 1.0, *NUMBERS)), choose.choice((1, 2, 5, 0, -1))

        found = answer(case, motions.targets, cameras, name, count, depth, **settings)
        if found is not None:
            answer(case, check_scene, motions.join(cameras, found), 4)


# Scenes and names


def test_damaged_scenes(room, tmp_path):
    images, _, cameras = room
    for case in range(80):
        choose = random.Random(case)
        folder = tmp_path / str(case)
        write_scene(folder, images, cameras)
        path = choose.choice(sorted(folder.iterdir()))
        kind = choose.randrange(7)
        if kind < 3:
            path.write_bytes(damaged(choose, path.read_bytes()))
        elif kind == 3:
            path.unlink()
            path.symlink_to(choose.choice((path, "nowhere", folder)))
        elif kind == 4:
            array = choose.choice((np.eye(4) * 1j, np.array(["a"]), np.array([None]), np.zeros((4, 4, 4)), np.eye(3)))
            np.savez(path.with_suffix(".npz"), pose=array, intrinsic=np.eye(3))
        elif kind == 5:
            name = choose.choice(("a\nb", "a\\b", "²", "frame_" + "9" * 200, "\udcff", ".hidden", " "))
            path.rename(folder / (name + path.suffix))
        else:
            mode = choose.choice(("1", "L", "P", "LA", "RGBA", "CMYK", "I", "F", "YCbCr"))
            size = choose.choice(((42, 28), (1, 1), (1, 300), (28, 42)))
            Image.new("L", size, 99).convert(mode).save(folder / "frame_00001.tif")
            (folder / "frame_00001.png").unlink()
        found = answer(case, read_scene, folder, choose.choice((28, 56, 0, -14, 15)))
        shown = [] if found is None else [view for view in found.usable if found.views[view].picture]
        loaded = answer(case, found.load, shown, []) if found is not None and shown else None
        if loaded is not None:
            assert usable(loaded[1]) and torch.isfinite(loaded[0]).all(), case


def test_a_pipe_in_the_place_of_a_picture_is_refused(room, tmp_path):
    write_scene(tmp_path, room[0], room[2])
    (tmp_path / "frame_00000.png").unlink()
    os.mkfifo(tmp_path / "frame_00000.png")
    with pytest.raises(FileNotFoundError, match="frame_00000.png is missing, or no file"), at_most(10):
        read_scene(tmp_path, 28).load([0], [1])


@pytest.mark.parametrize("name", ["..", "../../x", "/tmp/x", "a/b", "a\\b", "a\0b", "", " ", "a\nb", "x" * 300, "c:x"])
def test_view_names_stay_in_their_folder(room, tmp_path, name):
    images, depth, cameras = room
    folder, cloud = tmp_path / "a" / "b" / "c", PointCloud(torch.rand(3, 3), torch.zeros(3, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="is no plain file name"):
        write_scene(folder, images[:1], cameras[0], [name])
    with pytest.raises(ValueError, match="is no plain file name"):
        write_nerfstudio_dataset(folder, ["0", "1", "2", name], PosedDepth(depth, cameras, images=images), cloud)
    assert not list(tmp_path.iterdir())


# Checkpoints


@pytest.fixture(scope="module")
def weights():
    return random_weights(dit_shapes(8, (16, 32), (2, 1), cascade=False), torch.Generator().manual_seed(0))


def parts(path) -> dict[str, tuple[int, int]]:
    """Where in a checkpoint what lies."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        end = 8 + struct.unpack("<Q", data[:8])[0]
        return {"header length": (0, 8), "header": (8, end), "tensors": (end, len(data))}
    with zipfile.ZipFile(path) as archive:
        pickled = next(part for part in archive.infolist() if part.filename.endswith("data.pkl"))
        begin = data.index(b"\x80\x02", pickled.header_offset)
        first = next(part for part in archive.infolist() if "/data/" in part.filename).header_offset
        return {
            "pickle's header": (pickled.header_offset, begin),
            "pickle": (begin, begin + pickled.file_size),
            "a tensor's header": (first, first + 30),
            "tensors": (first + 64, archive.start_dir),
            "directory": (archive.start_dir, len(data)),
        }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_one_changed_byte_in_a_checkpoint(weights, tmp_path, suffix):
    """All but tensor data of .safetensors, which has no checksum, is noticed or makes no difference."""
    path = tmp_path / f"model{suffix}"
    torch.save({"ema": weights}, path) if suffix == ".pt" else save_file(weights, path)
    data, kept = path.read_bytes(), checkpoints.split_pair_embedders(weights)
    for part, (begin, end) in parts(path).items():
        for case in range(25):
            choose = random.Random(f"{part} {case}")
            changed = bytearray(data)
            changed[choose.randrange(begin, end)] ^= choose.randrange(1, 256)
            path.unlink()
            path.write_bytes(changed)
            network = answer((part, case), checkpoints.load_diffusion, path, "da3", 1, dtype=torch.float16)
            if network is not None and (suffix, part) != (".safetensors", "tensors"):
                for name, value in network.state_dict().items():
                    assert torch.equal(value, kept[name].to(value)), (part, case, name)


def test_a_changed_weight_in_an_archive_is_noticed(weights, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"ema": weights}, path)
    begin, end = parts(path)["tensors"]
    data = bytearray(path.read_bytes())
    place = data.index(weights["s_projector.weight"].numpy().tobytes()[:64], begin, end)
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read: .*CRC-32.*; download it again"):
        checkpoints.load_diffusion(path, "da3", 1)


def test_an_archive_without_checksums_loads(weights, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"ema": weights}, tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert checkpoints.load_diffusion(tmp_path / "model.pt", "da3", 1).config.channels == 8


def test_tensors_of_any_shape_and_type_in_a_checkpoint(weights, tmp_path):
    path = tmp_path / "model.pt"
    for case in range(60):
        choose = random.Random(case)
        name = choose.choice(sorted(weights))
        value = weights[name]
        changes = (value[None], value.flatten(), value[:0], value[..., :1], value.to(torch.int16), torch.tensor(1.0))
        changes += (torch.cat([value, value]), value.to(torch.complex64), value > 0, None, "x")
        changed = choose.choice(changes)
        torch.save({"ema": {**weights, name: changed}}, path)
        if answer(case, checkpoints.load_diffusion, path, "da3", 1) is not None:
            assert changed.shape == value.shape and changed.is_floating_point(), (case, name)


def test_whole_numbers_in_the_place_of_weights(weights, tmp_path):
    torch.save({"ema": {**weights, "s_projector.bias": torch.zeros(32, dtype=torch.int16)}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: s_projector\.bias has torch\.int16 where weights are meant"):
        checkpoints.load_diffusion(tmp_path / "model.pt", "da3", 1)


@pytest.mark.parametrize("changed", ["{", "[]", "{}", '{"normalization0": 3}', '{"normalization0": {"mean": "x"}}'])
def test_damaged_statistics_in_a_converted_backbone(random_models, tmp_path, changed):
    source = checkpoints.find(random_models, "da3", "backbone")
    target = tmp_path / source.relative_to(random_models)
    target.parent.mkdir(parents=True)
    save_file(load_file(source), target, {checkpoints.STATISTICS_KEY: changed})
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read: .*; download it again\."):
        checkpoints.load_statistics(tmp_path, "da3", 256)


@pytest.mark.parametrize("variance", [torch.ones(1, 1, 1, 1), torch.ones(1, 512, 1, 1), torch.ones(0), "x"])
def test_statistics_of_another_length_than_the_mean(random_models, tmp_path, variance):
    target = tmp_path / "pretrained_models/da3/model.safetensors"
    target.parent.mkdir(parents=True)
    target.symlink_to(checkpoints.find(random_models, "da3", "backbone"))
    folder = tmp_path / "model_stats/da3"
    folder.mkdir(parents=True)
    for level in (0, 1):
        torch.save(
            {"mean": torch.zeros(1, 256, 1, 1), "var": variance}, folder / f"normalization_stats_level{level}.pt"
        )
    with pytest.raises(ValueError, match="normalization_stats_level0.pt"):
        checkpoints.load_statistics(tmp_path, "da3", 256)
