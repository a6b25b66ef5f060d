"""A scene's folder of results: it appears when it is whole, and says what it was made of.

Files are written into a folder beside it, whose name says which process writes there. `result.json` comes last, and the
folder takes its place. Several processes may work on one scene: the first result stays.
"""

import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..io.cameras import files_in
from ..io.files import SHOWN, atomic, naming_full_disk
from .description import EXPORT_SETTINGS

RESULT = "result.json"
# What the exports are made of, where one of them failed.
KEPT = "views.safetensors"
# Errors that say in a sentence what is wrong.
SENTENCES = (ValueError, OSError, RuntimeError, MemoryError)
# Fields of a job that are paths of files that it reads.
PATHS = ("input", "path")
PARTIAL = ".partial-"
WEEK = 7 * 24 * 3600


def sentence(error: BaseException) -> str:
    """The first line of an error, with its kind where that is needed to make anything of it."""
    text, kind = str(error).strip().split("\n")[0], type(error).__name__
    return text if text and isinstance(error, SENTENCES) else f"{kind}: {text}" if text else kind


def listed(failed_exports: Mapping[str, str]) -> str:
    """Which exports failed, and why, on a line."""
    return "; ".join(f"{name}: {text}" for name, text in failed_exports.items())


def exports_failed(folder: Path, failed_exports: Mapping[str, str]) -> str:
    """The same in sentences, with what is left and how to go on."""
    failures = " ".join(f"The export {name} failed: {text}" for name, text in failed_exports.items())
    return (
        f"{failures} All else is in {folder}. The next start makes the exports of the views that are there; their "
        "settings may be others then."
    )


def absolute(job: Any) -> Any:
    """The job with absolute paths in place of those that start at the working directory."""
    given = {name: getattr(job, name, None) for name in PATHS}
    return replace(job, **{name: os.path.abspath(path) for name, path in given.items() if path})


def input_stamp(job: Any) -> str:
    """Changes when a file of the input, or of the path, is another, by name, size or time."""
    digest = hashlib.sha256()
    for start in filter(None, (getattr(job, name, None) for name in PATHS)):
        for path in files_in(Path(start)):
            status = path.stat()
            digest.update(os.fsencode(path.name) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def described(job: Any) -> dict[str, Any]:
    """The settings that decide what a result is, as JSON has them; not where it is put."""
    return {key: value for key, value in json.loads(json.dumps(asdict(absolute(job)))).items() if key != "name"}


def files_of(folder: Path) -> dict[str, int]:
    """Size in bytes of every file, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def write_result(
    folder: Path,
    job: Any,
    weights: str | None,
    seconds: float,
    figures: dict[str, Any],
    failed_exports: Mapping[str, str],
) -> None:
    """result.json: what the files beside it were made of, and their sizes. failed_exports: sentences by export."""
    content = {
        "job": described(job),
        "input": input_stamp(job),
        "weights": weights,
        "seconds": round(seconds, 3),
        "figures": figures,
        "failed_exports": dict(failed_exports),
        "files": files_of(folder),
    }
    write_json(folder / RESULT, content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's result.json; None where there is none that can be read."""
    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else None


def unfinished(folder: Path, job: Any, weights: str) -> str:
    """Why a folder is not the finished result of this job with these weights, in a few words; empty where it is."""
    found = read_result(folder)
    if found is None:
        return "there is no result"
    if "job" not in found:
        return "it was left half replaced"
    if found["job"] != described(job):
        return "the settings were others"
    if found.get("weights") != weights:
        return "the weights were others"
    if found.get("input") != input_stamp(job):
        return "the input has changed"
    have = files_of(folder)
    missing = [name for name, size in found["files"].items() if have.get(name) != size]
    if missing:
        return f"{missing[0]} is missing or damaged"
    return next((f"the export {name} failed" for name in found.get("failed_exports", ())), "")


def views_are_kept(folder: Path, job: Any, weights: str | None) -> bool:
    """Whether an export of a folder failed and its views are those of this job, whose exports may be others."""
    found = read_result(folder)
    if found is None or not found.get("failed_exports"):
        return False
    settings = [
        {name: value for name, value in one.items() if name not in EXPORT_SETTINGS}
        for one in (found["job"], described(job))
    ]
    kept = folder / KEPT
    return (
        settings[0] == settings[1]
        and weights is not None
        and (found["weights"], found["input"]) == (weights, input_stamp(job))
        and kept.is_file()
        and kept.stat().st_size == found["files"].get(KEPT)
    )


def check_free(folder: Path, overwrite: bool = False) -> None:
    """Raise ValueError unless results may be written to the folder."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the results.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(
            f"{folder} is not empty; choose another --out, or --overwrite to replace files of the same name."
        )


def check_apart(job: Any, folder: Path) -> None:
    """Raise ValueError where the folder lies in one that the job reads, whose part it would be at the next start."""
    for start in filter(None, (getattr(job, name, None) for name in PATHS)):
        if os.path.isdir(start) and folder.resolve().is_relative_to(Path(start).resolve()):
            raise ValueError(f"The results' folder {folder} lies in {start}, which is read; choose an --out beside it.")


@contextmanager
def result_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when the block ends, or is removed where it raises. Where `folder`
    has files already, those of the same name are replaced, and those of an earlier result that are no longer made are
    removed; result.json is moved last.
    """
    folder = Path(os.path.abspath(folder))
    with naming_full_disk(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A process that died at this scene, as a worker of a cluster does, is not waited for until the next start.
        remove_abandoned(folder.parent, folder.name)
        prefix = f".{folder.name[:SHOWN]}{PARTIAL}{socket.gethostname()}-{os.getpid()}-"
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        temporary.chmod(0o755)
        try:
            yield temporary
            try:
                # Takes the place of an empty folder too, but not on Windows.
                os.rename(temporary, folder)
            except OSError:
                merge(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def merge(new: Path, folder: Path) -> None:
    earlier, made = read_result(folder), read_result(new) or {}
    same = earlier is not None and all(earlier.get(key) == made.get(key) for key in ("job", "weights", "input"))
    complete = earlier is not None and not earlier.get("failed_exports")
    if earlier is not None and same and complete and files_of(folder).items() >= earlier["files"].items():
        # Another process was faster.
        return
    files = files_of(new)
    # A process that dies here leaves a result that is ours to replace, and no finished one.
    write_json(folder / RESULT, {"files": (earlier or {"files": {}})["files"] | files})
    for name in sorted(files, key=lambda name: name == RESULT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, folder / name)
    for name in set(earlier["files"]) - files.keys() if earlier is not None else ():
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)


def remove_abandoned(parent: Path, scene: str | None = None) -> None:
    """Remove what processes of this machine that no longer run have left half written, of one scene or of all; and what
    those of other machines have not touched for a week.
    """
    for folder in parent.glob(f".{'*' if scene is None else glob.escape(scene[:SHOWN])}{PARTIAL}*"):
        writer, _, number = folder.name.rpartition(PARTIAL)[2].rpartition("-")[0].rpartition("-")
        if writer == socket.gethostname():
            abandoned = number.isdecimal() and not is_running(int(number))
        else:
            abandoned = time.time() - folder.stat().st_mtime > WEEK
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def is_running(process: int) -> bool:
    if os.name == "nt":
        # There os.kill would end it.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
