"""Rows of errors, their means, and the tables made of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..cameras import Cameras
from ..geometry.depth_maps import Progress
from ..io.files import atomic
from .lpips import LPIPS
from .metrics import check_pair, depth_errors, median_scale, pose_errors, psnr, ssim

# Name in JSON: heading in Markdown, digits after the point.
COLUMNS = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 3),
    "abs_rel": ("AbsRel", 3),
    "rmse": ("RMSE", 3),
    "delta1": ("delta1", 3),
    "abs_rel_median": ("AbsRel (median)", 3),
    "rmse_median": ("RMSE (median)", 3),
    "delta1_median": ("delta1 (median)", 3),
    "ate": ("ATE", 3),
    "rpe_rotation": ("RPE deg", 2),
    "rpe_translation": ("RPE", 3),
    "auc": ("AUC@30", 3),
}
# Means by column, and psnr_of_targets, a list.
Row = dict[str, Any]


def picture_errors(
    images: Tensor, truth: Tensor, lpips: LPIPS | None, progress: Progress | None = None
) -> dict[str, Tensor]:
    """Errors of pictures (V, 3, H, W), (V,) by column. LPIPS is left out where it is None. progress(done, total) after
    each view.
    """
    check_pair(images, truth)
    measures = {"psnr": psnr, "ssim": ssim} | ({} if lpips is None else {"lpips": lpips})
    errors: dict[str, list[Tensor]] = {name: [] for name in measures}
    for view, (image, true) in enumerate(zip(images.split(1), truth.split(1), strict=True)):
        for name, measure in measures.items():
            errors[name].append(measure(image, true))
        if progress is not None:
            progress(view + 1, len(images))
    return {name: torch.cat(values) for name, values in errors.items()}


def scaled_depth_errors(depth: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Errors of depth (V, H, W), (V,) by column: as it is, and scaled to the median of the truth over all views."""
    errors = depth_errors(depth, truth)._asdict()
    scaled = depth_errors(depth * median_scale(depth, truth), truth)._asdict()
    return errors | {f"{name}_median": values for name, values in scaled.items()}


def means(errors: Mapping[str, Tensor]) -> Row:
    return {name: float(values.mean()) for name, values in errors.items()}


def pose_row(found: Cameras, truth: Cameras, along: Sequence[int]) -> Row:
    """Errors of V cameras by column. along: their order on the path."""
    return pose_errors(found.c2w[along], truth.c2w[along])._asdict()


def mean_rows(scenes: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """The mean over scenes of every column of every row."""
    each = [scene["rows"] for scene in scenes.values()]
    if not each:
        return {}
    return {
        name: {key: sum(rows[name][key] for rows in each) / len(each) for key in COLUMNS if key in each[0][name]}
        for name in each[0]
    }


def table(rows: Sequence[tuple[str, Row]]) -> str:
    """A table in Markdown that also reads well as text, with a column for every number that some row has."""
    used = [key for key in COLUMNS if any(key in row for _, row in rows)]
    lines = [["", *(COLUMNS[key][0] for key in used)]]
    for name, row in rows:
        lines.append([name, *(f"{row[key]:.{COLUMNS[key][1]}f}" if key in row else "" for key in used)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def finite(content: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON has it: null in place of numbers that are not finite."""
    return json.loads(json.dumps(content, default=str), parse_constant=lambda name: None)


def to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(finite(content), indent=1)


def write_results(
    out: Path,
    settings: Mapping[str, object],
    scenes: Mapping[str, Mapping[str, Any]],
    planned: int,
    failed: Mapping[str, str] = MappingProxyType({}),
    stem: str = "results",
) -> None:
    """Write results.json and results.md of the scenes that have been measured so far. failed: why, by scene."""
    mean = mean_rows(scenes)
    content = {"settings": settings, "planned": planned, "mean": mean, "scenes": scenes, "failed": failed}
    each = [(f"{name}: {row}", values) for name, scene in scenes.items() for row, values in scene["rows"].items()]
    notes = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    text = f"Mean of {len(scenes)} scenes of {planned}:\n\n{table(list(mean.items()))}\n\n{notes}\n\n{table(each)}\n"
    if failed:
        text += "\nFailed:\n\n" + "".join(f"- {name}: {why}\n" for name, why in failed.items())
    with atomic(out / f"{stem}.json") as temporary:
        temporary.write_text(to_json(content) + "\n", encoding="utf-8")
    with atomic(out / f"{stem}.md") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
