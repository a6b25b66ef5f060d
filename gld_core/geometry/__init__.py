"""Geometry from posed depth maps: alignment, points, meshes, coverage."""
