"""Downloads that a user asked for: the released weights from Hugging Face, the statistics from the research code.

Interrupted downloads go on where they stopped; a file gets its name only when its SHA-256 is right.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from ..gld_core import checkpoints

WEIGHTS = "SeonghuJeon/GLD"
# VGGT-1B is its authors' and has licences of its own; the user says which one is accepted.
VGGT_LICENCES = {
    "non-commercial (facebook/VGGT-1B)": "facebook/VGGT-1B",
    "commercial (facebook/VGGT-1B-Commercial)": "facebook/VGGT-1B-Commercial",
}
# Sizes of the released files by family and part. docs/checkpoints.md
GIGABYTES = {
    "da3": {"backbone": 0.5, "head": 0.4, "rgb": 1.6, "level1": 3.0, "level0": 1.8},
    "vggt": {"backbone": 5.0, "rgb": 1.6, "level1": 3.1, "level0": 3.1},
}
STATISTICS_URL = os.environ.get(
    "GLD_STATISTICS_URL",
    "https://raw.githubusercontent.com/cvlab-kaist/Geometric-Latent-Diffusion/01ec537b5c4eeaeb2f1281dc0a82075134983481",
)
# By the path below model_stats.
STATISTICS_SHA256 = {
    "da3/normalization_stats_level0.pt": "84be3bfb8117e331e163b1a1b8509729d787c4601dd37f5fd167f7d40565f454",
    "da3/normalization_stats_level1.pt": "b158eae33af49ef2d50e441c9eb1816ab765a21a548a0f2c33f636e578872a18",
    "vggt/normalization_stats_level0.pt": "b1d3d6f2e0b00212c671b21adc77317216eb21fc0790600116b54179a68857d1",
    "vggt/normalization_stats_level1.pt": "08067363ee4939e566dbd628d3418f18050eea0b2cb1d4367da5fd55456212de",
    "vggt/special_stats_level0.pt": "85c7f46cc5d30c10c7779d46dc53539bf4fd068827cb3b7f987d9a095b1079d3",
    "vggt/special_stats_level1.pt": "3074af5c07d6e46a57fc9a606f77bc479effb707769146b40fb857ae646d775b",
}
BLOCK = 2**20


def released_file(backbone: str, part: str) -> str:
    """Path of a part in the released layout."""
    return checkpoints.LAYOUT[backbone][part] + (".safetensors" if part == "backbone" else ".pt")


def fetch(url: str, target: Path, sha256: str, size: int | None, progress: Callable[[int, int], None]) -> None:
    """Download url to target, going on after what an earlier attempt left; progress(bytes so far, bytes in all)."""
    partial = target.with_name(target.name + ".part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.exists() else 0
    if size is None or have < size:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                if response.status != 206:
                    have = 0
                total = size or have + int(response.headers.get("Content-Length") or 0)
                with open(partial, "ab" if have else "wb") as file:
                    while block := response.read(BLOCK):
                        file.write(block)
                        have += len(block)
                        progress(have, total)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise RuntimeError(
                f"The download of {url} stopped after {have} bytes ({error}); check the connection and run again, "
                "it goes on from there."
            ) from error
    digest = checkpoints.sha256(partial, lambda: progress(have, have))
    if digest != sha256:
        if size is not None and partial.stat().st_size < size:
            raise RuntimeError(f"The download of {url} ended early; run again, it goes on from there.")
        partial.unlink()
        raise RuntimeError(f"{url} has SHA-256 {digest}, {sha256} is expected; it was removed, run again.")
    os.replace(partial, target)


def fetch_parts(
    folder: str,
    backbone: str,
    parts: Sequence[str],
    progress: Callable[[int, int], None],
    vggt: str = "",
) -> None:
    """Get what is missing of the given parts, and with the backbone its statistics, into the released layout.

    vggt: the repository that VGGT-1B itself comes from, where it is among the parts.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError

    for part in parts:
        name = released_file(backbone, part)
        try:
            checkpoints.find(folder, backbone, part)
        except FileNotFoundError:
            repository, remote = (vggt, "model.safetensors") if name.startswith("VGGT-1B/") else (WEIGHTS, name)
            url = hf_hub_url(repository, remote)
            try:
                metadata = get_hf_file_metadata(url)
            except GatedRepoError as error:
                raise RuntimeError(
                    f"{repository} is given on request: ask for it on huggingface.co/{repository}, then run "
                    "'hf auth login' on this machine and try again."
                ) from error
            # The HTTP library, and with it what a missing connection raises, is another one with every version.
            except Exception as error:
                raise RuntimeError(
                    f"{url} cannot be reached ({error}); check the connection, or put the file at {Path(folder, name)} "
                    "yourself."
                ) from error
            # The address behind the redirect needs no login.
            fetch(metadata.location, Path(folder, name), str(metadata.etag), metadata.size, progress)
        if part == "backbone":
            for statistics, sha256 in STATISTICS_SHA256.items():
                target = Path(folder, "model_stats", statistics)
                if statistics.startswith(f"{backbone}/") and not target.is_file():
                    fetch(f"{STATISTICS_URL}/model_stats/{statistics}", target, sha256, None, progress)
