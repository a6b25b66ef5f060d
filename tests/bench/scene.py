"""What the benchmarks sample: cameras on an arc, and random features of two sources."""

import torch

from gld_core.autoencoder import Views
from gld_core.cameras import Cameras

SOURCES = 2


def scene(V: int, height: int, width: int, channels: int) -> Views:
    """V views, encoded with DA3 as far as shapes go."""
    angle = torch.linspace(-0.3, 0.3, V)
    c2w = torch.eye(4).repeat(V, 1, 1)
    c2w[:, 0, 0], c2w[:, 0, 2] = angle.cos(), angle.sin()
    c2w[:, 2, 0], c2w[:, 2, 2] = -angle.sin(), angle.cos()
    c2w[:, :3, 3] = torch.stack([angle.sin(), 0 * angle, 1 - angle.cos()], dim=1)
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]).repeat(V, 1, 1)
    source = torch.randn(2, SOURCES, channels, height // 14, width // 14, generator=torch.Generator().manual_seed(0))
    return Views("da3", Cameras(c2w, K, height, width), source[0], source[1], torch.zeros(channels))
