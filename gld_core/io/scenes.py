"""Scenes: photographs and their cameras, read from a folder or a file. Pictures are decoded only when asked for.

Views are counted from 0 in natural order of their names (frame_2 before frame_10), whatever the format, and belong to
pictures by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..cameras.conventions import PRINCIPAL_RANGE, lens_problems, pose_problems
from .files import natural_order, plain_name
from .images import QUARTER_TURNS, Fit, PictureSize, fit_camera, fitting_size, picture_size, read_image
from .photographs import parts_of, stem

# Height and width in pixels.
Size = tuple[int, int]
# The height and width of a picture -> its K (3, 3), float64. Formats in pixels of a size of their own ignore them.
Lens = Callable[[int, int], np.ndarray]
# Of a file, and view numbers in one list.
MOST_VIEWS = 20_000


@dataclass
class View:
    """One photograph and its camera, as a file describes them.

    c2w (4, 4) float64 in OpenCV's axes, None where there is no camera. size: of the images that the file's K is for,
    None where it does not say. picture: None where there is none. problem: a sentence, where the view cannot be used.
    """

    name: str
    c2w: np.ndarray | None = None
    lens: Lens | None = None
    size: Size | None = None
    picture: Path | None = None
    problem: str = ""


@dataclass(frozen=True)
class Given:
    """What the user says in addition to a file. size: of the images, if the file does not say it. fov: the horizontal
    field of view in degrees, if the file has no lens. ignore_distortion: take lenses as if they had no distortion.
    """

    size: Size | None = None
    fov: float | None = None
    ignore_distortion: bool = False


def pixels(K: np.ndarray) -> Lens:
    """A lens of K in pixels."""
    return lambda height, width: K


class Scene:
    """V views, read from `source`.

    `read_scene` (cameras.py) gives one for a photograph, a folder of photographs, or anything with cameras. Then

        sources, targets = scene.choose([0, 7], None)       # numbers, or a count of sources
        images, cameras = scene.load(sources, targets)      # (N, 3, H, W) and N + M cameras, fitted to long_side

    checks what is chosen, and reads the pictures of the sources alone. `scene.posed` is False where there are pictures
    without cameras: then `scene.photographs(views)` gives them for `GLD.estimate_cameras`, and choose and load raise
    ValueError. `names` are the views' names, fit for files.

    long_side: of fitted pictures and cameras, a multiple of 14; None leaves them as they are. size: of the images,
    where neither the file nor a picture says.
    """

    def __init__(
        self,
        source: str | Path,
        views: Sequence[View],
        long_side: int | None = 504,
        size: Size | None = None,
        searched: Path | None = None,
    ):
        self.source = source
        self.views = sorted(views, key=lambda view: (natural_order(view.name), view.name))
        self.long_side = long_side
        self.size = size
        self.searched = searched
        if long_side is not None:
            fitting_size(1, 1, long_side)
        if not self.views:
            raise ValueError(f"{source} holds no views.")
        self.note_problems()

    def note_problems(self) -> None:
        """Find the views whose pose or K no camera can have, without opening a picture."""
        posed = [view for view in self.views if view.c2w is not None and not view.problem]
        poses = np.stack([view.c2w for view in posed if view.c2w is not None]) if posed else np.zeros((0, 4, 4))
        fine: set[tuple[int, Size]] = set()
        names = [view.name for view in posed]
        for view, problem in zip(posed, pose_problems(torch.from_numpy(poses), names), strict=True):
            if (
                not problem
                and view.size is not None
                and view.lens is not None
                and (id(view.lens), view.size) not in fine
            ):
                K = torch.from_numpy(view.lens(*view.size)).float()[None]
                problem = lens_problems(K, view.size[0], view.size[1], [view.name])[0]
                if not problem:
                    fine.add((id(view.lens), view.size))
            if problem:
                view.problem = f"{self.source}: {problem}"

    def __len__(self) -> int:
        return len(self.views)

    @property
    def posed(self) -> bool:
        """Whether there are cameras."""
        return any(view.c2w is not None or view.problem for view in self.views)

    @cached_property
    def names(self) -> list[str]:
        """A plain file name without extension for each view, each its own."""
        parts = [parts_of(view.name) or (f"view_{number:05}",) for number, view in enumerate(self.views)]
        for depth in (1, 2, 3):
            names = ["_".join((*part[-depth:-1], stem(part[-1])))[-150:] for part in parts]
            if len(set(names)) == len(names) and all(map(plain_name, names)):
                return names
        return [f"view_{number:05}" for number in range(len(parts))]

    def check(self, view: int) -> View:
        """The view. ValueError where it cannot be used."""
        found = self.views[view]
        if found.problem:
            raise ValueError(found.problem)
        if found.c2w is None:
            raise ValueError(self.without_cameras())
        return found

    def without_cameras(self) -> str:
        pictures = sum(view.picture is not None for view in self.views)
        return (
            f"{self.source} has {pictures} pictures and no cameras; estimate them (Estimate GLD Cameras), or add "
            "a file of cameras in one of the formats that docs/formats.md lists."
        )

    @property
    def usable(self) -> list[int]:
        """Views with a camera, and nothing against it."""
        return [number for number, view in enumerate(self.views) if view.c2w is not None and not view.problem]

    def left_out(self) -> str:
        """A sentence about the views that cannot be used, or "" if all can."""
        problems = [view.problem for view in self.views if view.problem]
        return f"{len(problems)} of {len(self)} views are left out: {problems[0]}" if problems else ""

    def centres(self, numbers: Sequence[int]) -> np.ndarray:
        """(len(numbers), 3) float64 where the cameras stand in the world."""
        return np.stack([found[:3, 3] for found in (self.check(number).c2w for number in numbers) if found is not None])

    def all(self) -> list[int]:
        """The usable views. ValueError, with the first problem, where there are none."""
        if not self.usable:
            raise ValueError(next((view.problem for view in self.views if view.problem), self.without_cameras()))
        return self.usable

    def choose(self, sources: Sequence[int] | int, targets: Sequence[int] | None) -> tuple[list[int], list[int]]:
        """Source and target views: `choose_views` of the usable ones, a count of sources spread over those that have a
        picture. ValueError for a view that cannot be used, naming it.
        """
        usable = self.all()
        chosen = list(sources) if not isinstance(sources, int) else self.spread(sources)
        rest = [number for number in usable if number not in set(chosen)] if targets is None else targets
        chosen, wanted = choose_views(len(self), chosen, rest)
        for number in chosen + wanted:
            self.check(number)
        for number in chosen:
            if self.views[number].picture is None:
                raise ValueError(self.without_picture(number))
        return chosen, wanted

    def spread(self, sources: int) -> list[int]:
        """This many views, spread evenly over those that have a picture. At least one view stays free as a target."""
        usable = self.usable
        shown = [number for number in usable if self.views[number].picture is not None]
        if usable and not shown:
            raise ValueError(self.without_picture(usable[0]))
        if sources == len(shown) < len(usable):
            return shown
        return [shown[place] for place in interpolate(len(shown), sources)]

    def without_picture(self, view: int) -> str:
        searched = f" in {self.searched}, or several of that name" if self.searched else ""
        name = self.views[view].name[:200]
        return f"{name} has a camera but no picture{searched}; it can be a target, not a source."

    # Sizes and lenses of single views

    def lens_of(self, number: int, image: Size | None = None) -> tuple[Tensor, Size]:
        """K (3, 3) float32 of a view and the height and width that it is for: those of `image`, of its picture as it is
        shown, of the file, or `size`. ValueError, naming the view, where the picture has another shape than the file
        says, is turned by its EXIF orientation, or no size is known.
        """
        view = self.check(number)
        assert view.lens is not None
        what = f"{self.source}: {view.name[:200]}" if image or view.picture is None else f"{view.picture}"
        if image is None and view.picture is None:
            size = view.size or self.size or self.first_size
            if size is None:
                raise ValueError(
                    f"{what} has no image size and no picture; give 'width' and 'height' in pixels, or put the "
                    "pictures beside the file."
                )
            return torch.from_numpy(view.lens(*size)).float(), size
        found = PictureSize(image[0], image[1], 1) if image else picture_size(self.picture(number))
        shown = (found.height, found.width)
        if view.size is None:
            K = view.lens(*shown)
            if found.orientation in QUARTER_TURNS and belongs(K, found.stored) and not belongs(K, shown):
                raise ValueError(turned(what, found.orientation))
            # Lenses in shares of the picture or in angles are for any size.
            if np.array_equal(K, view.lens(2 * shown[0], 2 * shown[1])):
                check_own_size(K, shown, what)
            return torch.from_numpy(K).float(), shown
        K = view.lens(*view.size).copy()
        if same_shape(view.size, shown):
            K[0] *= shown[1] / view.size[1]
            K[1] *= shown[0] / view.size[0]
            return torch.from_numpy(K).float(), shown
        if found.orientation in QUARTER_TURNS and same_shape(view.size, found.stored):
            raise ValueError(turned(what, found.orientation))
        raise ValueError(
            f"{what} is {shown[1]}x{shown[0]}, but its camera is for {view.size[1]}x{view.size[0]}, another shape; put "
            "the picture there that the camera was made for, not cropped, or a copy of it in another size."
        )

    @cached_property
    def first_size(self) -> Size | None:
        """Of the first picture, which cameras without a picture and without a size are for."""
        first = next((view.picture for view in self.views if view.picture is not None), None)
        return None if first is None else picture_size(first)[:2]

    # Cameras and photographs together

    def fits(
        self, numbers: Sequence[int], size: Size | None = None, images: tuple[int, Size] | None = None
    ) -> list[tuple[Fit, Tensor]]:
        """How each view's picture becomes one of the common size, and its K then.

        images: how many photographs of the first views there are already, and their size, to which K is scaled.
        The common size is `size`, else that of the first view fitted to `long_side`. Without long_side views keep
        their pixels; sizes that differ by a few, as programs that undistort leave them, are cropped to the smallest.
        """
        known: dict[tuple, tuple[Tensor, Size]] = {}
        lenses = []
        for place, number in enumerate(numbers):
            view = self.views[number]
            # Thousands of views have one camera; a picture may be of another size than that of the next view.
            key = (id(view.lens), view.size, view.problem, images is None or place < images[0], view.picture)
            if key not in known:
                known[key] = self.lens_of(number, self.image_size(place, number, images))
            lenses.append(known[key])
        sizes = [own for _, own in lenses]
        if size is not None:
            height, width = size
        elif self.long_side is not None:
            height, width = fitting_size(sizes[0][0], sizes[0][1], self.long_side)
        else:
            height, width = (min(side) for side in zip(*set(sizes), strict=True))
            if any(own[0] > 1.03 * height + 2 or own[1] > 1.03 * width + 2 for own in set(sizes)):
                other = next(place for place, own in enumerate(sizes) if own != sizes[0])
                raise ValueError(
                    f"{self.source} has images of {sizes[0][1]}x{sizes[0][0]} ({self.views[numbers[0]].name[:99]}) "
                    f"and of {sizes[other][1]}x{sizes[other][0]} ({self.views[numbers[other]].name[:99]}); choose "
                    "views of one size, or a 'long_side' that all are fitted to."
                )
        made: dict[int, tuple[Fit, Tensor]] = {}
        for number, (K, own) in zip(numbers, lenses, strict=True):
            if id(K) not in made:
                made[id(K)] = fit_camera(K, own[0], own[1], height, width, self.views[number].name[:200])
        return [made[id(K)] for K, _ in lenses]

    def image_size(self, place: int, number: int, images: tuple[int, Size] | None) -> Size | None:
        """What the photographs are scaled to, for those and for views whose camera is for the same shape."""
        own = self.views[number].size
        if images is None or (place >= images[0] and own is not None and not same_shape(own, images[1])):
            return None
        return images[1]

    def cameras_of(self, numbers: Sequence[int], fits: Sequence[tuple[Fit, Tensor]] | None = None) -> Cameras:
        """Cameras of these views, in their order."""
        fits = self.fits(numbers) if fits is None else fits
        poses = torch.from_numpy(
            np.stack([found for found in (self.check(n).c2w for n in numbers) if found is not None])
        )
        cameras = Cameras.in_world(poses, torch.stack([K for _, K in fits]), fits[0][0].height, fits[0][0].width)
        cameras.check([self.views[number].name for number in numbers])
        return cameras

    @property
    def cameras(self) -> Cameras:
        """Of all views that can be used."""
        return self.cameras_of(self.all())

    def photographs(self, numbers: Sequence[int], tick: Callable[[], None] = lambda: None) -> Tensor:
        """(len(numbers), 3, H, W) in [0, 1], fitted with their cameras, or, in a scene without cameras, about their
        middle. tick is called before each picture is read. ValueError where a view has no picture.
        """
        for number in numbers:
            if self.views[number].picture is None:
                raise ValueError(self.without_picture(number))
        fits = self.fits(numbers) if self.posed else self.central_fits(numbers)
        return self.decoded(numbers, fits, tick)

    def central_fits(self, numbers: Sequence[int]) -> list[tuple[Fit, Tensor]]:
        sizes = [picture_size(self.picture(number))[:2] for number in numbers]
        height, width = fitting_size(*sizes[0], self.long_side or 504)
        fits = []
        for number, (h, w) in zip(numbers, sizes, strict=True):
            middle = torch.tensor([[1.0, 0, w / 2], [0, 1, h / 2], [0, 0, 1]])
            fits.append(fit_camera(middle, h, w, height, width, self.views[number].name[:200]))
        return fits

    def picture(self, number: int) -> Path:
        found = self.views[number].picture
        if found is None:
            raise ValueError(self.without_picture(number))
        return found

    def decoded(self, numbers: Sequence[int], fits: Sequence[tuple[Fit, Tensor]], tick: Callable[[], None]) -> Tensor:
        images = []
        for number, (how, _) in zip(numbers, fits, strict=True):
            tick()
            images.append(how.apply(read_image(self.picture(number))))
        return torch.stack(images)

    def load(
        self,
        sources: Sequence[int],
        targets: Sequence[int],
        tick: Callable[[], None] = lambda: None,
        size: Size | None = None,
    ) -> tuple[Tensor, Cameras]:
        """Photographs (N, 3, H, W) of the sources, and cameras of the sources, then the targets (N + M), of `size` or
        fitted to long_side. Everything is checked before the first picture is decoded; tick is called before each.
        """
        numbers = [*sources, *targets]
        fits = self.fits(numbers, size)
        cameras = self.cameras_of(numbers, fits)
        return self.decoded(sources, fits[: len(sources)], tick), cameras


def check_count(views: int, what: str) -> None:
    """ValueError, which `what` begins, where a file holds more than MOST_VIEWS."""
    if views > MOST_VIEWS:
        raise ValueError(f"{what} holds more than the {MOST_VIEWS} views that are read; give a part of them.")


def scene_of(cameras: Cameras, names: Sequence[str], source: str, long_side: int | None) -> Scene:
    """A scene without pictures, made of cameras that exist already."""
    size = (cameras.height, cameras.width)
    poses, intrinsics = cameras.world_c2w.numpy(), cameras.K.double().numpy()
    views = [View(name, c2w, pixels(K), size) for name, c2w, K in zip(names, poses, intrinsics, strict=True)]
    return Scene(source, views, long_side)


def same_shape(a: Size, b: Size) -> bool:
    """Whether two sizes have the same aspect ratio, within the rounding to whole pixels."""
    across, down = b[1] / a[1], b[0] / a[0]
    return abs(across / down - 1) <= 1 / min(a[1], b[1]) + 1 / min(a[0], b[0])


def belongs(K: np.ndarray, size: Size) -> bool:
    """Whether the principal point lies near the middle of an image of this size."""
    return abs(K[0, 2] / size[1] - 0.5) < 0.1 and abs(K[1, 2] / size[0] - 0.5) < 0.1


def check_own_size(K: np.ndarray, size: Size, what: str) -> None:
    """ValueError where a K in pixels of a size that is not said is of another one."""
    across, down = 2 * K[0, 2] / size[1], 2 * K[1, 2] / size[0]
    low, high = PRINCIPAL_RANGE
    scaled = abs(across - 1) > 0.05 and abs(across - down) < 0.01 * across
    if scaled or not (low <= across / 2 <= high and low <= down / 2 <= high):
        raise ValueError(
            f"{what} has its principal point at ({K[0, 2]:.5g}, {K[1, 2]:.5g}), far from the middle of its "
            f"{size[1]} x {size[0]} picture: K is of another image size, about {2 * K[0, 2]:.0f} x {2 * K[1, 2]:.0f}; "
            "scale it to the picture's pixels."
        )


def turned(what: str, orientation: int) -> str:
    return (
        f"{what} is shown turned by a quarter (EXIF orientation {orientation}), but its camera is for the pixels "
        "as they are stored; remove the orientation from the file (exiftool -Orientation= FILE), or give cameras of "
        "the turned picture."
    )


def interpolate(views: int, sources: int) -> list[int]:
    """The released demo's choice of source views: round(i * (V-1) / (N-1)), i = 0..N-1; view 0 if N = 1.
    docs/model.md#the-pipeline

    Raises ValueError unless 1 <= N <= V-1.
    """
    if not 1 <= sources <= views - 1:
        raise ValueError(
            f"{sources} sources of {views} views; give between 1 and {views - 1}, so that a target is left."
        )
    if sources == 1:
        return [0]
    return [round(i * (views - 1) / (sources - 1)) for i in range(sources)]


def choose_views(
    views: int, sources: Sequence[int] | int, targets: Sequence[int] | None = None
) -> tuple[list[int], list[int]]:
    """Source and target indices out of `views`. `sources` is a list, or a number for `interpolate`; `targets` defaults
    to the remaining views in order. Raises ValueError for an index out of range, given twice, or in both lists.
    """
    chosen = interpolate(views, sources) if isinstance(sources, int) else list(sources)
    wanted = [view for view in range(views) if view not in set(chosen)] if targets is None else list(targets)
    for kind, indices in (("source", chosen), ("target", wanted)):
        if not indices:
            raise ValueError(f"No {kind} view is left among the {views} views; choose at least one.")
        seen: set[int] = set()
        for view in indices:
            if not 0 <= view < views:
                raise ValueError(f"There is no {kind} view {view}; the scene has views 0 to {views - 1}.")
            if view in seen:
                raise ValueError(f"The {kind} view {view} is given twice.")
            seen.add(view)
    both = sorted(set(chosen) & set(wanted))
    if both:
        raise ValueError(f"View {both[0]} is both a source and a target; choose one.")
    return chosen, wanted


def view_numbers(text: str, what: str) -> list[int]:
    """'0, 3-5' -> [0, 3, 4, 5]. ValueError, which names `what`, for anything else, and for more than MOST_VIEWS, before
    they are listed.
    """
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = part.partition("-")
        ends = (first.strip(), (last or first).strip())
        if not all(end.isdecimal() and len(end) < 8 for end in ends) or int(ends[0]) > int(ends[1]):
            raise ValueError(f"{what} is {text[:60]!r}; give view numbers such as '0, 3-5'.")
        ranges.append(range(int(ends[0]), int(ends[1]) + 1))
    if sum(map(len, ranges)) > MOST_VIEWS:
        raise ValueError(f"{what} lists more than {MOST_VIEWS} views; give fewer view numbers.")
    return [view for part in ranges for view in part]
