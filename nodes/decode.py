"""From features to colour, depth and cameras."""

from fractions import Fraction

from comfy_api.latest import InputImpl, Types, io

from ..gld_core import windows
from ..gld_core.autoencoder import VIEWS_AT_ONCE
from ..gld_core.cameras.conventions import path_order
from ..gld_core.export.pictures import DEPTH_COLORS, depth_to_color
from . import host
from .sample import checked
from .sockets import DA3Geometry, GLDBackbone, GLDCameras, GLDViews, da3_geometry


def latent_inputs() -> list:
    return [
        GLDBackbone.Input("backbone", tooltip="The backbone that the views were encoded with."),
        GLDViews.Input("views", tooltip="The output of Encode GLD Views."),
        io.Latent.Input("level1", tooltip="The output of Sample GLD Level 1."),
        io.Latent.Input(
            "level0",
            optional=True,
            tooltip="The output of Cascade GLD Level 0. If not connected: a quick preview without fine detail.",
        ),
    ]


def levels(views, level1, level0):
    return checked(level1, views, 1, "level1"), None if level0 is None else checked(level0, views, 0, "level0")


def made_in(views, level1, level0) -> list[windows.Window]:
    """The windows that the finer of the latents was sampled in; those of the samplers' own defaults where a latent has
    been to a file since.
    """
    latent = level1 if level0 is None else level0
    return latent.get("gld_windows") or windows.plan_windows(len(views.level1), len(views.cameras))


def on_device(backbone, views, plan, *decoders: str):
    """The autoencoder with what decoding one window of these views needs."""
    tokens = backbone.grid(views.cameras.height, views.cameras.width)
    window = max(len(window.views) for window in plan)
    at_once = min(VIEWS_AT_ONCE, window) * tokens
    return backbone.on_device({"backbone": window * tokens, **dict.fromkeys(decoders, at_once)})


SOURCE_VIEWS = ("photographs", "generated")


def source_views_input() -> io.Combo.Input:
    return io.Combo.Input(
        "source_views",
        options=list(SOURCE_VIEWS),
        default="photographs",
        optional=True,
        tooltip="What the source views show. photographs: your photographs as they are. generated: what the model made "
        "of them, as in the released program.",
    )


def decode_rgb(backbone, views, level1, level0, source_views):
    """(V, H, W, 3) in [0, 1], and the seams between windows."""
    plan, latents = made_in(views, level1, level0), levels(views, level1, level0)
    autoencoder = on_device(backbone, views, plan, "rgb_decoder")
    rgb, seams = windows.decode_rgb(autoencoder, views, *latents, plan, host.progress_bar())
    rgb = rgb.clamp(0, 1)
    if source_views == "photographs":
        rgb[: len(views.images)] = views.images.to(rgb)
    return host.to_host(rgb.movedim(1, -1).contiguous()), seams


