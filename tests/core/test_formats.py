"""Cameras of other programs: a cube of known corners lands on the pixels where COLMAP itself sees it.

data/cube was written by data/make_cube.py with COLMAP's own Python package. Each importer must put the corners within
0.01 pixels of those in cube.json.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gld_core.cameras import Cameras
from gld_core.io.cameras import read_cameras, read_scene
from gld_core.io.colmap import read_colmap_points, write_colmap
from gld_core.io.comfyui import read_da3_geometry, read_load3d, to_load3d
from gld_core.io.matrices import parse_matrices
from gld_core.io.nerfstudio import write_transforms

CUBE = Path(__file__).parent / "data" / "cube"
TRUTH = json.loads((CUBE / "cube.json").read_text(encoding="utf-8"))
CORNERS = np.array(TRUTH["points"])
NAMES = ["photo_1.jpg", "photo_2.jpg", "photo_3.jpg", "photo_10.jpg"]
HEIGHT, WIDTH = 70, 98
FLIP = np.diag([1.0, -1, -1, 1])


def cube_in_numbers():
    """(w2c 4x4, K 3x3) per name, from COLMAP's text file by plain arithmetic: columns are the rotated axes."""
    cameras, images = {}, {}
    for line in (CUBE / "text" / "cameras.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            number, kind, _, _, *p = line.split()
            p = [float(value) for value in p]
            fx, fy, cx, cy = p[:4] if kind in ("PINHOLE", "OPENCV") else (p[0], *p[:3])
            cameras[number] = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    for line in (CUBE / "text" / "images.txt").read_text(encoding="utf-8").splitlines():
        if line.endswith(".jpg"):
            _, *values, number, name = line.split()
            w, *u = (float(value) for value in values[:4])
            u, w2c = np.array(u), np.eye(4)
            w2c[:3, :3] = [2 * (w * np.cross(u, e) + np.cross(u, np.cross(u, e))) + e for e in np.eye(3)]
            w2c[:3, :3] = w2c[:3, :3].T
            w2c[:3, 3] = [float(value) for value in values[4:]]
            images[name] = (w2c, cameras[number])
    return images


IMAGES = cube_in_numbers()
W2C, K = (np.stack([IMAGES[name][i] for name in NAMES]) for i in (0, 1))
C2W = np.linalg.inv(W2C)


def reprojection_error(cameras: Cameras, names=NAMES, shown=NAMES) -> float:
    """Largest distance in pixels between a corner seen by `cameras` and by COLMAP."""
    worst = 0.0
    for c2w, K, name in zip(cameras.c2w.double().numpy(), cameras.K.double().numpy(), shown, strict=True):
        seen = (np.linalg.inv(c2w) @ np.c_[CORNERS, np.ones(len(CORNERS))].T)[:3]
        pixels = (K @ seen / seen[2])[:2].T
        worst = max(worst, np.abs(pixels - TRUTH["pixels"][name]).max())
    return worst


def write_json(path: Path, content) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def frames(c2w=C2W, **extra):
    return [
        {"file_path": f"images/{name}", "transform_matrix": (pose @ FLIP).tolist()} | extra
        for name, pose in zip(NAMES, c2w, strict=True)
    ]


NARROW = frames(w=50, cx=25, file_path="images/photo_11.jpg")[0]


def intrinsics(view):
    return {"fl_x": K[view, 0, 0], "fl_y": K[view, 1, 1], "cx": K[view, 0, 2], "cy": K[view, 1, 2]}


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_a_colmap_model_puts_the_corners_where_colmap_does(kind):
    cameras, names = read_cameras(CUBE / kind)
    assert names == NAMES and (cameras.height, cameras.width) == (HEIGHT, WIDTH)
    assert reprojection_error(cameras) < 0.01


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_the_points_of_a_colmap_model_are_the_corners(kind):
    xyz, rgb = read_colmap_points(CUBE / kind)
    order = rgb[:, 0].argsort()
    assert np.abs(xyz[order].numpy() - CORNERS).max() < 1e-6
    assert torch.equal(rgb[order, 1], 255 - torch.arange(150, dtype=torch.uint8))


def test_transforms_of_nerfstudio_have_opengl_axes_and_intrinsics_per_frame(tmp_path):
    content = {"w": WIDTH, "h": HEIGHT, "frames": [frame | intrinsics(i) for i, frame in enumerate(frames())]}
    cameras, names = read_cameras(write_json(tmp_path / "transforms.json", content))
    assert names == [f"images/{name}" for name in NAMES]
    assert reprojection_error(cameras) < 0.01


def test_transforms_take_intrinsics_from_the_file_where_frames_have_none(tmp_path):
    content = {"w": WIDTH, "h": HEIGHT, "k1": 0.0, **intrinsics(2), "frames": frames()[2:3]}
    cameras, _ = read_cameras(write_json(tmp_path / "transforms.json", content))
    assert reprojection_error(cameras, shown=NAMES[2:3]) < 0.01
    angle = 2 * np.arctan(WIDTH / 2 / 80)
    content = {"w": WIDTH, "h": HEIGHT, "camera_angle_x": angle, "frames": frames()}
    K = read_cameras(write_json(tmp_path / "transforms.json", content))[0].K[0]
    assert torch.allclose(K, torch.tensor([[80.0, 0, 49], [0, 80, 35], [0, 0, 1]]))


def test_the_applied_transform_of_nerfstudio_is_undone(tmp_path):
    applied = np.array([[0.0, 1, 0, 0.5], [1, 0, 0, -2], [0, 0, -1, 3]])
    moved = np.r_[applied, [[0, 0, 0, 1]]] @ C2W
    content = {"w": WIDTH, "h": HEIGHT, "applied_transform": applied.tolist()}
    content["frames"] = [frame | intrinsics(i) for i, frame in enumerate(frames(moved))]
    assert reprojection_error(read_cameras(write_json(tmp_path / "transforms.json", content))[0]) < 0.01


def test_realestate10k_has_intrinsics_as_shares_and_world_to_camera(tmp_path):
    lines = ["https://www.youtube.com/watch?v=abc"]
    for i in range(4):
        shares = K[i, 0, 0] / WIDTH, K[i, 1, 1] / HEIGHT, K[i, 0, 2] / WIDTH, K[i, 1, 2] / HEIGHT
        lines.append(" ".join(str(value) for value in (1000 * i, *shares, 0, 0, *W2C[i, :3].ravel())))
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    cameras, names = read_cameras(tmp_path / "a.txt", HEIGHT, WIDTH)
    assert names == ["0", "1000", "2000", "3000"] and reprojection_error(cameras) < 0.01


@pytest.mark.parametrize("kind", ["c2w", "w2c"])
@pytest.mark.parametrize("axes", ["opencv", "opengl"])
def test_matrices_come_either_way_round_and_with_either_axes(kind, axes):
    poses = C2W @ (FLIP if axes == "opengl" else np.eye(4))
    content = {kind: (poses if kind == "c2w" else np.linalg.inv(poses)).tolist(), "axes": axes, "K": K.tolist()}
    cameras, names = parse_matrices(content, HEIGHT, WIDTH)
    assert len(names) == 4 and reprojection_error(cameras) < 0.01


def test_da3_geometry_of_the_core_is_scaled_from_the_size_the_network_worked_at():
    centred = K.copy()
    centred[:, 0, 2], centred[:, 1, 2] = WIDTH / 2, HEIGHT / 2
    geometry = {
        "depth": torch.ones(4, 2 * HEIGHT + 10, 3 * WIDTH),
        "extrinsics": torch.tensor(W2C[None, :, :3]),
        "intrinsics": torch.tensor(centred[None]),
    }
    cameras, _ = read_da3_geometry(geometry)
    enlarged = centred * np.array([3, 150 / HEIGHT, 1])[:, None]
    assert np.abs(cameras.K.numpy() - enlarged).max() < 1e-4 and (cameras.height, cameras.width) == (150, 294)
    own = geometry | {"depth": torch.ones(4, HEIGHT, WIDTH), "intrinsics": torch.tensor(K[None])}
    assert reprojection_error(read_da3_geometry(own)[0]) < 0.01


def test_camera_path_of_nerfstudio_has_a_vertical_field_of_view(tmp_path):
    entries = [
        {
            "camera_to_world": (pose @ FLIP).ravel().tolist(),
            "fov": np.degrees(2 * np.arctan(HEIGHT / 2 / 80)),
            "aspect": 1.4,
        }
        for pose in C2W
    ]
    content = {"camera_type": "perspective", "render_height": HEIGHT, "render_width": WIDTH, "camera_path": entries}
    cameras, _ = read_cameras(write_json(tmp_path / "camera_path.json", content))
    assert np.abs(cameras.c2w.numpy() - C2W).max() < 1e-6
    assert torch.allclose(cameras.K, torch.tensor([[80.0, 0, 49], [0, 80, 35], [0, 0, 1]]))


def centred_error(cameras: Cameras, shown=NAMES) -> float:
    """`reprojection_error` of cameras whose K is COLMAP's with the principal point in the middle."""
    cameras = Cameras(cameras.c2w, torch.tensor(np.stack([IMAGES[name][1] for name in shown])), HEIGHT, WIDTH)
    return reprojection_error(cameras, shown=shown)


def test_cameras_of_gaussian_splats_are_camera_to_world_with_opencv_axes(tmp_path):
    entries = [
        {"id": i, "img_name": name, "width": WIDTH, "height": HEIGHT, "position": pose[:3, 3].tolist(),
         "rotation": pose[:3, :3].tolist(), "fx": k[0, 0], "fy": k[1, 1]}
        for i, (name, pose, k) in enumerate(zip(NAMES, C2W, K, strict=True))
    ]  # fmt: skip
    cameras, names = read_cameras(write_json(tmp_path / "cameras.json", entries))
    assert names == NAMES and centred_error(cameras) < 0.01
    assert np.allclose(cameras.K[:, [0, 1, 0, 1], [0, 1, 2, 2]], np.c_[K[:, 0, 0], K[:, 1, 1], [[49, 35]] * 4])


def test_results_of_depth_anything_have_world_to_camera_and_the_size_of_their_depth(tmp_path):
    folder = tmp_path / "exports/npz"
    folder.mkdir(parents=True)
    depth = np.zeros((4, HEIGHT, WIDTH), np.float32)
    np.savez_compressed(folder / "results.npz", depth=depth, extrinsics=W2C[:, :3], intrinsics=K)
    assert reprojection_error(read_cameras(folder / "results.npz")[0]) < 0.01
    assert reprojection_error(read_cameras(tmp_path)[0]) < 0.01


def test_poses_bounds_of_llff_have_axes_down_right_back_and_the_pictures_in_order(tmp_path):
    rows = []
    for pose in C2W:
        right, down, forward, centre = pose[:3].T
        size = [HEIGHT, WIDTH, 80.0]
        rows.append(np.r_[np.c_[down, right, -forward, centre, size].ravel(), 0.1, 9.0])
    np.save(tmp_path / "poses_bounds.npy", np.array(rows))
    for name in NAMES:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    scene = read_scene(tmp_path, None)
    assert [view.picture.name for view in scene.views] == NAMES
    assert np.abs(scene.cameras.c2w.numpy() - C2W).max() < 1e-6 and scene.cameras.K[0, 0, 0] == 80


def test_opensfm_turns_by_an_axis_times_an_angle_and_measures_in_the_longer_side(tmp_path):
    cameras = {
        name: {"projection_type": "brown", "width": WIDTH, "height": HEIGHT, "focal_x": k[0, 0] / WIDTH,
               "focal_y": k[1, 1] / WIDTH, "c_x": (k[0, 2] - WIDTH / 2) / WIDTH, "c_y": (k[1, 2] - HEIGHT / 2) / WIDTH}
        for name, k in zip(NAMES, K, strict=True)
    }  # fmt: skip
    shots = {}
    for name, w2c in zip(NAMES, W2C, strict=True):
        values, vectors = np.linalg.eig(w2c[:3, :3])
        axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
        skew = np.array([w2c[2, 1] - w2c[1, 2], w2c[0, 2] - w2c[2, 0], w2c[1, 0] - w2c[0, 1]])
        angle = np.arctan2(skew @ axis, np.trace(w2c[:3, :3]) - 1)
        shots[name] = {"camera": name, "rotation": (axis * angle).tolist(), "translation": w2c[:3, 3].tolist()}
    content = [{"cameras": cameras, "shots": shots, "points": {}}]
    found, names = read_cameras(write_json(tmp_path / "reconstruction.json", content))
    assert names == NAMES and reprojection_error(found) < 0.01


def metashape_xml(extra="", component="") -> str:
    sensors, cameras = "", ""
    for i, (name, pose, k) in enumerate(zip(NAMES, C2W, K, strict=True)):
        cx, cy = k[0, 2] - WIDTH / 2, k[1, 2] - HEIGHT / 2
        sensors += (
            f'<sensor id="{i}" type="frame"><resolution width="{WIDTH}" height="{HEIGHT}"/><calibration type="frame" '
            f'class="adjusted"><f>{k[0, 0]}</f><cx>{cx}</cx><cy>{cy}</cy></calibration></sensor>'
        )
        transform = " ".join(map(repr, pose.ravel().tolist()))
        cameras += f'<camera id="{i}" sensor_id="{i}" label="{name}" component_id="0">'
        cameras += f"<transform>{transform}</transform></camera>"
    cameras += '<camera id="9" sensor_id="0" label="lost.jpg"/>'
    return (
        f'<?xml version="1.0"?>{extra}<document version="1.5.0"><chunk label="1"><sensors>{sensors}</sensors>'
        f"<components>{component}</components><cameras>{cameras}</cameras></chunk></document>"
    )


def test_metashape_has_camera_to_world_and_leaves_out_what_was_not_aligned(tmp_path):
    (tmp_path / "cameras.xml").write_text(metashape_xml(), encoding="utf-8")
    scene = read_scene(tmp_path / "cameras.xml", None)
    cameras = scene.cameras
    # Its lenses have one focal length.
    meant = torch.tensor(K)
    meant[:, 1, 1] = meant[:, 0, 0]
    assert len(scene) == 5 and "lost.jpg was not aligned" in scene.left_out()
    assert np.abs(cameras.c2w.numpy() - C2W).max() < 1e-6 and torch.allclose(cameras.K.double(), meant)


def test_a_component_of_metashape_is_brought_to_the_chunk(tmp_path):
    part = '<component id="0"><transform><rotation>0 -1 0 1 0 0 0 0 1</rotation><translation>1 2 3</translation>'
    component = f"{part}<scale>2</scale></transform></component>"
    (tmp_path / "a.xml").write_text(metashape_xml(component=component), encoding="utf-8")
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    found = read_cameras(tmp_path / "a.xml")[0].c2w.numpy()
    assert np.abs(found[:, :3, 3] - (2 * C2W[:, :3, 3] @ turned.T + [1, 2, 3])).max() < 1e-5
    assert np.abs(found[:, :3, :3] - turned @ C2W[:, :3, :3]).max() < 1e-6


def test_entities_in_xml_are_refused_before_they_grow(tmp_path):
    entities = "".join(f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (tmp_path / "a.xml").write_text(metashape_xml(f'<!DOCTYPE x [<!ENTITY a "x">{entities}]>'), encoding="utf-8")
    with pytest.raises(ValueError, match="declares a document type"):
        read_cameras(tmp_path / "a.xml")


def test_realitycapture_looks_down_with_the_upper_edge_to_the_north(tmp_path):
    """Heading east by 90 degrees, pitch 0: the picture's upper edge is east; pitch 90: it looks north, upright."""
    rows = ["#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"]
    rows += ["a.jpg,1,2,3,90,0,0,36,0.01,-0.02,0,0,0,0,0,0", "b.jpg,4,5,6,0,90,0,24,0,0,0,0,0,0,0,0"]
    (tmp_path / "poses.csv").write_text("\n".join(rows), encoding="utf-8")
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{name}.jpg")
    cameras = read_scene(tmp_path, None).cameras
    right, down, forward, centre = cameras.c2w[0, :3].numpy().T
    assert np.allclose(forward, [0, 0, -1], atol=1e-6) and np.allclose(down, [-1, 0, 0], atol=1e-6)
    assert np.allclose(right, [0, -1, 0], atol=1e-6) and np.allclose(centre, [1, 2, 3])
    assert np.allclose(cameras.c2w[1, :3, 2], [0, 1, 0], atol=1e-6)
    assert np.allclose(cameras.c2w[1, :3, 1], [0, 0, -1], atol=1e-6)
    assert torch.allclose(cameras.K[0], torch.tensor([[98.0, 0, 49.98], [0, 98, 33.04], [0, 0, 1]]))
    assert cameras.K[1, 0, 0].item() == pytest.approx(24 / 36 * 98)


def test_bundler_has_world_to_camera_with_opengl_axes_and_names_in_its_list(tmp_path):
    lines = ["# Bundle file v0.3", "5 0"]
    for w2c in FLIP @ W2C:
        lines += ["80.0 0 0", *(" ".join(map(repr, row.tolist())) for row in (*w2c[:3, :3], w2c[:3, 3]))]
    lines += ["0 0 0", "0 0 0", "0 0 0", "0 0 0", "0 0 0"]
    (tmp_path / "bundle.out").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "list.txt").write_text("\n".join(f"./{name} 0 80" for name in [*NAMES, "lost.jpg"]), encoding="utf-8")
    for name in NAMES:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
    scene = read_scene(tmp_path, None)
    assert "lost.jpg" in scene.left_out() and [Path(view.name).name for view in scene.views][1:] == NAMES
    assert np.abs(scene.cameras.c2w.numpy() - C2W).max() < 1e-6 and scene.cameras.K[0, 0, 0] == 80


def test_keyframes_of_polycam_are_arkits_cameras_with_their_pictures(tmp_path):
    for folder in ("corrected_cameras", "corrected_images", "images", "cameras"):
        (tmp_path / "keyframes" / folder).mkdir(parents=True)
    for place, (pose, k) in enumerate(zip(C2W, K, strict=True)):
        entry = {f"t_{i}{j}": (pose @ FLIP)[i, j] for i in range(3) for j in range(4)}
        entry |= {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "width": WIDTH, "height": HEIGHT}
        write_json(tmp_path / f"keyframes/corrected_cameras/{place}.json", entry)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"keyframes/corrected_images/{place}.jpg")
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"keyframes/images/{place}.jpg")
    scene = read_scene(tmp_path, None)
    assert scene.views[2].picture == tmp_path / "keyframes/corrected_images/2.jpg"
    assert reprojection_error(scene.cameras) < 0.01


