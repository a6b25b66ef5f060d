import json
from pathlib import Path

import pytest
from safetensors import safe_open

import gld_core
from gld_core.synthetic.random_models import write_random_models


@pytest.fixture(scope="session")
def random_models(tmp_path_factory) -> Path:
    """A small DA3 bundle with random weights in the released layout, not to be changed."""
    folder = tmp_path_factory.mktemp("random_models")
    write_random_models(folder)
    return folder


class Bundle:
    """A small network in the released layout, inputs, and the released program's outputs for them."""

    def __init__(self, folder: Path, backbone: str):
        with safe_open(folder / "golden.safetensors", "pt") as file:
            self.golden = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            config = json.loads(file.metadata()["config"])
        self.gld = gld_core.load(folder, backbone=backbone, keep=True)
        self.networks = self.gld.autoencoder.networks
        self.N, self.H, self.W = config["cond"], config["height"], config["width"]
        self.steps = config["time_points"] - 1
        self.images = self["in.images"]
        self.cameras = gld_core.Cameras(self["in.c2w"], self["in.intrinsics"], self.H, self.W)

    def __getitem__(self, name):
        return self.golden[name]

    def views(self):
        return self.gld.encode_views(self.images[: self.N], self.cameras)

    def equal(self, name, value, limit=3e-6):
        """AssertionError where a value is further from the released program's than single stages may be."""
        expected = self[name].double()
        assert value.shape == expected.shape
        error = ((value.double() - expected).norm() / expected.norm()).item()
        assert error <= limit, f"{name} is off by {error:.2e}, {limit:.0e} is allowed"


@pytest.fixture(scope="session")
def da3_bundle(shared) -> Bundle:
    return Bundle(shared / "golden" / "tiny-da3", "da3")


@pytest.fixture(scope="session")
def vggt_bundle(shared) -> Bundle:
    return Bundle(shared / "golden" / "tiny-vggt", "vggt")
