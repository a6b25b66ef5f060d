"""Geometric Latent Diffusion: novel views, depth and cameras from a few photographs."""

from .starting import ended_by_interrupts

with ended_by_interrupts():
    from .autoencoder import Geometry, Views
    from .cameras import Cameras
    from .jobs import Job, run
    from .pipeline import GLD, load

__all__ = ["GLD", "Cameras", "Geometry", "Job", "Views", "load", "run"]