def quaternion(R: np.ndarray) -> list[float]:
    """xyzw of a rotation without a half turn."""
    w = np.sqrt(1 + np.trace(R)) / 2
    return [(R[2, 1] - R[1, 2]) / 4 / w, (R[0, 2] - R[2, 0]) / 4 / w, (R[1, 0] - R[0, 1]) / 4 / w, w]


def test_record3d_has_quaternions_and_k_column_by_column(tmp_path):
    poses = [[*quaternion((pose @ FLIP)[:3, :3]), *pose[:3, 3].tolist()] for pose in C2W]
    content = {"w": WIDTH, "h": HEIGHT, "K": K[0].T.ravel().tolist(), "poses": poses, "fps": 60}
    write_json(tmp_path / "metadata.json", content)
    scene = read_scene(tmp_path, None)
    assert np.abs(scene.cameras.c2w.numpy() - C2W).max() < 1e-6 and np.allclose(scene.cameras.K[1], K[0])


def test_a_tum_trajectory_gives_each_picture_the_pose_nearest_in_time(tmp_path):
    times = [1.0, 1.01, 2.0, 3.0]
    rows = [
        f"{time} {' '.join(map(repr, [*pose[:3, 3].tolist(), *map(float, quaternion(pose[:3, :3]))]))}"
        for time, pose in zip(times, C2W, strict=True)
    ]
    (tmp_path / "groundtruth.txt").write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(rows), encoding="utf-8")
    scene = read_scene(tmp_path, None, (HEIGHT, WIDTH), fov=90.0)
    assert np.abs(scene.cameras.c2w.numpy() - C2W).max() < 1e-6
    assert torch.allclose(scene.cameras.K[0], torch.tensor([[49.0, 0, 49], [0, 49, 35], [0, 0, 1]]))
    (tmp_path / "rgb").mkdir()
    for name in ("1.008", "2.015", "2.5"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"rgb/{name}.png")
    scene = read_scene(tmp_path, None, fov=90.0)
    assert np.abs(scene.cameras.c2w.numpy() - C2W[[1, 2]]).max() < 1e-6
    assert "no pose within 0.02 s of 2.5" in scene.left_out()
    with pytest.raises(ValueError, match="poses without a lens; give 'fov'"):
        read_scene(tmp_path)


