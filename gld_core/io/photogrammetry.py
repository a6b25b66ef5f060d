"""Cameras that programs of photogrammetry export: OpenSfM (and OpenDroneMap), Metashape, RealityCapture, Bundler."""

import csv
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from scipy.spatial.transform import Rotation

from .parsing import (
    FLIP,
    MOST_VALUES,
    Finish,
    check_distortion,
    collect,
    from_opengl,
    inverse,
    number,
    numbers,
    pinhole,
    read_bounded,
    side,
    text_lines,
)
from .scenes import Given, Lens, Size, View, check_count, pixels

# Elements of an XML file, and of them in a sensor, a calibration or a component.
MOST_ELEMENTS, MOST_PARTS = 300_000, 100
# Characters of an element's numbers.
LONGEST_TEXT = 4096


def is_opensfm(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and {"cameras", "shots"} <= first.keys()


def read_opensfm(content: Any, path: Path, given: Given) -> list[View]:
    """OpenSfM's reconstruction.json, of several reconstructions the largest: shots with rotation (axis times angle) and
    translation, world-to-camera with OpenCV's axes; cameras with focal length and principal point as shares of the
    longer side, from the middle. https://opensfm.org/docs/geometry.html
    """
    largest = max(
        content,
        key=lambda part: len(part["shots"]) if isinstance(part, dict) and isinstance(part.get("shots"), dict) else -1,
    )
    cameras, shots = largest.get("cameras"), largest.get("shots")
    if not isinstance(cameras, dict) or not isinstance(shots, dict):
        raise ValueError(f"{path} has no cameras and shots; export it again from OpenSfM.")
    check_count(len(shots), str(path))

    def view(name: str, label: str, shot: Any) -> tuple[View, np.ndarray, Finish]:
        camera = cameras.get(str(shot.get("camera"))) if isinstance(shot, dict) else None
        if not isinstance(camera, dict):
            raise ValueError(f"{label} has no camera; export it again from OpenSfM.")
        lens, size = opensfm_lens(camera, label, given)
        w2c = np.eye(4)
        turn = numbers(shot.get("rotation"), (3,), f"rotation of {label}")
        if not np.abs(turn).max() < 1e3:
            raise ValueError(f"rotation of {label} is no axis times an angle in radians; leave that view out.")
        w2c[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
        w2c[:3, 3] = numbers(shot.get("translation"), (3,), f"translation of {label}")
        return View(name, lens=lens, size=size), w2c, lambda found: inverse(found, label)

    return collect(((name, f"{path}: {name[:200]}", shot) for name, shot in shots.items()), view)


def opensfm_lens(camera: dict, what: str, given: Given) -> tuple[Lens, Size]:
    kind = camera.get("projection_type", "perspective")
    kind = kind[:40] if isinstance(kind, str) else "unknown"
    if kind.lower() not in ("perspective", "brown", "simple_radial", "radial"):
        raise ValueError(f"{what} has the projection {kind}; undistort the pictures (opensfm undistort).")
    names = ("k1", "k2", "k3", "p1", "p2")
    coefficients = {key: number(camera[key], f"{what}: {key}") for key in names if key in camera}
    check_distortion(what, coefficients, given.ignore_distortion)
    height, width = side(camera.get("height"), f"{what}: height"), side(camera.get("width"), f"{what}: width")
    focal = camera.get("focal", camera.get("focal_x"))
    fx = number(camera.get("focal_x", focal), f"{what}: focal")
    fy = number(camera.get("focal_y", focal), f"{what}: focal")
    cx, cy = (number(camera.get(key, 0), f"{what}: {key}") for key in ("c_x", "c_y"))
    longer = max(height, width)
    return pixels(pinhole(fx * longer, fy * longer, width / 2 + cx * longer, height / 2 + cy * longer)), (height, width)


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. ValueError, before anything is expanded, where it declares a document type or entities,
    and where it has more than MOST_ELEMENTS elements.
    """
    data, count = read_bounded(path), 0

    def declared(*_: Any) -> None:
        raise ValueError(f"{path} declares a document type, which no export of cameras has; export it again.")

    def element(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS:
            raise ValueError(f"{path} has more than {MOST_ELEMENTS} elements, which no export of cameras has.")

    try:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declared
        parser.StartElementHandler = element
        parser.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"{path} is not whole XML ({error}); export it again.") from None


def floats(element: ElementTree.Element | None, what: str) -> list[float]:
    text = (element.text if element is not None else "") or ""
    if element is not None and len(text) > LONGEST_TEXT:
        raise ValueError(f"{what} has a {element.tag} of {len(text)} characters; export the cameras again.")
    return [number(value, what) for value in text.split()]


def check_parts(element: ElementTree.Element, what: str) -> None:
    """ValueError where what many cameras share has more parts than any program writes, which each would go through."""
    if len(element) > MOST_PARTS:
        raise ValueError(f"{what} has a {element.tag} of {len(element)} parts; export the cameras again.")


def read_metashape(root: ElementTree.Element, path: Path, given: Given) -> list[View]:
    """The cameras that Agisoft Metashape exports as XML: camera-to-world 4x4 with OpenCV's axes in the chunk's frame,
    f in pixels, cx, cy from the middle. Cameras that were not aligned have no transform and cannot be used. The
    transform of a component is applied, that of the chunk, which leads to the Earth, is not.
    """
    chunk = root.find("chunk")
    if root.tag != "document" or chunk is None:
        raise ValueError(f"{path} is no camera file of Metashape (document, chunk); export the cameras as Agisoft XML.")
    sensors = {sensor.get("id"): sensor for sensor in chunk.iter("sensor")}
    components = {part.get("id"): part for part in chunk.iter("component")}

    def view(name: str, label: str, camera: ElementTree.Element) -> tuple[View, np.ndarray, Finish]:
        transform = camera.find("transform")
        if transform is None:
            raise ValueError(f"{label} was not aligned; leave that view out.")
        sensor = sensors.get(camera.get("sensor_id"))
        if sensor is None:
            raise ValueError(f"{label} has no sensor; export the cameras again.")
        lens, size = metashape_lens(sensor, label, given)
        component = components.get(camera.get("component_id"))
        return (
            View(name, lens=lens, size=size),
            numbers(floats(transform, label), (4, 4), f"transform of {label}"),
            lambda found: component_transform(component, label, found),
        )

    names = [str(camera.get("label", camera.get("id"))) for camera in chunk.iter("camera")]
    check_count(len(names), str(path))
    labels = [f"{path}: {name[:200]}" for name in names]
    return collect(zip(names, labels, chunk.iter("camera"), strict=True), view)


def component_transform(component: ElementTree.Element | None, what: str, c2w: np.ndarray) -> np.ndarray:
    """A pose brought from its component's frame to the chunk's: x -> scale R x + t."""
    if component is not None:
        check_parts(component, what)
    transform = None if component is None else component.find("transform")
    if transform is None:
        return c2w
    R = numbers(floats(transform.find("rotation"), what) or np.eye(3).ravel(), (3, 3), f"component rotation of {what}")
    t = numbers(floats(transform.find("translation"), what) or [0, 0, 0], (3,), f"component translation of {what}")
    scale = (floats(transform.find("scale"), what) or [1.0])[0]
    out = c2w.copy()
    out[:3, :3] = R @ c2w[:3, :3]
    out[:3, 3] = scale * R @ c2w[:3, 3] + t
    return out


def metashape_lens(sensor: ElementTree.Element, what: str, given: Given) -> tuple[Lens, Size]:
    kind = sensor.get("type", "frame")
    if kind != "frame":
        raise ValueError(
            f"{what} is of a {kind[:40]} camera; export undistorted perspective pictures and their cameras."
        )
    check_parts(sensor, what)
    calibrations = sensor.findall("calibration")
    adjusted = [found for found in calibrations if found.get("class") == "adjusted"] or calibrations
    if not adjusted:
        raise ValueError(f"{what} has a sensor without calibration; leave that view out.")
    calibration = adjusted[-1]
    check_parts(calibration, what)
    resolution = calibration.find("resolution")
    resolution = sensor.find("resolution") if resolution is None else resolution
    if resolution is None:
        raise ValueError(f"{what} has a sensor without resolution; export the cameras again.")
    height, width = side(resolution.get("height"), f"{what}: height"), side(resolution.get("width"), f"{what}: width")
    values = {
        part.tag: number(part.text, f"{what}: {part.tag}")
        for part in calibration
        if part.tag != "resolution" and len(part) == 0 and part.text and part.tag in METASHAPE
    }
    check_distortion(what, {key: value for key, value in values.items() if key[0] in "kpb"}, given.ignore_distortion)
    if "f" not in values:
        raise ValueError(f"{what} has no focal length; export the cameras again.")
    focal = values["f"]
    cx, cy = width / 2 + values.get("cx", 0), height / 2 + values.get("cy", 0)
    return pixels(pinhole(focal, focal, cx, cy)), (height, width)


METASHAPE = ("f", "cx", "cy", "b1", "b2", "k1", "k2", "k3", "k4", "p1", "p2", "p3", "p4")


def is_reality_capture(first_line: str) -> bool:
    names = [name.strip().lower() for name in first_line.removeprefix("\ufeff").split(",")]
    return names[0] in ("#name", "name") and {"heading", "pitch", "roll", "f"} <= set(names)


def read_reality_capture(path: Path, given: Given) -> list[View]:
    """RealityCapture's (RealityScan's) CSV of internal and external parameters: x, y, alt; heading, pitch and roll in
    degrees, which turn a camera that looks down with its upper edge to the north: Rz(-heading) Rx(pitch) Ry(roll) with
    OpenGL axes; f as that of a 36 mm film, px, py from the middle as shares of the longer side. Sizes are those of the
    pictures.
    """
    data = read_bounded(path)
    # Columns that the first line does not name would be kept, however many there are.
    check_count(data.count(b"\n"), str(path))
    if data.count(b",") > MOST_VALUES:
        raise ValueError(f"{path} has more than {MOST_VALUES} values, which no export of cameras has; give another.")
    rows = csv.DictReader(TextIOWrapper(BytesIO(data), "utf-8-sig", "replace", newline=""))
    entries: list[tuple[str, str, dict]] = []
    for row in rows:
        values = {str(key).strip().lower().lstrip("#"): value for key, value in row.items()}
        name = str(values.get("name") or len(entries))
        entries.append((name, f"{path}: {name[:200]}", values))

    def view(name: str, label: str, values: dict) -> tuple[View, np.ndarray, Finish]:
        def column(key: str, default: float | None = None) -> float:
            value = values.get(key)
            return number(default if value in (None, "") and default is not None else value, f"{label}: {key}")

        coefficients = {key: column(key, 0.0) for key in ("k1", "k2", "k3", "k4", "t1", "t2")}
        check_distortion(label, coefficients, given.ignore_distortion)
        angles = [-column("heading"), column("pitch"), column("roll")]
        if max(map(abs, angles)) > 1e6:
            raise ValueError(f"{label} has no angles in degrees; export it again.")
        c2w = np.eye(4)
        c2w[:3, :3] = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix()
        c2w[:3, 3] = column("x"), column("y"), column("alt")
        focal, px, py = column("f") / 36, column("px", 0.0), column("py", 0.0)

        def lens(height: int, width: int) -> np.ndarray:
            longer = max(height, width)
            return pinhole(focal * longer, focal * longer, width / 2 + px * longer, height / 2 + py * longer)

        return View(name, lens=lens), c2w, from_opengl

    return collect(entries, view)


def read_bundler(path: Path, given: Given) -> list[View]:
    """Bundler's bundle.out: per camera focal length in pixels and two coefficients, rotation and translation, world-to-
    camera with OpenGL axes; the principal point is in the middle of the picture. Names are those of a list.txt beside
    it, else numbers; a focal length of 0 is a camera that was not found. https://www.cs.cornell.edu/~snavely/bundler
    """
    names: list[str] = []
    for folder in (path.parent, path.parent.parent):
        if not names and (folder / "list.txt").is_file():
            names = [line.split(maxsplit=1)[0] for line in text_lines(folder / "list.txt") if line.strip()]
    entries: list[tuple[str, str, np.ndarray]] = []
    with open(path, "rb") as file:

        def row(length: int) -> list[float]:
            data = file.readline(4096)
            while data.startswith(b"#"):
                data = file.readline(4096)
            values = [float(value) for value in data.split()]
            if len(values) != length:
                raise ValueError
            return values

        try:
            count = int(row(2)[0])
        except (ValueError, OverflowError):
            count = 0
        check_count(count, str(path))
        try:
            for place in range(count):
                name = names[place] if place < len(names) else f"{place:05}"
                entries.append((name, f"{path}: camera {place} ({name[:100]})", np.array([row(3) for _ in range(5)])))
            if not count:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path} ends or changes after {len(entries)} cameras; write it again with Bundler."
            ) from None

    def view(name: str, label: str, values: np.ndarray) -> tuple[View, np.ndarray, Finish]:
        focal, k1, k2 = values[0]
        if focal == 0:
            raise ValueError(f"{label} was not found by Bundler; leave that view out.")
        check_distortion(label, {"k1": k1, "k2": k2}, given.ignore_distortion)
        w2c = np.eye(4)
        w2c[:3, :3], w2c[:3, 3] = values[1:4], values[4]

        def lens(height: int, width: int) -> np.ndarray:
            return pinhole(focal, focal, width / 2, height / 2)

        return View(name, lens=lens), w2c, lambda found: inverse(found, label) @ FLIP

    return collect(entries, view)
