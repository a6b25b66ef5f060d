"""Where files are: models, and what is written below the output folder."""

import os

import folder_paths

from ...gld_core import checkpoints

FOLDER = "gld"
NANO = "nano"
EXTENSIONS = {".safetensors", ".pt"}


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


def stamp(paths: list) -> list:
    """Changes when one of the files does."""
    return [(str(path), os.path.getmtime(path), os.path.getsize(path)) for path in paths]


def output_path(prefix: str) -> str:
    """Where a numbered result goes below the output folder. ValueError where the name leaves it or cannot be one."""
    top, name = folder_paths.get_output_directory(), os.path.normpath(prefix)
    long = any(len(part.encode("utf-8", "replace")) > 150 for part in name.split(os.sep))
    inside = folder_paths.is_within_directory(top, os.path.join(top, name))
    try:
        if name == "." or long or not name.isprintable() or not inside:
            raise ValueError("this is not a file name in the output folder")
        folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, top)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"The input 'filename_prefix' is {prefix[:60]!r} ({error}); give a name such as GLD/scene."
        ) from None
    return os.path.join(folder, f"{name}_{number:05}")