def test_kitti_poses_take_the_lens_of_their_calibration(tmp_path):
    (tmp_path / "poses.txt").write_text(
        "\n".join(" ".join(map(repr, pose[:3].ravel().tolist())) for pose in C2W), encoding="utf-8"
    )
    P0, P2 = np.c_[K[0], np.zeros(3)], np.c_[K[1], K[1] @ [-0.5, 0, 0]]
    calibration = [f"P{name}: {' '.join(map(repr, P.ravel().tolist()))}" for name, P in ((0, P0), (2, P2))]
    (tmp_path / "calib.txt").write_text("\n".join(calibration), encoding="utf-8")
    cameras = read_scene(tmp_path, None, (HEIGHT, WIDTH)).cameras
    assert np.abs(cameras.c2w.numpy() - C2W).max() < 1e-6 and np.allclose(cameras.K, K[0])
    (tmp_path / "image_2").mkdir()
    for place in range(4):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"image_2/{place:06}.png")
    beside = read_scene(tmp_path, None)
    assert beside.views[3].picture.name == "000003.png" and np.allclose(beside.cameras.K, K[1])
    assert np.abs(beside.cameras.c2w.numpy()[:, :3, 3] - (C2W @ [0.5, 0, 0, 1])[:, :3]).max() < 1e-6


