from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of specifications, golden tensors and scenes beside the repository."""
    folder = Path(__file__).parents[3] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: nothing was compared with the released program's numbers")
    return folder
