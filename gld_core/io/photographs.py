"""Finding the photographs that a camera file names, also if the folder was moved or made on another machine."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from .files import natural_order
from .images import EXTENSIONS

# Folders of pictures that are no photographs, beside the photographs and of the same names.
NOT_PHOTOGRAPHS = ("depth", "mask", "normal", "confidence", "segm", "semantic", "thumb", "preview")
# Of what is looked through: pictures, folders, and folders in folders.
MOST_FILES, MOST_FOLDERS, DEEPEST = 200_000, 5_000, 6


def is_picture(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def parts_of(name: str) -> tuple[str, ...]:
    """Folders and file name of a path as any system writes it: those of C:\\data\\.\\a.jpg are data and a.jpg."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..") and part[-1] != ":")


def stem(name: str) -> str:
    """Without the extension of a picture: frame.0001.png -> frame.0001, and frame.0001 stays."""
    return name[: name.rindex(".")] if is_picture(name) else name


class Photographs:
    """Picture files in a folder and in the folders in it.

    `find` takes names with or without an extension, with another one or another case, with backslashes, './' or the
    path of another machine. The longest agreement counts; folders named in `first` go before others.
    """

    def __init__(self, top: Path, first: Sequence[str] = ("images", "image", "rgb", "")):
        self.top = top
        self.first = [folder.lower() for folder in first]
        self.files: dict[str, list[PurePosixPath]] = {}
        for path in walk(top):
            self.files.setdefault(stem(path.name).lower(), []).append(path)

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    def __iter__(self) -> Iterator[Path]:
        """All of them, in natural order."""
        found = (path for paths in self.files.values() for path in paths)
        return iter(self.top / path for path in sorted(found, key=lambda path: natural_order(str(path))))

    def rank(self, path: PurePosixPath) -> int:
        folder = str(path.parent).lower().lstrip(".")
        if folder in self.first:
            return self.first.index(folder)
        return len(self.first) + any(word in folder for word in NOT_PHOTOGRAPHS)

    def agreement(self, wanted: Sequence[str], path: PurePosixPath) -> int:
        """How much of a name a file has from its end: 2 for each part as it is, 1 for another case or extension."""
        total = 0
        for place, (want, have) in enumerate(zip(reversed(wanted), reversed(path.parts), strict=False)):
            if want == have:
                total += 2
            elif want.lower() == have.lower() or place == 0:
                total += 1
            else:
                break
        return total

    def find(self, name: str) -> Path | None:
        return self.match([name])[0]

    def match(self, names: Sequence[str]) -> list[Path | None]:
        """The file of each name, None where there is none or two are as good; a file belongs to the one name that
        agrees with it best.
        """
        if not self.files:
            return [None] * len(names)
        best: list[tuple[int, PurePosixPath] | None] = []
        for name in names:
            wanted = parts_of(name)
            found = self.files.get(stem(wanted[-1]).lower(), []) if wanted else []
            scored = sorted(((self.agreement(wanted, path), -self.rank(path), path) for path in found), reverse=True)
            unclear = len(scored) > 1 and scored[0][:2] == scored[1][:2]
            best.append(None if unclear or not scored else (scored[0][0], scored[0][2]))
        owners: dict[PurePosixPath, tuple[int, str]] = {}
        for name, match in zip(names, best, strict=True):
            if match is not None and match[0] > owners.get(match[1], (0, ""))[0]:
                owners[match[1]] = (match[0], name)
        return [
            self.top / match[1] if match is not None and owners[match[1]][1] == name else None
            for name, match in zip(names, best, strict=True)
        ]


def walk(top: Path) -> list[PurePosixPath]:
    """Pictures in a folder and in the folders in it, relative to it."""
    found: list[PurePosixPath] = []
    waiting, folders = [(top, PurePosixPath(), 0)], 0
    while waiting and len(found) < MOST_FILES and folders < MOST_FOLDERS:
        folder, name, depth = waiting.pop()
        folders += 1
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if is_picture(entry.name):
                    found.append(name / entry.name)
                elif depth < DEEPEST and entry.is_dir():
                    waiting.append((folder / entry.name, name / entry.name, depth + 1))
    return found
