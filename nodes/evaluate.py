"""How near generated views are to the truth."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..gld_core.cameras.conventions import path_order
from ..gld_core.evaluation.lpips import LINEAR_FILE, LPIPS, VGG_FILE, missing_files
from ..gld_core.evaluation.report import means, picture_errors, pose_row, scaled_depth_errors, table, to_json
from . import host
from .host import folders
from .sockets import DA3Geometry, GLDCameras, pictures


class GLDEvaluateViews(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDEvaluateViews",
            display_name="Evaluate GLD Views",
            category="GLD",
            description="Compares generated views with photographs of the same views, their depth with the true "
            "depth, and their cameras with the true cameras.",
            search_aliases=["psnr", "ssim", "lpips", "metrics", "compare images", "benchmark"],
            inputs=[
                io.Image.Input(
                    "images", tooltip="Generated views with the sources first, for example from Decode GLD RGB."
                ),
                io.Image.Input(
                    "truth",
                    tooltip="True photographs of the last views in 'images': of the targets only, or of all views.",
                ),
                DA3Geometry.Input(
                    "geometry",
                    optional=True,
                    tooltip="Depth of the generated views, for example from Decode GLD Depth.",
                ),
                DA3Geometry.Input("true_geometry", optional=True, tooltip="True depth of the views in 'truth'."),
                GLDCameras.Input(
                    "cameras",
                    optional=True,
                    tooltip="Cameras that were recovered from the generated views, for example with Estimate GLD "
                    "Cameras.",
                ),
                GLDCameras.Input(
                    "true_cameras", optional=True, tooltip="The cameras that the views were generated for."
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="psnr",
                    tooltip="Peak signal-to-noise ratio in dB, the mean over the views with a photograph.",
                ),
                io.Float.Output(
                    display_name="ssim",
                    tooltip="Structural similarity up to 1, the mean over the views with a photograph.",
                ),
                io.String.Output(
                    display_name="report", tooltip="All values, for each view and their mean, as Markdown."
                ),
                io.String.Output(display_name="json", tooltip="The same values as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, truth, geometry=None, true_geometry=None, cameras=None, true_cameras=None):
        V, M = len(images), len(truth)
        if M > V or images.shape[1:3] != truth.shape[1:3]:
            raise ValueError(
                f"The input 'images' has {V} pictures of {images.shape[2]}x{images.shape[1]} pixels, 'truth' has {M} "
                f"of {truth.shape[2]}x{truth.shape[1]}; give photographs of the last views in 'images', of the same "
                "size."
            )
        for name, found, true in (("geometry", geometry, true_geometry), ("cameras", cameras, true_cameras)):
            if (found is None) != (true is None):
                raise ValueError(
                    f"Only one of the inputs '{name}' and 'true_{name}' is connected; connect both or neither."
                )
        if geometry is not None:
            found, true = geometry["depth"].cpu(), true_geometry["depth"].cpu()
            if len(found) < M or len(true) < M or found.shape[1:] != true.shape[1:]:
                raise ValueError(
                    f"The input 'geometry' has {len(found)} views of {found.shape[2]}x{found.shape[1]} pixels, "
                    f"'true_geometry' has {len(true)} of {true.shape[2]}x{true.shape[1]}; give depth of the {M} views "
                    "of 'truth', of the same size."
                )
        if cameras is not None and (len(cameras) != len(true_cameras) or len(cameras) < 2):
            raise ValueError(
                f"The input 'cameras' has {len(cameras)} cameras, 'true_cameras' has {len(true_cameras)}; give cameras "
                "of the same views, at least 2."
            )
        given = pictures(images[V - M :], "images"), pictures(truth, "truth")
        places = [Path(folder) / "lpips" for folder in folders.model_folders()]
        folder = next((folder for folder in places if not missing_files(folder)), None)
        lpips = None if folder is None else LPIPS(folder)
        errors = picture_errors(*given, lpips, host.progress_bar())
        if geometry is not None:
            errors |= scaled_depth_errors(found[-M:], true[-M:])
        row = means(errors)
        if cameras is not None:
            # They may be of the generated views alone.
            row |= pose_row(cameras, true_cameras, path_order(true_cameras, max(0, len(true_cameras) - M)))
        views = {f"view {V - M + number}": {key: float(errors[key][number]) for key in errors} for number in range(M)}
        report = table([("mean", row), *views.items()])
        if lpips is None:
            report += f"\n\nLPIPS is not measured: {VGG_FILE} and {LINEAR_FILE} are not in models/gld/lpips."
        host.say(f"PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}", cls.hidden.unique_id)
        content = to_json({"mean": row, "views": views})
        return io.NodeOutput(row["psnr"], row["ssim"], report, content, ui=ui.PreviewText(report))
