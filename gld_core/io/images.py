"""Photographs: reading, and fitting to a size that GLD can encode, with the intrinsics following.

Pixel convention, here and for every K of the project: image coordinates are continuous and start at the top-left
*corner* of the image, so the centre of the pixel in column x and row y lies at (x + 0.5, y + 0.5) and an image whose
optical axis passes through its middle has the principal point (W/2, H/2). Under this convention a resize multiplies
the rows of K by (W'/W, H'/H) and a crop subtracts its left and top edge, with no half-pixel terms.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from .files import atomic


def to_bytes(image: Tensor) -> np.ndarray:
    """(3, H, W) float in [0, 1], clamped -> (H, W, 3) uint8."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def write_png(path: str | Path, image: Tensor) -> None:
    """(3, H, W) float in [0, 1] (clamped) -> 8-bit RGB PNG."""
    with atomic(path) as temporary:
        Image.fromarray(to_bytes(image)).save(temporary, format="PNG")


PATCH = 14
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_image(path: str | Path) -> Tensor:
    """Photograph file -> (3, H, W) float32 in [0, 1].

    The EXIF orientation is applied, transparency is composited over white, grey becomes RGB, 16-bit grey keeps its
    precision, and of an animation the first frame is read. Raises ValueError naming the file where it cannot be read,
    FileNotFoundError where there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing, or no file; put the picture there.")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):
                pixels = np.asarray(image, dtype=np.float32)[..., None].repeat(3, axis=2) / 65535
            elif image.has_transparency_data:
                rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
                pixels = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
            else:
                pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    # A damaged file surfaces as any of a dozen types.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}); save it again as PNG, JPEG or WebP."
        ) from error
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).clamp_(0, 1)


def fitting_size(height: int, width: int, long_side: int = 504) -> tuple[int, int]:
    """(height, width) for an image: the long side `long_side`, the short side the nearest multiple of 14 to the
    image's own aspect ratio (at least 14). The default is the side that the released networks were trained with.
    """
    if long_side < PATCH or long_side % PATCH:
        raise ValueError(f"The long side must be a positive multiple of {PATCH}, not {long_side}.")
    short = max(PATCH, PATCH * round(long_side * min(height, width) / max(height, width) / PATCH))
    return (long_side, short) if height > width else (short, long_side)


def fit(image: Tensor, K: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Resize, then crop around the principal point: (3, H, W), (3, 3) -> (3, height, width), (3, 3).

    1. Resize (bicubic, antialiased) by s = max(width/W, height/H), to (round(s*H), round(s*W)), the smallest size that
       covers the wanted one; the rows of K are multiplied by the exact ratios of the sizes.
    2. Crop the window of (height, width) whose middle is the whole pixel step nearest to the principal point, moved
       inward where it would leave the image; its left and top edge are subtracted from (cx, cy).

    K is in pixels of the image it comes with (convention at the top of this module) and is returned in pixels of the
    result. Raises ValueError where height or width is not a positive multiple of 14.
    """
    if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
        raise ValueError(f"The size must be positive multiples of {PATCH}, not {width} x {height} (width x height).")
    H, W = image.shape[-2:]
    scale = max(width / W, height / H)
    rows, columns = max(height, round(scale * H)), max(width, round(scale * W))
    if (rows, columns) != (H, W):
        image = F.interpolate(image[None], (rows, columns), mode="bicubic", antialias=True)[0].clamp(0, 1)
    K = K.clone()
    K[0] *= columns / W
    K[1] *= rows / H
    left = min(max(round(K[0, 2].item() - width / 2), 0), columns - width)
    top = min(max(round(K[1, 2].item() - height / 2), 0), rows - height)
    K[0, 2] -= left
    K[1, 2] -= top
    return image[:, top : top + height, left : left + width].contiguous(), K
