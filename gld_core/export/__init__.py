"""Results for other programs: pictures, glTF, PLY, data sets."""
