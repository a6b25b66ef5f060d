"""Photographs and cameras as people have them: each kind of fault that real files had, with the right value."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageCms, features

from gld_core.io.cameras import files_in, find_folders, find_scenes, read_cameras, read_scene
from gld_core.io.colmap import write_colmap
from gld_core.io.images import read_image
from gld_core.io.nerfstudio import write_transforms
from gld_core.io.scenes import view_numbers

CUBE = Path(__file__).parent / "data" / "cube"
FLIP = np.diag([1.0, -1, -1, 1])
HEIGHT, WIDTH = 60, 80
K = [[70.0, 0, 40], [0, 70, 30], [0, 0, 1]]


def pose(x=0.0, y=0.0, z=0.0) -> np.ndarray:
    """Camera-to-world, OpenCV: turned by 30 degrees about the vertical, at a place."""
    out, angle = np.eye(4), math.radians(30)
    out[[0, 0, 2, 2], [0, 2, 0, 2]] = math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    out[:3, 3] = x, y, z
    return out


def transforms(folder: Path, matrices=None, names=None, **content) -> Path:
    """A transforms.json of views named 1.png and so on, with OpenGL axes unless a matrix is given as it is."""
    matrices = [pose(0), pose(1)] if matrices is None else matrices
    names = names or [f"{number}.png" for number in range(1, len(matrices) + 1)]
    frames = [
        {"file_path": name, "transform_matrix": np.asarray(matrix).tolist()}
        for name, matrix in zip(names, matrices, strict=True)
    ]
    own = {"w": WIDTH, "h": HEIGHT, "fl_x": 70.0} | content
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "transforms.json"
    path.write_text(
        json.dumps({key: value for key, value in own.items() if value is not None} | {"frames": frames}),
        encoding="utf-8",
    )
    return path


def photograph(path: Path, width=WIDTH, height=HEIGHT, orientation=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (width, height), (10, 200, 90)).save(path, exif=exif)
    return path


def close(found: torch.Tensor, meant, tolerance=1e-5) -> bool:
    return bool(np.allclose(found.double().numpy(), np.asarray(meant), rtol=0, atol=tolerance))


# A. Keys that change what numbers mean


@pytest.mark.parametrize("key", [{"camera_convention": "opencv"}, {"from_na": True}])
def test_opencv_axes_are_taken_where_the_file_says_so(tmp_path, key):
    cameras, _ = read_cameras(transforms(tmp_path, [np.eye(4), pose(1)], **key))
    assert close(cameras.c2w[0], np.eye(4)) and close(cameras.c2w[1], pose(1))


def test_without_a_word_the_axes_are_opengl(tmp_path):
    assert close(read_cameras(transforms(tmp_path, [np.eye(4)]))[0].c2w[0], FLIP)


def test_world_to_camera_frames_have_opencv_axes(tmp_path):
    path = transforms(tmp_path, [np.linalg.inv(pose(1, 2, 3))])
    path.write_text(path.read_text(encoding="utf-8").replace("transform_matrix", "w2c"), encoding="utf-8")
    assert close(read_cameras(path)[0].c2w[0], pose(1, 2, 3))


def test_the_applied_scale_is_undone(tmp_path):
    cameras, _ = read_cameras(transforms(tmp_path, [pose(1.4925)], applied_scale=0.5))
    assert cameras.c2w[0, 0, 3] == pytest.approx(2.985)


def test_a_lens_shift_of_blender_moves_the_principal_point(tmp_path):
    """0.1 of 80 pixels to the right, 0.05 down: the middle of the lens appears as far to the left and up."""
    cameras, _ = read_cameras(transforms(tmp_path, shift_x=0.1, shift_y=-0.05))
    assert close(cameras.K[0], [[70, 0, 32], [0, 70, 26], [0, 0, 1]])


@pytest.mark.parametrize(
    "key, said",
    [
        ({"is_fisheye": True}, "is_fisheye"),
        ({"latlong": True}, "latlong"),
        ({"equirectangular": True}, "equirectangular"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE"),
        ({"ftheta_p0": 0.1}, "ftheta_p0"),
        ({"sk_x": 3.0}, "skew of 3 pixels"),
        ({"camera_convention": "vulkan"}, "vulkan"),
        ({"applied_scale": 0}, "applied_scale"),
    ],
)
def test_what_is_no_pinhole_is_refused_whatever_is_ignored(tmp_path, key, said):
    with pytest.raises(ValueError, match=said):
        read_cameras(transforms(tmp_path, **key), ignore_distortion=True)


def test_a_list_of_distortion_is_distortion(tmp_path):
    path = transforms(tmp_path, distortion_params=[0.1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="lens distortion"):
        read_cameras(path)
    assert read_cameras(path, ignore_distortion=True)[0].K[0, 0, 0] == 70


# B. Last rows


def test_column_major_poses_are_read_as_such(tmp_path):
    cameras, _ = read_cameras(transforms(tmp_path, [(pose(0) @ FLIP).T, (pose(3, 0, 1) @ FLIP).T]))
    assert close(cameras.c2w, [pose(0), pose(3, 0, 1)])


def test_a_common_factor_is_divided_out(tmp_path):
    assert close(read_cameras(transforms(tmp_path, [4 * pose(1) @ FLIP]))[0].c2w[0], pose(1))


def test_an_orthonormal_rotation_with_another_corner_is_right_as_it_is(tmp_path):
    matrix = pose(1) @ FLIP
    matrix[3, 3] = 0.01
    assert close(read_cameras(transforms(tmp_path, [matrix]))[0].c2w[0], pose(1))


def test_a_last_row_that_is_no_poses_is_named(tmp_path):
    matrix = pose(1) @ FLIP
    matrix[3] = 0, 0, 1, 0
    with pytest.raises(ValueError, match="1.png has the last row 0 0 1 0"):
        read_cameras(transforms(tmp_path, [matrix]))


# C. Far from the origin


ECEF = np.array([4_198_945.25, 478_911.5, 4_779_321.75])


def far() -> list[np.ndarray]:
    return [pose(*ECEF), pose(*(ECEF + [23.5, 0, 0]))]


def test_a_baseline_in_coordinates_of_the_earth_is_read_exactly(tmp_path):
    cameras, _ = read_cameras(transforms(tmp_path, [matrix @ FLIP for matrix in far()]))
    assert float(cameras.c2w[1, 0, 3] - cameras.c2w[0, 0, 3]) == pytest.approx(23.5, abs=1e-5)
    assert np.abs(cameras.world_c2w.numpy() - far()).max() < 1e-6


def test_what_was_read_far_away_is_written_where_it_was(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    cameras, _ = read_cameras(transforms(tmp_path, [matrix @ FLIP for matrix in far()]))
    write_transforms(tmp_path / "out.json", cameras, [{"file_path": name} for name in "ab"])
    frames = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["frames"]
    assert np.abs(np.array(frames[1]["transform_matrix"])[:3, 3] - far()[1][:3, 3]).max() < 1e-6
    write_colmap(tmp_path / "model", cameras, ["a.png", "b.png"])
    images = sorted(pycolmap.Reconstruction(tmp_path / "model").images.values(), key=lambda image: image.name)
    centres = np.array([image.projection_center() for image in images])
    assert np.abs(centres - [matrix[:3, 3] for matrix in far()]).max() < 1e-6


# D. Sizes


@pytest.mark.parametrize("width, height", [(40, 30), (160, 120), (20, 15), (WIDTH, HEIGHT)])
def test_k_follows_pictures_of_another_size(tmp_path, width, height):
    transforms(tmp_path, cx=42.0, cy=29.0)
    for name in "12":
        photograph(tmp_path / f"{name}.png", width, height)
    images, cameras = read_scene(tmp_path, None).load([0], [1])
    assert images.shape[-2:] == (height, width) == (cameras.height, cameras.width)
    scale = width / WIDTH
    assert close(cameras.K[1], [[70 * scale, 0, 42 * scale], [0, 70 * scale, 29 * scale], [0, 0, 1]])


def test_pictures_of_another_shape_are_refused(tmp_path):
    transforms(tmp_path)
    photograph(tmp_path / "1.png", 80, 50)
    with pytest.raises(ValueError, match="1.png is 80x50, but its camera is for 80x60, another shape"):
        read_scene(tmp_path).load([0], [1])


def test_k_of_the_stored_pixels_of_a_turned_photograph_is_named(tmp_path):
    transforms(tmp_path, names=["1.jpg", "2.jpg"])
    for name in "12":
        photograph(tmp_path / f"{name}.jpg", orientation=6)
    with pytest.raises(ValueError, match="1.jpg is shown turned by a quarter .EXIF orientation 6.*as they are stored"):
        read_scene(tmp_path).load([0], [1])


def test_the_same_of_npz_cameras_that_say_no_size(tmp_path):
    for name in "12":
        photograph(tmp_path / f"{name}.jpg", orientation=6)
        np.savez(tmp_path / f"{name}.npz", pose=pose(), intrinsic=np.array(K))
    with pytest.raises(ValueError, match="shown turned by a quarter"):
        read_scene(tmp_path).load([0], [1])


def test_a_turned_photograph_with_cameras_of_what_is_shown_is_right(tmp_path):
    transforms(tmp_path, names=["1.jpg", "2.jpg"], w=HEIGHT, h=WIDTH)
    for name in "12":
        photograph(tmp_path / f"{name}.jpg", orientation=6)
    images, _ = read_scene(tmp_path, None).load([0], [1])
    assert images.shape[-2:] == (WIDTH, HEIGHT)


@pytest.mark.parametrize("factor", [0.75, 1.5])
def test_an_npz_k_of_another_size_is_noticed_near_the_middle_too(tmp_path, factor):
    photograph(tmp_path / "1.png")
    np.savez(tmp_path / "1.npz", pose=pose(), intrinsic=np.array(K) * [[factor], [factor], [1]])
    np.savez(tmp_path / "2.npz", pose=pose(1), intrinsic=np.array(K))
    with pytest.raises(ValueError, match=f"about {80 * factor:.0f} x {60 * factor:.0f}"):
        read_scene(tmp_path).load([0], [1])


def test_a_principal_point_in_shares_is_taken_as_it_is(tmp_path):
    line = "1 0.9 1.2 0.56 0.56 0 0 1 0 0 0 0 1 0 0 0 0 1 0"
    (tmp_path / "video.txt").write_text(f"https://x\n{line}\n{line.replace('1', '2', 1)}", encoding="utf-8")
    for name in "12":
        photograph(tmp_path / f"video/{name}.png")
    _, cameras = read_scene(tmp_path / "video.txt", None).load([0], [1])
    assert close(cameras.K[0], [[72, 0, 44.8], [0, 72, 33.6], [0, 0, 1]], 1e-4)


# E. images.txt


def cube_lines() -> list[str]:
    return (CUBE / "text/images.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("kind", ["without points", "indented comments", "byte-order mark", "points without decimals"])
def test_images_txt_as_programs_write_it(tmp_path, kind):
    lines = cube_lines()
    images = [line for line in lines if line.endswith(".jpg")]
    if kind == "without points":
        lines = images
    elif kind == "indented comments":
        lines = ["  # a comment", *lines]
    elif kind == "points without decimals":
        lines = [line for image in images for line in (image, "12 34 -1 56 78 5 90 12 -1")]
    (tmp_path / "cameras.txt").write_bytes((CUBE / "text/cameras.txt").read_bytes())
    text = "\n".join(lines)
    (tmp_path / "images.txt").write_text(text, encoding="utf-8-sig" if kind == "byte-order mark" else "utf-8")
    cameras, names = read_cameras(tmp_path)
    meant, all_names = read_cameras(CUBE / "binary")
    assert names == all_names and torch.equal(cameras.c2w, meant.c2w)


# F. What the picture or the user can say


def test_the_lego_scene_of_blender_has_its_known_focal_length(tmp_path):
    """800 pixels across 0.6911112 radians: 1111.111 pixels, as its paper's program prints."""
    angle = {"w": None, "h": None, "fl_x": None, "camera_angle_x": 0.6911112070083618}
    path = transforms(tmp_path, names=["./train/r_0", "./train/r_1"], **angle)
    path = path.rename(tmp_path / "transforms_train.json")
    assert read_cameras(path, 800, 800)[0].K[0, 0, 0].item() == pytest.approx(1111.111, abs=1e-3)
    for name in ("r_0", "r_1"):
        photograph(tmp_path / f"train/{name}.png", 800, 800)
    scene = read_scene(tmp_path, None)
    assert scene.cameras.K[0, 1, 1].item() == pytest.approx(1111.111, abs=1e-3)
    assert scene.views[1].picture == tmp_path / "train/r_1.png"


