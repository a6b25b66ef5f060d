from comfy_api.latest import ComfyExtension, io

from . import camera_files, camera_preview, cameras, decode, export, geometry, host, load, sample


class GLDExtension(ComfyExtension):
    async def on_load(self) -> None:
        host.register_model_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            load.GLDLoadBackbone,
            load.GLDLoadDiffusionModel,
            cameras.GLDLoadScene,
            cameras.GLDEstimateCameras,
            cameras.GLDSetCameras,
            camera_preview.GLDPreviewCameras,
            camera_files.GLDLoadCameras,
            camera_files.GLDSaveCameras,
            sample.GLDEncodeViews,
            sample.GLDSampleLevel1,
            sample.GLDCascadeLevel0,
            sample.GLDConditioning,
            sample.GLDScheduler,
            decode.GLDDecodeRGB,
            decode.GLDDecodeDepth,
            decode.GLDOrderViews,
            geometry.GLDCheckDepth,
            export.GLDExportGLB,
            export.GLDExportPLY,
            export.GLDExportDataset,
        ]


async def comfy_entrypoint() -> GLDExtension:
    return GLDExtension()
