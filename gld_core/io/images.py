"""Reading photographs, and resizing and cropping them, together with K, to a size that GLD can encode.

Pixel convention, here and for every K of the project: image coordinates are continuous and start at the top-left
*corner* of the image, so the centre of the pixel in column x and row y lies at (x + 0.5, y + 0.5) and an image whose
optical axis passes through its middle has the principal point (W/2, H/2). Under this convention a resize multiplies
the rows of K by (W'/W, H'/H) and a crop subtracts its left and top edge, with no half-pixel terms.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps
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
EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif",
    ".ppm", ".pgm", ".tga", ".jp2",
)  # fmt: skip
# What is opened by Pillow, whatever a file is called: its other readers may start programs (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "HEIF", "PPM", "TGA", "JPEG2000")
# Of the kinds of HEIC, at the beginning of a file.
HEIC_BRANDS = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")
# Of a picture that is decoded: 13 bytes each.
MAX_PIXELS = 130_000_000
# How many times the wanted size a small picture may have after scaling, before it is cropped.
MOST_CROPPED = 8
EXIF_ORIENTATION = 0x0112
# EXIF orientations that turn a picture by a quarter.
QUARTER_TURNS = (5, 6, 7, 8)


class PictureSize(NamedTuple):
    """Height and width of a picture as it is shown, and its EXIF orientation (1 to 8)."""

    height: int
    width: int
    orientation: int

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the stored pixels, before the orientation is applied."""
        return (self.width, self.height) if self.orientation in QUARTER_TURNS else (self.height, self.width)


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture file with Pillow without decoding it. Raises the errors of `read_image`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, or no file; put the picture there.")
    with open(path, "rb") as opened:
        head = opened.read(64)
    # Telephones and messengers call it .jpg too.
    if head[4:].startswith(HEIC_BRANDS) and b"avif" not in head:
        try:
            pillow_heif = import_module("pillow_heif")
        except ImportError:
            raise ValueError(
                f"{path} is a HEIC picture; install the package pillow-heif to have those read, or save it as JPEG."
            ) from None
        pillow_heif.register_heif_opener()
    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{file.width}x{file.height}")
            yield file
    except Image.DecompressionBombError:
        raise ValueError(
            f"{path} has more than the {MAX_PIXELS // 10**6} megapixels that are read; scale it down, for example to "
            "4000 pixels across."
        ) from None
    # A damaged file surfaces as any of a dozen types.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}); save it again as PNG, JPEG or WebP."
        ) from error


def picture_size(path: str | Path) -> PictureSize:
    """Read the size from the header of a picture file, without decoding it. Raises the errors of `read_image`."""
    with open_picture(path) as file:
        orientation = file.getexif().get(EXIF_ORIENTATION, 1)
        turned = orientation in QUARTER_TURNS
        height, width = (file.width, file.height) if turned else (file.height, file.width)
        return PictureSize(height, width, orientation if orientation in range(1, 9) else 1)


def read_image(path: str | Path) -> Tensor:
    """Photograph file -> (3, H, W) float32 in [0, 1], sRGB.

    The EXIF orientation is applied, an embedded colour profile (Display P3, Adobe RGB, CMYK) leads to sRGB,
    transparency is composited over white, grey becomes RGB, grey of 16 bits or more keeps its precision (`grey_range`),
    and of an animation the first frame is read. Raises ValueError naming the file where it cannot be read or has more
    than MAX_PIXELS, FileNotFoundError where there is none.
    """
    with open_picture(path) as file:
        profile = file.info.get("icc_profile")
        image = ImageOps.exif_transpose(file)
        if image.mode == "F" or image.mode.startswith("I"):
            grey = np.asarray(image, dtype=np.float32)
            # Some versions of Pillow give 16-bit PNG the mode of 32 bits.
            white = grey_range(grey, "I;16" if file.format == "PNG" else image.mode)
            grey = np.nan_to_num(grey / white, nan=0.0, posinf=1.0, neginf=0.0)
            return torch.from_numpy(grey).clamp_(0, 1).expand(3, -1, -1).contiguous()
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        pixels = np.array(to_srgb(image, profile))
        out = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(255)
        if alpha is not None:
            opaque = torch.from_numpy(np.array(alpha)).float() / 255
            out = out * opaque + (1 - opaque)
    return out.clamp_(0, 1)