@pytest.mark.parametrize(
    "content",
    [
        {"K": [[70.0, 0, 40], [0, 70, 30], [0, 0, 1]]},
        {"intrinsic_matrix": [70.0, 0, 40, 0, 70, 30, 0, 0, 1]},
        {"intrinsics": [70.0, 70.0, 40.0, 30.0]},
        {"x_fov": math.degrees(2 * math.atan(40 / 70))},
        {"camera_angle_y": 2 * math.atan(30 / 70)},
        *({"fl_x": 70.0, "camera_model": name} for name in ("RADIAL", "pinhole", "PERSPECTIVE", "SIMPLE_RADIAL")),
    ],
)
def test_a_lens_is_read_however_it_is_written(tmp_path, content):
    assert close(read_cameras(transforms(tmp_path, **({"fl_x": None} | content)))[0].K[0], K, 1e-4)


# G. One view does not decide for all


def colmap_model(folder: Path, sizes, nan: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{i} PINHOLE {w} {h} 70 70 {w / 2} {h / 2}" for i, (w, h) in enumerate(sizes, 1)]
    (folder / "cameras.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [f"{i} 1 0 0 0 {'nan' if i == nan else i} 0 0 {i} photo_{i}.jpg\n" for i, _ in enumerate(sizes, 1)]
    (folder / "images.txt").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_sizes_that_differ_by_pixels_are_fitted_together(tmp_path):
    cameras, _ = read_cameras(colmap_model(tmp_path, [(80, 60), (81, 60), (80, 61)]))
    assert (cameras.height, cameras.width) == (60, 80)
    assert torch.allclose(cameras.K[:, :2, 2], torch.tensor([40.0, 30.0]), atol=0.51)


def test_one_pose_that_is_not_finite_costs_its_view_alone(tmp_path):
    scene = read_scene(colmap_model(tmp_path, [(80, 60)] * 5, nan=3), None, size=(60, 80))
    assert scene.usable == [0, 1, 3, 4] and len(scene.cameras) == 4
    assert scene.left_out().startswith("1 of 5 views are left out: ") and "photo_3.jpg" in scene.left_out()
    with pytest.raises(ValueError, match=r"photo_3\.jpg"):
        scene.cameras_of([2])


# H. Names


@pytest.mark.parametrize(
    "name, file",
    [
        ("photo_1", "images/photo_1.jpg"),
        (r"images\photo_1.jpg", "images/photo_1.jpg"),
        ("./images/photo_1.jpg", "images/photo_1.jpg"),
        ("/home/somebody/data/images/photo_1.jpg", "images/photo_1.jpg"),
        (r"C:\Users\me\photo_1.jpg", "photo_1.jpg"),
        ("photo_1.JPG", "images/photo_1.jpg"),
        ("photo_1.jpg", "images/PHOTO_1.JPG"),
        ("photo_1.jpg", "images_4/photo_1.png"),
        ("../images/photo_1.jpg", "images/photo_1.jpg"),
    ],
)
def test_a_picture_is_found_by_any_form_of_its_name(tmp_path, name, file):
    transforms(tmp_path, [pose()], [name])
    photograph(tmp_path / file)
    photograph(tmp_path / "depth/photo_1.png")
    assert read_scene(tmp_path).views[0].picture == tmp_path / file


def test_cameras_of_two_folders_keep_their_own_pictures(tmp_path):
    transforms(tmp_path, names=["left/1.png", "right/1.png"])
    photograph(tmp_path / "images/left/1.png")
    left, right = read_scene(tmp_path).views
    assert left.picture == tmp_path / "images/left/1.png" and right.picture is None


def test_a_missing_picture_says_where_it_was_looked_for(tmp_path):
    transforms(tmp_path, names=["a.png", "b.png"])
    photograph(tmp_path / "images/a.png")
    with pytest.raises(ValueError, match=f"b.png has a camera but no picture in {tmp_path}"):
        read_scene(tmp_path).choose([1], [0])


def test_names_do_not_lead_out_of_the_folder(tmp_path):
    photograph(tmp_path / "secret.png")
    transforms(tmp_path / "scene", [pose()], ["../secret.png"])
    assert read_scene(tmp_path / "scene").views[0].picture is None


# I. Kinds of file


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin"])
def test_choosing_a_file_of_a_colmap_model_reads_the_model(file):
    assert read_cameras(CUBE / "binary" / file)[1] == read_cameras(CUBE / "binary")[1]


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0", "dense/sparse", "dense/0/sparse"])
def test_a_model_is_found_where_programs_put_it(tmp_path, place):
    colmap_model(tmp_path / place, [(80, 60)] * 2)
    photograph(tmp_path / "images/photo_1.jpg")
    scene = read_scene(tmp_path)
    assert [view.name for view in scene.views] == ["photo_1.jpg", "photo_2.jpg"]
    assert scene.views[0].picture == tmp_path / "images/photo_1.jpg"


def test_undistorted_pictures_beside_the_model_go_before_others(tmp_path):
    colmap_model(tmp_path / "dense/sparse", [(80, 60)])
    photograph(tmp_path / "images/photo_1.jpg")
    photograph(tmp_path / "dense/images/photo_1.jpg")
    assert read_scene(tmp_path).views[0].picture == tmp_path / "dense/images/photo_1.jpg"


def test_a_lonely_cameras_bin_does_not_hide_a_text_model(tmp_path):
    colmap_model(tmp_path, [(80, 60)])
    (tmp_path / "cameras.bin").write_bytes(b"")
    assert len(read_cameras(tmp_path)[0]) == 1


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("cameras.bin", b"\1", "put cameras and images, both .bin or both .txt, side by side"),
        ("a.npy", b"\x93NUMPY\1\0broken", "poses_bounds.npy"),
        ("a.xml", b"<a/>", "no camera file of Metashape"),
        ("a.npz", b"PK\3\4cut", "holds no cameras"),
        ("a.txt", b"1 2 3\n4 5 6\n", "3 numbers a line"),
        ("a.txt", b"dear diary", "no file of cameras that is known"),
        ("a.psx", b"", "a project of Metashape; export"),
        ("a.db", b"SQLite", "COLMAP's database"),
        ("a.mp4", b"", "a video; save single frames"),
        ("a.json", b'{"sfm_data_version": "0.3", "views": [], "intrinsics": []}', "openMVG2Colmap"),
    ],
)
def test_an_unknown_file_is_named_with_what_helps(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_scene(tmp_path / name)


# J. Order


def test_views_come_in_the_order_of_their_names_in_every_format(tmp_path):
    names = ["photo_10.png", "photo_2.png", "photo_1.png"]
    transforms(tmp_path / "a", [pose(10) @ FLIP, pose(2) @ FLIP, pose(1) @ FLIP], names)
    cameras, found = read_cameras(tmp_path / "a")
    assert found == ["photo_1.png", "photo_2.png", "photo_10.png"] and cameras.c2w[:, 0, 3].tolist() == [1, 2, 10]
    write_colmap(tmp_path / "b", cameras[[2, 0, 1]], ["photo_10.png", "photo_1.png", "photo_2.png"])
    assert read_cameras(tmp_path / "b")[1] == found


def test_photographs_and_cameras_meet_by_name(tmp_path):
    transforms(tmp_path, [pose(10) @ FLIP, pose(2) @ FLIP], ["photo_10.png", "photo_2.png"])
    for number in (2, 10):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(tmp_path / f"photo_{number}.png")
    images, cameras = read_scene(tmp_path, None).load([0, 1], [])
    assert (images[:, 0, 0, 0] * 255).round().tolist() == cameras.c2w[:, 0, 3].tolist() == [2, 10]


# K. Pictures


def saved(path: Path, array: np.ndarray, **how) -> torch.Tensor:
    Image.fromarray(array).save(path, **how)
    return read_image(path)


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(0, 1, 64, dtype=np.float32),
        np.linspace(0, 255, 64, dtype=np.float32),
        np.linspace(0, 65535, 64).astype(np.int32),
        np.linspace(0, 2**31 - 1, 64).astype(np.int32),
    ],
    ids=["float 0..1", "float 0..255", "int32 of 16 bits", "int32"],
)
def test_grey_tiff_of_any_depth_goes_from_black_to_white(tmp_path, array):
    image = saved(tmp_path / "a.tif", array.reshape(8, 8))
    assert close(image[1].flatten(), np.linspace(0, 1, 64), 1e-3)


