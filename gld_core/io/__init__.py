"""Cameras and pictures from and to files.

Whatever is read becomes `Cameras`: OpenCV camera-to-world, K in pixels with the origin at the image's top-left corner
(`images`). COLMAP, nerfstudio and RealEstate10K count pixels the same way (the centre of the first pixel is 0.5, 0.5),
so their principal points are taken as they are. Files written here are read back to 1e-6 of the scene's extent.

`cameras.read_scene` recognises a file or folder and returns a `scenes.Scene`. Each format has a reader that returns
a list of `scenes.View`. A reader raises ValueError, in one sentence that names the file, for a file that it cannot
read. A single view that no pinhole camera without skew can have keeps its sentence in `View.problem`.
"""
