"""Geometric Latent Diffusion: novel views, depth and cameras from a few photographs."""

from .cameras import Cameras
from .codec import Geometry, Views
from .pipeline import GLD, load

__all__ = ["GLD", "Cameras", "Geometry", "Views", "load"]
