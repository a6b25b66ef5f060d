import re

try:
    from comfyui_version import __version__
# The oldest have no such module.
except ModuleNotFoundError:
    __version__ = "0"

OLDEST = "0.30.0"
if [int(part) for part in re.findall(r"\d+", __version__)] < [int(part) for part in OLDEST.split(".")]:
    raise ImportError(f"GLD Novel Views needs ComfyUI {OLDEST} or newer, this is {__version__}; update ComfyUI.")

from comfy_api.latest import ComfyExtension, io  # noqa: E402

from . import (  # noqa: E402
    camera_files,
    camera_preview,
    cameras,
    decode,
    evaluate,
    export,
    geometry,
    load,
    place,
    sample,
    splats,
    video,
)
from .host import folders  # noqa: E402
from .host.inputs import checked  # noqa: E402


class GLDExtension(ComfyExtension):
    async def on_load(self) -> None:
        folders.register_model_folder()
        place.register_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes: list[type[io.ComfyNode]] = [
            load.GLDLoad,
            sample.GLDSample,
            load.GLDLoadBackbone,
            load.GLDLoadDiffusionModel,
            cameras.GLDLoadScene,
            cameras.GLDEstimateCameras,
            cameras.GLDMoveCamera,
            cameras.GLDSetCameras,
            place.GLDPlaceCameras,
            camera_preview.GLDPreviewCameras,
            camera_files.GLDLoadCameras,
            camera_files.GLDSaveCameras,
            sample.GLDEncodeViews,
            sample.GLDSampleLevel1,
            sample.GLDCascadeLevel0,
            sample.GLDConditioning,
            sample.GLDScheduler,
            sample.GLDFast,
            decode.GLDDecodeRGB,
            decode.GLDDecodeDepth,
            decode.GLDOrderViews,
            geometry.GLDCheckDepth,
            evaluate.GLDEvaluateViews,
            export.GLDExportGLB,
            export.GLDExportPLY,
            export.GLDExportDataset,
            splats.GLDMakeSplats,
            video.GLDVideoCameras,
        ]
        return [checked(node) for node in nodes]


async def comfy_entrypoint() -> GLDExtension:
    return GLDExtension()
