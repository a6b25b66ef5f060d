"""Writing files so that each appears whole or not at all, and rules for their names."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# Bytes of a name: file systems take 255 with its extension. Japanese has three of them a character.
LONGEST_NAME = 240
# Characters of a name that the name of its temporary file has.
SHOWN = 40


def check_new(path: str | Path) -> None:
    """Raise FileExistsError, with the cure, if something exists at `path`."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not written over; choose another name, or remove it first.")


def plain_name(name: str) -> bool:
    """Whether every operating system accepts this as the name of a file."""
    return (
        name.strip() not in ("", ".", "..")
        and not set(name) & set('/\\:*?"<>|')
        and name.isprintable()
        and len(name.encode()) <= LONGEST_NAME
    )


def check_names(names: Sequence[str], views: int) -> None:
    """Raise ValueError unless every view has a name, all names differ, and each is a plain file name."""
    if len(names) != views:
        raise ValueError(f"There are {len(names)} names for {views} views; give one each.")
    for place, name in enumerate(names):
        if name in names[:place] or not plain_name(name):
            raise ValueError(
                f"The view name {name[:40]!r} is given twice or is no plain file name of up to {LONGEST_NAME} bytes; "
                "choose another."
            )


@contextmanager
def naming_full_disk(folder: str | Path | None) -> Iterator[None]:
    """Raise OSError that names the folder and the cure, where the block's own says only that a disk is full."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = (errno.ENOSPC, errno.EDQUOT)
        # safetensors has the number in its text alone.
        known = getattr(error, "errno", None) in full or any(f"(os error {number})" in str(error) for number in full)
        if folder is None or not known:
            raise
        raise OSError(f"There is no room left on the disk of {folder}; make room there, or choose another.") from error


@contextmanager
def atomic(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """`with atomic(path) as temporary:` write to `temporary`; it becomes `path` when the block ends, and is removed
    where the block raises anything at all (KeyboardInterrupt included). The folder of `path` is made where missing.

    replace=False: raises FileExistsError where `path` exists.
    """
    path = Path(path)
    if not replace:
        check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:SHOWN]}-", suffix=path.suffix, dir=path.parent)
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        # After the writing: safetensors puts a file of its own in the place, which only its owner may read.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """`with atomic_folder(path) as temporary:` write into the folder `temporary`; it becomes `path` when the block
    ends, and is removed with all that is in it where the block raises. FileExistsError where `path` exists.
    """
    path = Path(path)
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:SHOWN]}-", dir=path.parent) as outer:
        temporary = Path(outer) / path.name
        temporary.mkdir()
        yield temporary
        check_new(path)
        os.rename(temporary, path)


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that compares numbers in names as numbers, so that frame_2 comes before frame_10."""
    # Python converts no more than 4300 digits.
    return [
        (not part.isdecimal(), int(part[-4000:]) if part.isdecimal() else 0, part)
        for part in re.split(r"(\d+)", name.lower())
    ]
