"""Cameras and pictures from and to files.

Whatever is read becomes `Cameras`: OpenCV camera-to-world, K in pixels with the origin at the image's top-left corner
(`images`). COLMAP, nerfstudio and RealEstate10K count pixels the same way (the centre of the first pixel is 0.5, 0.5),
so their principal points are taken as they are. Files written here are read back to 1e-6 of the scene's extent.

Every reader returns the cameras and a name for each, and raises ValueError, in a sentence that names file and view,
for what a pinhole camera without skew cannot be, and for images of more than one size.
"""