def grey_range(grey: np.ndarray, mode: str) -> float:
    """The value of white in a grey picture of Pillow's mode I (32 bits), I;16 or F (float).

    With 16 bits it is 65535. Wider pictures do not say what their range is. Here it is the first of 255, 65535 and
    2^31 - 1 that is not below any value. In a float picture whose values are at most 16, white is 1.
    """
    if mode.startswith("I;16"):
        return 65535.0
    most = float(np.nanmax(grey, initial=0.0, where=np.isfinite(grey)))
    steps = ((16.0, 1.0), (255.0, 255.0)) if mode == "F" else ((255.0, 255.0),)
    return next((white for limit, white in (*steps, (65535.0, 65535.0)) if most <= limit), 2.0**31 - 1)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture from the colours of its embedded profile to sRGB, mode RGB. If the profile cannot be used, the
    picture is taken as sRGB, as browsers do.
    """
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                srgb = ImageCms.createProfile("sRGB")
                intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
                image = ImageCms.profileToProfile(image.convert(mode), source, srgb, intent, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError, KeyError):
            pass
    return image.convert("RGB")


def fitting_size(height: int, width: int, long_side: int = 504) -> tuple[int, int]:
    """(height, width) for an image: the long side `long_side`, the short side the nearest multiple of 14 to the
    image's own aspect ratio (at least 14). The default is the side that the released networks were trained with.
    """
    if long_side < PATCH or long_side % PATCH:
        raise ValueError(f"The long side must be a positive multiple of {PATCH}, not {long_side}.")
    short = max(PATCH, PATCH * round(long_side * min(height, width) / max(height, width) / PATCH))
    return (long_side, short) if height > width else (short, long_side)


class Fit(NamedTuple):
    """A resize to rows x columns, followed by a crop of height x width whose upper left corner is at (top, left)."""

    height: int
    width: int
    rows: int
    columns: int
    top: int
    left: int

    def apply(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (3, height, width), bicubic and antialiased."""
        if image.shape[-2:] != (self.rows, self.columns):
            size = (self.rows, self.columns)
            image = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        return image[:, self.top : self.top + self.height, self.left : self.left + self.width].contiguous()


def fit_camera(K: Tensor, H: int, W: int, height: int, width: int, what: str = "A picture") -> tuple[Fit, Tensor]:
    """For a picture of H x W with K (3, 3): the resize and crop that make it height x width, and the K of the result.

    1. Resize by s = max(width/W, height/H), to (round(s*H), round(s*W)), the smallest size that covers the wanted one;
       the rows of K are multiplied by the exact ratios of the sizes.
    2. Crop the window of (height, width) whose middle is the whole pixel step nearest to the principal point, moved
       inward where it would leave the image; its left and top edge are subtracted from (cx, cy).

    Raises ValueError, which `what` begins, for a picture so long and narrow that most of a larger one would be cut off.
    """
    scale = max(width / W, height / H)
    rows, columns = max(height, round(scale * H)), max(width, round(scale * W))
    if rows * columns > max(H * W, MOST_CROPPED * height * width):
        raise ValueError(
            f"{what} of {W}x{H} pixels is too long and narrow for {width}x{height}: it would be scaled to "
            f"{columns}x{rows} and cropped; crop it first."
        )
    K = K.clone()
    K[0] *= columns / W
    K[1] *= rows / H
    left = min(max(round(K[0, 2].item() - width / 2), 0), columns - width)
    top = min(max(round(K[1, 2].item() - height / 2), 0), rows - height)
    K[0, 2] -= left
    K[1, 2] -= top
    return Fit(height, width, rows, columns, top, left), K


def fit(image: Tensor, K: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Resize, then crop around the principal point (`fit_camera`): (3, H, W), (3, 3) -> (3, height, width), (3, 3).

    K is in pixels of the image it comes with (convention at the top of this module) and is returned in pixels of the
    result. Raises ValueError where height or width is not a positive multiple of 14.
    """
    if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
        raise ValueError(f"The size must be positive multiples of {PATCH}, not {width} x {height} (width x height).")
    how, K = fit_camera(K, image.shape[-2], image.shape[-1], height, width)
    return how.apply(image), K
