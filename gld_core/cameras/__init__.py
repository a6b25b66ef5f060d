"""Cameras: the type, its conventions, rotations and motions."""

from .conventions import Cameras

__all__ = ["Cameras"]