def three_js_pixels(info: dict, points: np.ndarray) -> np.ndarray:
    """Where three.js draws world points: PerspectiveCamera with fov, aspect and zoom, its quaternion turning it."""
    q, w = np.array([info["quaternion"][axis] for axis in "xyz"]), info["quaternion"]["w"]
    eye = np.array([info["position"][axis] for axis in "xyz"])
    away = points - eye
    turned = away - 2 * w * np.cross(q, away) + 2 * np.cross(q, np.cross(q, away))
    top = np.tan(np.radians(info["fov"]) / 2) / info["zoom"]
    x = turned[:, 0] / -turned[:, 2] / (top * info["aspect"])
    y = turned[:, 1] / -turned[:, 2] / top
    return np.stack([(x + 1) / 2 * WIDTH, (1 - y) / 2 * HEIGHT], axis=1)


def test_a_3d_view_sees_the_corners_at_the_same_pixels():
    centred = torch.tensor(K)
    centred[:, :2, 2] = torch.tensor([WIDTH / 2, HEIGHT / 2])
    infos = to_load3d(Cameras(torch.tensor(C2W), centred, HEIGHT, WIDTH), distance=2)
    for view, info in enumerate(infos):
        pixels = three_js_pixels(info, CORNERS * [1, -1, -1])
        expected = np.array(TRUTH["pixels"][NAMES[view]]) - K[view, :2, 2] + [WIDTH / 2, HEIGHT / 2]
        assert np.abs(pixels - expected).max() < 0.01
        ahead = np.array([[info["target"][axis] for axis in "xyz"]])
        assert np.abs(three_js_pixels(info, ahead) - [WIDTH / 2, HEIGHT / 2]).max() < 1e-3


