"""Where files are: models, and what is written below the output folder."""

import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import folder_paths

from ...gld_core import checkpoints

T = TypeVar("T")
FOLDER = "gld"
NANO = "nano"
EXTENSIONS = {".safetensors", ".pt"}
# Folders in a name that a prompt gives.
DEPTH = 32


def register_model_folder() -> None:
    """models/gld, after what extra_model_paths.yaml may have put under the same name."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | EXTENSIONS)


def model_folders() -> list[str]:
    return folder_paths.get_folder_paths(FOLDER)


def nano_files() -> dict[str, str]:
    """Paths of the plugin's own model, by the names that a model folder with it in `nano` would give them."""
    files = sorted(path for path in checkpoints.NANO.rglob("*") if path.suffix in EXTENSIONS)
    return {f"{NANO}/{path.relative_to(checkpoints.NANO).as_posix()}": str(path) for path in files}


def model_files() -> list[str]:
    found = [name.replace(os.sep, "/") for name in folder_paths.get_filename_list(FOLDER)]
    return sorted({*found, *nano_files()})


def model_file(name: str) -> str | None:
    """Path of a file by the name `model_files` gives it. None where there is none."""
    return folder_paths.get_full_path(FOLDER, name) or nano_files().get(name)


def stamp(paths: Iterable) -> list:
    """Changes when one of the files does, or when one comes or goes."""
    return [(str(path), os.path.getmtime(path), os.path.getsize(path)) for path in sorted(paths)]


def in_input_folder(path: str | os.PathLike) -> bool:
    """Whether a path stays in the input folder, links followed. The host opens nothing else that a prompt names."""
    return folder_paths.is_within_directory(folder_paths.get_input_directory(), str(path))


def check_text(name: str, value: Any) -> None:
    """ValueError unless an input is text, which the host does not check where a node checks its value."""
    if not isinstance(value, str):
        raise ValueError(f"The input '{name}' is {str(value)[:60]}, which is no text; give a name.")


def input_path(name: str, kind: str, content: str, folder: bool = False) -> str:
    """Path of a file or folder in the input folder. ValueError where there is none, or where it leads out."""
    top = folder_paths.get_input_directory()
    path = os.path.join(top, name)
    if in_input_folder(path) and (os.path.isdir(path) if folder else os.path.exists(path)):
        return path
    inside = "\0" not in name and Path(os.path.normpath(path)).is_relative_to(top)
    if inside and os.path.exists(path):
        raise ValueError(f"The {kind} {name[:60]!r} is a link that leads out of {top}; copy what it leads to in there.")
    raise ValueError(f"There is no {kind} {name[:60]!r} in {top}; put {content} there.")


def check_prefix(prefix: str) -> None:
    """ValueError unless a 'filename_prefix' can be a name in the output folder."""
    check_text("filename_prefix", prefix)
    top, name = folder_paths.get_output_directory(), os.path.normpath(prefix)
    parts = name.split(os.sep)
    if not folder_paths.is_within_directory(top, os.path.join(top, name)):
        reason = "this is not in the output folder"
    elif name == "." or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
        reason = "this is not a file name"
    elif len(parts) > DEPTH or any(len(part.encode("utf-8", "replace")) > 150 for part in parts):
        reason = f"this is too long: more than {DEPTH} folders, or a name of more than 150 bytes"
    else:
        return
    raise ValueError(f"The input 'filename_prefix' is {prefix[:60]!r} ({reason}); give a name such as GLD/scene.")


def save_numbered(prefix: str, suffix: str, write: Callable[[Path], T]) -> tuple[Path, T]:
    """write(path) makes a file or folder, which then gets the next number in the output folder: its path, and what
    write returns. Where another server takes a number first, the next one is taken. ValueError for a wrong prefix.
    """
    top = folder_paths.get_output_directory()
    check_prefix(prefix)
    try:
        folder = folder_paths.get_save_image_path(prefix, top)[0]
    except (ValueError, OSError) as error:
        raise ValueError(f"The input 'filename_prefix' is {prefix[:60]!r} ({error}); give another name.") from error
    with tempfile.TemporaryDirectory(prefix=".gld-", dir=folder) as scratch:
        temporary = Path(scratch) / f"new{suffix}"
        written = write(temporary)
        while True:
            _, name, number, *_ = folder_paths.get_save_image_path(prefix, top)
            path = Path(folder) / f"{name}_{number:05}{suffix}"
            if claim(temporary, path):
                return path, written


def claim(temporary: Path, path: Path) -> bool:
    """Move a file or folder to `path`, unless something is there or comes there meanwhile."""
    try:
        if temporary.is_dir():
            path.mkdir()
        else:
            path.touch(exist_ok=False)
    except FileExistsError:
        return False
    if temporary.is_dir() and os.name == "nt":
        path.rmdir()
    os.replace(temporary, path)
    return True
