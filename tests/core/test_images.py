"""Photographs are read as they were meant to be seen, and K follows every resize and crop."""

import numpy as np
import pytest
import torch
from PIL import Image

from gld_core.io.images import fit, fitting_size, read_image

GRADIENT = np.linspace(0, 255, 40 * 30 * 3).reshape(30, 40, 3).astype(np.uint8)


@pytest.mark.parametrize("name, error", [("a.png", 0), ("a.webp", 6), ("a.jpg", 6), ("a.tif", 0), ("a.bmp", 0)])
def test_common_formats_are_read_to_rgb_in_0_1(tmp_path, name, error):
    Image.fromarray(GRADIENT).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.shape == (3, 30, 40) and image.dtype == torch.float32
    assert np.abs(image.numpy().transpose(1, 2, 0) * 255 - GRADIENT).mean() <= error


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated a quarter turn clockwise
    Image.fromarray(GRADIENT).save(tmp_path / "a.png", exif=exif)
    shown = (read_image(tmp_path / "a.png") * 255).round().numpy().transpose(1, 2, 0)
    assert np.array_equal(shown, np.rot90(GRADIENT, -1))


def test_sixteen_bit_grey_keeps_its_precision(tmp_path):
    grey = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png")[1].numpy() * 65535 - grey).max() < 0.1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_white(tmp_path, mode):
    Image.new(mode, (4, 4), (0, 0, 0, 64) if mode == "RGBA" else (0, 64)).save(tmp_path / "a.png")
    assert torch.allclose(read_image(tmp_path / "a.png"), torch.tensor(1 - 64 / 255))


def test_an_unreadable_picture_is_a_sentence(tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="a.png cannot be read as a picture"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("not a picture", encoding="utf-8")
    with pytest.raises(ValueError, match="b.jpg cannot be read as a picture"):
        read_image(tmp_path / "b.jpg")


def spots(pixels, height, width):
    """(3, height, width) picture with one smooth bright spot at each (x, y) of `pixels`, one per colour."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    return torch.tensor(np.stack([np.exp(-((x - u) ** 2 + (y - v) ** 2) / 32) for u, v in pixels]), dtype=torch.float32)


def spot_positions(image):
    """Centroid (x, y) of each colour, pixel centres at half-integers."""
    image = image.double()
    x, y = torch.arange(image.shape[2]) + 0.5, torch.arange(image.shape[1]) + 0.5
    weight = image.sum((1, 2))
    return torch.stack([(image.sum(1) * x).sum(1) / weight, (image.sum(2) * y).sum(1) / weight], 1)


@pytest.mark.parametrize("height, width", [(56, 70), (84, 70), (140, 126), (280, 336)])
def test_points_in_space_project_onto_the_fitted_picture_where_they_are_seen(height, width):
    points = torch.tensor([[-0.1, -0.16, 2.0], [0.2, 0.2, 2.0], [0.15, -0.25, 3.0]])
    K = torch.tensor([[300.0, 0, 118], [0, 290, 95], [0, 0, 1]])

    def project(K):
        seen = points @ K.T
        return seen[:, :2] / seen[:, 2:]

    image = spots(project(K).tolist(), 180, 230)
    assert torch.allclose(spot_positions(image).float(), project(K), atol=1e-3)
    fitted, fitted_K = fit(image, K, height, width)
    assert fitted.shape == (3, height, width)
    assert torch.allclose(spot_positions(fitted).float(), project(fitted_K), atol=0.02)


def test_the_crop_keeps_the_principal_point_as_central_as_the_image_allows():
    K = torch.tensor([[100.0, 0, 90], [0, 100, 35], [0, 0, 1]])
    assert fit(torch.zeros(3, 70, 168), K, 70, 70)[1][0, 2] == 35  # exactly central
    K[0, 2] = 20
    assert fit(torch.zeros(3, 70, 168), K, 70, 70)[1][0, 2] == 20  # the window stops at the left edge
    K[0, 2] = 160
    assert fit(torch.zeros(3, 70, 168), K, 70, 70)[1][0, 2] == 62  # and at the right edge


def test_a_picture_of_the_wanted_size_is_left_alone():
    image, K = torch.rand(3, 28, 42), torch.tensor([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    fitted, fitted_K = fit(image, K, 28, 42)
    assert torch.equal(fitted, image) and torch.equal(fitted_K, K)


def test_the_default_size_has_long_side_504_and_the_nearest_aspect_in_multiples_of_14():
    assert fitting_size(1080, 1920) == (280, 504)
    assert fitting_size(3000, 4000) == (378, 504)
    assert fitting_size(4000, 3000) == (504, 378)
    assert fitting_size(10, 5000, long_side=70) == (14, 70)


@pytest.mark.parametrize("height, width", [(100, 140), (140, 0)])
def test_a_size_that_is_not_a_multiple_of_14_is_refused(height, width):
    with pytest.raises(ValueError, match="multiples of 14"):
        fit(torch.zeros(3, 70, 70), torch.eye(3), height, width)