def test_a_3d_camera_without_quaternion_looks_at_its_target_upright_and_zoom_lengthens_the_lens():
    info = {"position": {"x": 0, "y": 0, "z": 3}, "target": {"x": 1, "y": 0, "z": 3}, "fov": 90, "zoom": 2}
    cameras, _ = read_load3d([info | {"cameraType": "perspective", "aspect": 1.4}], HEIGHT, WIDTH)
    assert torch.allclose(cameras.c2w[0, :3, 2], torch.tensor([1.0, 0, 0]))
    assert torch.allclose(cameras.c2w[0, :3, 1], torch.tensor([0.0, 1, 0]))
    assert torch.allclose(cameras.c2w[0, :3, 3], torch.tensor([0.0, 0, -3]))
    assert torch.allclose(cameras.K[0], torch.tensor([[70.0, 0, 49], [0, 70, 35], [0, 0, 1]]))


def test_a_3d_view_of_another_shape_keeps_pixels_square():
    info = {"position": {"x": 0, "y": 0, "z": 3}, "target": {"x": 0, "y": 0, "z": 0}, "fov": 90, "aspect": 1.0}
    cameras, _ = read_load3d([info], HEIGHT, WIDTH)
    assert torch.allclose(cameras.K[0], torch.tensor([[35.0, 0, 49], [0, 35, 35], [0, 0, 1]]))


