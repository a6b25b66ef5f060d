"""Socket types the host does not have, and checks that wired values need before anything is computed."""

from comfy_api.latest import io

GLDBackbone = io.Custom("GLD_BACKBONE")
GLDCameras = io.Custom("GLD_CAMERAS")
GLDViews = io.Custom("GLD_VIEWS")
DA3Geometry = io.Custom("DA3_GEOMETRY")