def display_p3() -> bytes:
    """A profile with the primaries of Display P3, adapted to D50 (Bradford), and sRGB's curve."""
    return (Path(__file__).parent / "data" / "display_p3.icc").read_bytes()


def test_display_p3_comes_out_in_srgb(tmp_path):
    """Against the matrices of both spaces (CSS Color 4), which lead P3 (0.6, 0.4, 0.3) to sRGB."""
    curve = lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)  # noqa: E731
    inverse = lambda v: np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)  # noqa: E731
    p3 = np.array(
        [[0.48657095, 0.26566769, 0.19821729], [0.22897456, 0.69173852, 0.07928691], [0, 0.04511338, 1.04394437]]
    )
    srgb = np.array(
        [
            [0.41239080, 0.35758434, 0.18048079],
            [0.21263901, 0.71516868, 0.07219232],
            [0.01933082, 0.11919478, 0.95053215],
        ]
    )
    value = np.array([153, 102, 77])
    meant = inverse(np.linalg.inv(srgb) @ p3 @ curve(value / 255))
    image = saved(tmp_path / "a.png", np.full((4, 4, 3), value, np.uint8), icc_profile=display_p3())
    assert np.abs(image[:, 0, 0].numpy() - meant).max() < 1.5 / 255
    assert np.abs(value / 255 - meant).max() > 4 / 255