def test_a_3d_camera_of_an_exported_scene_comes_back_to_the_scene():
    from gld_core.export.gltf import gltf_transform

    cameras = Cameras(torch.tensor(C2W), torch.tensor(K), HEIGHT, WIDTH)
    world = gltf_transform(torch.tensor(CORNERS), cameras.w2c[0])
    assert reprojection_error(read_load3d(to_load3d(cameras, world=world), HEIGHT, WIDTH, world)[0]) < 0.01


@pytest.fixture
def cameras():
    """20 cameras in every direction, some near the half turns where quaternions are delicate, 100 units across."""
    generator = torch.Generator().manual_seed(3)
    q, r = torch.linalg.qr(torch.randn(20, 3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.linalg.det(q)[:, None, None]
    q[0], q[1], q[2] = torch.eye(3), torch.diag(torch.tensor([1.0, -1, -1])), torch.diag(torch.tensor([-1.0, -1, 1]))
    c2w = torch.eye(4, dtype=torch.float64).repeat(20, 1, 1)
    c2w[:, :3, :3] = q
    c2w[:, :3, 3] = 100 * torch.rand(20, 3, generator=generator) - 50
    K = torch.tensor([[251.3, 0, 120.7], [0, 249.9, 81.2], [0, 0, 1]]).repeat(20, 1, 1)
    K[::2, :2, :2] *= 1.37
    return Cameras(c2w, K, 168, 238)


def through_transforms(cameras, folder):
    write_transforms(folder / "transforms.json", cameras, [{"file_path": f"{i:02d}.png"} for i in range(len(cameras))])
    return read_cameras(folder)[0]


def through_colmap(cameras, folder, binary):
    write_colmap(folder, cameras, [f"{i:02d} a.png" for i in range(len(cameras))], binary=binary)
    back, names = read_cameras(folder)
    assert names == [f"{i:02d} a.png" for i in range(len(cameras))]
    return back


@pytest.mark.parametrize(
    "round_trip",
    [
        through_transforms,
        lambda cameras, folder: through_colmap(cameras, folder, True),
        lambda cameras, folder: through_colmap(cameras, folder, False),
        lambda cameras, folder: read_load3d(json.loads(json.dumps(to_load3d(cameras))), 168, 238)[0],
    ],
    ids=["transforms", "colmap binary", "colmap text", "load3d"],
)
def test_a_round_trip_loses_less_than_a_millionth(cameras, tmp_path, round_trip):
    back = round_trip(cameras, tmp_path)
    assert (back.height, back.width) == (168, 238)
    assert (back.c2w[:, :3, :3] - cameras.c2w[:, :3, :3]).abs().max() < 1e-6
    assert (back.c2w[:, :3, 3] - cameras.c2w[:, :3, 3]).abs().max() < 1e-6 * 100
    assert (back.K - cameras.K).abs().max() < 1e-6 * 238


def test_points_written_to_a_colmap_model_are_read_back(cameras, tmp_path):
    xyz, rgb = torch.randn(50, 3), torch.randint(0, 256, (50, 3), dtype=torch.uint8)
    for binary in (True, False):
        write_colmap(tmp_path / str(binary), cameras, [str(i) for i in range(20)], xyz, rgb, binary)
        back = read_colmap_points(tmp_path / str(binary))
        assert torch.equal(back[0], xyz) and torch.equal(back[1], rgb)


def colmap_with(folder, camera="1 PINHOLE 98 70 80 80 49 35", image="1 1 0 0 0 0 0 0 1 a.jpg"):
    (folder / "cameras.txt").write_text(camera + "\n", encoding="utf-8")
    (folder / "images.txt").write_text(image + "\n\n", encoding="utf-8")
    return read_cameras(folder)


@pytest.mark.parametrize(
    "read, message",
    [
        (lambda f: read_cameras(f / "gone"), "gone does not exist"),
        (lambda f: read_cameras(f), "has 0 views"),
        (lambda f: read_scene(f), "neither pictures nor cameras"),
        (lambda f: colmap_with(f, "1 SIMPLE_RADIAL 98 70 80 49 35 0.02"), r"parameter 4 = 0.02.*undistort"),
        (lambda f: colmap_with(f, "1 OPENCV_FISHEYE 98 70 80 80 49 35 0 0 0 0"), "OPENCV_FISHEYE, which is no pinhole"),
        (lambda f: colmap_with(f, "1 PINHOLE 98 70 80 80 49"), "3 parameters where PINHOLE has 4"),
        (lambda f: colmap_with(f, "1 PINHOLE ninety"), "cameras.txt has a line that cannot be read"),
        (lambda f: colmap_with(f, image="1 1 0 0 0 0 0 0 7 a.jpg"), "a.jpg has camera 7, which is not"),
        (lambda f: colmap_with(f, "1 PINHOLE 49 35 80 80 49 35"), "a.jpg has its principal point.*another image size"),
        (
            lambda f: read_cameras(write_json(f / "t.json", {"fl_x": 80, "frames": frames()})),
            "photo_1.jpg has no image size and no picture",
        ),
        (
            lambda f: read_cameras(write_json(f / "t.json", {"w": 98, "h": 70, "frames": frames()})),
            "no focal length",
        ),
        (
            lambda f: read_cameras(
                write_json(f / "t.json", {"w": 98, "h": 70, "fl_x": 80, "k1": 0.1, "frames": frames()})
            ),
            r"photo_1.jpg has lens distortion \(k1 = 0.1\)",
        ),
        (
            lambda f: read_cameras(
                write_json(
                    f / "t.json",
                    {
                        "w": 98,
                        "h": 70,
                        "fl_x": 80,
                        "frames": [*frames(), frames(w=50, cx=25, file_path="images/photo_11.jpg")[0]],
                    },
                )
            ),
            r"images of 98x70 \(.*photo_1.jpg\) and of 50x70 \(.*photo_11.jpg\); choose views of one size",
        ),
        (lambda f: read_cameras(write_json(f / "t.json", [1])), "holds no cameras; give an object with 'c2w' or 'w2c'"),
        (lambda f: parse_matrices({"c2w": [[1, 2]], "K": K[0].tolist(), "width": 9, "height": 9}), "c2w 0 has shape"),
        (
            lambda f: parse_matrices({"c2w": C2W.tolist(), "K": K.tolist()}),
            "no image size and no picture",
        ),
        (
            lambda f: parse_matrices({"c2w": C2W.tolist(), "K": K[:2].tolist()}, 70, 98),
            "one 3x3 matrix in pixels, or a list of 4",
        ),
        (lambda f: parse_matrices({"c2w": C2W.tolist(), "k": 1}, 70, 98), "has an entry 'k'"),
        (
            lambda f: parse_matrices({"c2w": (C2W @ np.diag([1, 1, -1, 1])).tolist(), "K": K.tolist()}, 70, 98),
            "mirrored",
        ),
        (lambda f: read_load3d([{"cameraType": "orthographic"}], 70, 98), "3D camera 0 is orthographic"),
        (lambda f: read_load3d([{"position": {"x": 1}}], 70, 98), "no position"),
        (lambda f: read_da3_geometry({"depth": torch.ones(1, 4, 4)}), "holds no cameras"),
    ],
)
def test_what_no_camera_can_be_read_from_gets_its_sentence(tmp_path, read, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_cut_binary_model_is_named(tmp_path):
    for name in ("cameras.bin", "images.bin"):
        (tmp_path / name).write_bytes((CUBE / "binary" / name).read_bytes())
    (tmp_path / "images.bin").write_bytes((CUBE / "binary" / "images.bin").read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"images.bin ends before its content does"):
        read_cameras(tmp_path)


@pytest.mark.parametrize(
    "camera, fy",
    [
        ("SIMPLE_PINHOLE 98 70 80 49 35", 80),
        ("PINHOLE 98 70 80 81 49 35", 81),
        ("SIMPLE_RADIAL 98 70 80 49 35 0", 80),
        ("RADIAL 98 70 80 49 35 0 0", 80),
        ("OPENCV 98 70 80 81 49 35 0 0 0 0", 81),
        ("FULL_OPENCV 98 70 80 81 49 35 0 0 0 0 0 0 0 0", 81),
    ],
)
def test_every_camera_model_of_colmap_has_its_lens_where_colmap_has_it(tmp_path, camera, fy):
    """The order of parameters is that of COLMAP's page about camera models."""
    cameras, _ = colmap_with(tmp_path, f"1 {camera}")
    assert cameras.K[0].tolist() == [[80, 0, 49], [0, fy, 35], [0, 0, 1]]


def test_distortion_can_be_ignored(tmp_path):
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_RADIAL 98 70 80 49 35 0.02\n", encoding="utf-8")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.jpg\n\n", encoding="utf-8")
    assert read_cameras(tmp_path, ignore_distortion=True)[0].K[0, 0, 0] == 80


def test_a_skew_that_a_format_cannot_hold_is_not_dropped_silently(cameras, tmp_path):
    K = cameras.K.clone()
    K[3, 0, 1] = 2
    skewed = Cameras(cameras.c2w, K, 168, 238)
    with pytest.raises(ValueError, match="K of view 3 has a skew, which a COLMAP model cannot hold"):
        write_colmap(tmp_path, skewed, [""] * 20)


def test_realestate10k_names_the_line_it_cannot_read(tmp_path):
    (tmp_path / "a.txt").write_text(
        "https://x\n1 0.5 0.5 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n2 0.5\n", encoding="utf-8"
    )
    with pytest.raises(ValueError, match="line 3, is not a timestamp and 18 numbers"):
        read_cameras(tmp_path / "a.txt", 70, 98)
