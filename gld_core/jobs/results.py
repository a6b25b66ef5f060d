"""A scene's folder of results: it appears when it is whole, and says what it was made of.

Files are written into a folder beside it, whose name says which process writes there. `result.json` comes last, and the
folder takes its place. Several processes may work on one scene: the first result stays.
"""

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import checkpoints
from ..io.cameras import files_in
from ..io.files import atomic
from .description import Job

RESULT = "result.json"
PARTIAL = ".partial-"


def weights_hash(models_dir: str | os.PathLike, backbone: str) -> str:
    """SHA-256 of all files that the networks and statistics are loaded from."""
    paths = {checkpoints.find(models_dir, backbone, part) for part in checkpoints.LAYOUT[backbone]}
    paths |= {path for path, _ in checkpoints.read_statistics(models_dir, backbone).values()}
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(checkpoints.sha256(path).encode())
    return digest.hexdigest()


def input_stamp(job: Job) -> str:
    """Changes when a file of the input, or of the path, is another, by name, size or time."""
    digest = hashlib.sha256()
    for start in filter(None, (job.input, job.path)):
        for path in files_in(Path(start)):
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def described(job: Job) -> dict[str, Any]:
    """The settings that decide what a result is, as JSON has them; not where it is put."""
    absolute = replace(job, input=os.path.abspath(job.input), path=job.path and os.path.abspath(job.path))
    return {key: value for key, value in json.loads(json.dumps(asdict(absolute))).items() if key != "name"}


def files_of(folder: Path) -> dict[str, int]:
    """Size in bytes of every file, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def write_result(folder: Path, job: Job, weights: str | None, seconds: float, figures: dict[str, float]) -> None:
    """result.json: what the files beside it were made of, and their sizes."""
    content = {
        "job": described(job),
        "input": input_stamp(job),
        "weights": weights,
        "seconds": round(seconds, 3),
        "figures": figures,
        "files": files_of(folder),
    }
    with atomic(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's result.json; None where there is none that can be read."""
    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else None


def unfinished(folder: Path, job: Job, weights: str) -> str:
    """Why a folder is not the finished result of this job with these weights, in a few words; empty where it is."""
    found = read_result(folder)
    if found is None:
        return "there is no result"
    if found.get("job") != described(job):
        return "the settings were others"
    if found.get("weights") != weights:
        return "the weights were others"
    if found.get("input") != input_stamp(job):
        return "the input has changed"
    have = files_of(folder)
    missing = [name for name, size in found["files"].items() if have.get(name) != size]
    return f"{missing[0]} is missing or damaged" if missing else ""


def check_free(folder: Path, overwrite: bool = False) -> None:
    """Raise ValueError unless results may be written to the folder."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the results.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(
            f"{folder} is not empty; choose another --out, or --overwrite to replace files of the same name."
        )


@contextmanager
def result_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when the block ends, or is removed where it raises. Where `folder`
    has files already, those of the same name are replaced, and those of an earlier result that are no longer made are
    removed; result.json is moved last.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}{PARTIAL}{socket.gethostname()}-{os.getpid()}-"
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
    if earlier is not None and same and files_of(folder).items() >= earlier["files"].items():
        # Another process was faster.
        return
    (folder / RESULT).unlink(missing_ok=True)
    files = list(files_of(new))
    for name in sorted(files, key=lambda name: name == RESULT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, folder / name)
    for name in set(earlier["files"]) - set(files) if earlier is not None else ():
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)


def remove_abandoned(parent: Path) -> int:
    """Remove what processes of this machine that no longer run have left half written; how many folders that were."""
    removed = 0
    for folder in parent.glob(f".*{PARTIAL}{socket.gethostname()}-*"):
        number = folder.name.rpartition("-")[0].rpartition("-")[2]
        if number.isdecimal() and not is_running(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


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