def test_an_srgb_profile_changes_nothing_and_a_broken_one_is_left_out(tmp_path):
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile"):
        assert np.array_equal(
            (saved(tmp_path / "a.png", array, icc_profile=profile) * 255).byte().permute(1, 2, 0), array
        )


@pytest.mark.parametrize("name", ["a.gif", "a.jfif", "a.avif", "a.ppm"])
def test_what_pillow_reads_is_a_picture(tmp_path, name):
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    kind = {"a.jfif": "JPEG"}.get(name)
    Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30)).save(tmp_path / name, format=kind)
    assert close(read_image(tmp_path / name)[:, 0, 0], np.array([200, 30, 30]) / 255, 0.03)
    assert [view.name for view in read_scene(tmp_path).views] == [name]


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_gets_the_cure_where_its_package_is_missing(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ValueError, match="HEIC picture; install the package pillow-heif"):
        read_image(tmp_path / name)


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow reads EPS by Ghostscript, whatever the file is called."""
    started = []
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *given: started.append(given) or Image.new("RGB", (9, 9)).im
    )
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_image(tmp_path / "a.jpg")
    assert not started


@pytest.mark.parametrize("width, height", [(20_000, 10_000), (13_000, 11_000)])
def test_huge_pictures_are_refused_by_their_head_with_advice_that_helps(tmp_path, width, height):
    Image.new("1", (width, height)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more than the 130 megapixels that are read; scale it down"):
        read_image(tmp_path / "a.png")


# Everywhere the same


def test_pictures_without_cameras_are_a_scene_that_says_what_to_do(tmp_path):
    photograph(tmp_path / "room/b.png", 90, 60)
    photograph(tmp_path / "room/a.png", 60, 60)
    scene = read_scene(tmp_path / "room", 42)
    assert not scene.posed and scene.names == ["a", "b"]
    assert scene.photographs([0, 1]).shape == (2, 3, 42, 42)
    with pytest.raises(ValueError, match="2 pictures and no cameras; estimate them .Estimate GLD Cameras."):
        scene.choose(1, None)
    assert read_scene(tmp_path / "room/a.png").photographs([0]).shape == (1, 3, 504, 504)


def test_folders_with_cameras_and_folders_of_pictures_are_listed(tmp_path):
    colmap_model(tmp_path / "garden/sparse/0", [(80, 60)])
    photograph(tmp_path / "garden/images/photo_1.jpg")
    transforms(tmp_path / "lego")
    photograph(tmp_path / "holiday/a.jpg")
    (tmp_path / "empty").mkdir()
    assert {path.name for path in find_folders(tmp_path)} == {"garden", "lego", "holiday"}
    assert [path.name for path in find_scenes(tmp_path)] == ["garden", "lego"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_folders_named_as_files_and_links_that_lead_nowhere_stop_no_search(tmp_path):
    transforms(tmp_path / "lego")
    (tmp_path / "notes.txt").mkdir()
    for folder in (tmp_path, tmp_path / "lego"):
        (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert find_scenes(tmp_path) == [tmp_path / "lego"]
    assert [path.name for path in files_in(tmp_path / "lego")] == ["transforms.json"]


def test_only_chosen_pictures_are_decoded(tmp_path, monkeypatch):
    transforms(tmp_path, [pose(x) @ FLIP for x in range(4)])
    for name in "1234":
        photograph(tmp_path / f"{name}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    opened = []
    monkeypatch.setattr("gld_core.io.scenes.read_image", lambda path: opened.append(path.name) or read_image(path))
    images, cameras = read_scene(tmp_path).load([1], [0, 3])
    assert opened == ["2.png"] and images.shape[0] == 1 and len(cameras) == 3


def test_k_is_checked_before_a_picture_is_decoded(tmp_path, monkeypatch):
    transforms(tmp_path, cx=79.0)
    photograph(tmp_path / "1.png")
    monkeypatch.setattr("gld_core.io.scenes.read_image", lambda path: pytest.fail("a picture was decoded"))
    with pytest.raises(ValueError, match=r"1\.png has its principal point \(79, 30\) far from the middle"):
        read_scene(tmp_path).load([0], [1])


def test_view_lists_are_counted_before_they_are_written_out():
    assert view_numbers("7, 0, 3-5", "It") == [7, 0, 3, 4, 5]
    with pytest.raises(ValueError, match="lists more than 20000 views"):
        view_numbers("0-9999999," * 900, "The input 'views'")