class GLDDecodeRGB(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDDecodeRGB",
            display_name="Decode GLD RGB",
            category="GLD",
            description="Decodes features into one picture per view. The sources come first.",
            search_aliases=["vae decode", "novel view"],
            inputs=[*latent_inputs(), source_views_input()],
            outputs=[io.Image.Output(display_name="images", tooltip="V pictures. The N sources come first.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, backbone, views, level1, level0=None, source_views="photographs"):
        images, seams = decode_rgb(backbone, views, level1, level0, source_views)
        # Windows that stepped together have the same features where they overlap.
        if max(seams, default=0) >= 0.0001:
            mean, worst = sum(seams) / len(seams), max(seams)
            text = f"{len(seams) + 1} windows; seams differ by {mean:.2%} of full brightness, the worst by {worst:.2%}"
            host.say(text, cls.hidden.unique_id)
        return io.NodeOutput(images)


class GLDOrderViews(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDOrderViews",
            display_name="Order GLD Views",
            category="GLD",
            description="Sorts the pictures of all views along the camera path, as pictures and as a video.",
            search_aliases=["video", "frames", "camera path", "targets", "turntable"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="One picture per view with the sources first, for example the output of Decode GLD RGB.",
                ),
                GLDViews.Input("views", tooltip="The output of Encode GLD Views."),
                io.Combo.Input(
                    "sources",
                    options=["left out", "woven in"],
                    tooltip="left out: only the targets are used. woven in: each source is inserted where the path is "
                    "nearest to it.",
                ),
                io.Float.Input(
                    "fps",
                    default=12.0,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    optional=True,
                    tooltip="Frame rate of the video in frames per second.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures in the order of the camera path."),
                io.Video.Output(display_name="video", tooltip="The same pictures as a video, for Save Video."),
            ],
        )

    @classmethod
    def execute(cls, images, views, sources, fps=12.0):
        V, N = len(views.cameras), len(views.level1)
        if len(images) != V:
            raise ValueError(
                f"The input 'images' has {len(images)} pictures for {V} views; connect one picture per view."
            )
        if sources == "left out" and V == N:
            raise ValueError(
                "There are no target views; choose 'woven in' for the input 'sources', or add target cameras."
            )
        ordered = images[path_order(views.cameras, N) if sources == "woven in" else slice(N, V)]
        components = Types.VideoComponents(images=ordered, frame_rate=Fraction(fps).limit_denominator(1000))
        return io.NodeOutput(ordered, InputImpl.VideoFromComponents(components))


class GLDDecodeDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDDecodeDepth",
            display_name="Decode GLD Depth",
            category="GLD",
            description="Decodes features into a depth map per view, in the units of the cameras, and recovers the "
            "cameras from them.",
            search_aliases=["depth map", "geometry", "point map", "depth anything 3"],
            inputs=[
                *latent_inputs(),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The output of Decode GLD RGB, for the colours of the points. If not connected: this node "
                    "decodes them.",
                ),
                io.Combo.Input(
                    "colors",
                    options=list(DEPTH_COLORS),
                    default="inferno",
                    optional=True,
                    tooltip="Colour map of the depth picture. Near points are bright, with turbo they are red.",
                ),
                io.Combo.Input(
                    "range",
                    options=["shared", "per view"],
                    default="shared",
                    optional=True,
                    tooltip="shared: a colour means the same depth in all views. per view: each view uses the whole "
                    "colour map.",
                ),
            ],
            outputs=[
                DA3Geometry.Output(
                    display_name="geometry",
                    tooltip="Depth, confidence, pictures and cameras. ComfyUI's Depth Anything 3 nodes accept it.",
                ),
                io.Image.Output(display_name="depth", tooltip="Depth as a coloured picture. Near points are bright."),
                GLDCameras.Output(
                    display_name="cameras",
                    tooltip="The cameras recovered from the features, aligned to the given cameras.",
                ),
            ],
        )

    @classmethod
    def execute(cls, backbone, views, level1, level0=None, images=None, colors="inferno", range="shared"):
        given = views.cameras
        if images is None:
            images, _ = decode_rgb(backbone, views, level1, level0, "photographs")
        elif tuple(images.shape[:3]) != (len(given), given.height, given.width):
            raise ValueError(
                f"The input 'images' has {len(images)} pictures of {images.shape[2]}x{images.shape[1]} pixels for "
                f"{len(given)} views of {given.width}x{given.height}; connect the output of Decode GLD RGB."
            )
        plan, latents = made_in(views, level1, level0), levels(views, level1, level0)
        autoencoder = on_device(backbone, views, plan, "gld_head", "camera_decoder")
        geometry = windows.decode_geometry(autoencoder, views, *latents, plan, host.progress_bar())
        depth = host.to_host(geometry.depth)
        packet = da3_geometry(images[..., :3].cpu(), depth, host.to_host(geometry.depth_conf), given)
        packet["gld_sources"] = len(views.level1)
        packet["gld_photographs"] = views.images.movedim(1, -1)
        picture = depth_to_color(depth, colors=colors, per_view=range == "per view")
        return io.NodeOutput(packet, picture.movedim(1, -1).contiguous(), geometry.cameras)
