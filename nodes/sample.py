"""Encoding the sources and sampling the features of all views."""

import math

import comfy.samplers
from comfy_api.latest import io

from ..gld_core import flow
from ..gld_core.windows import Window, split_into_windows
from .host import networks, sampling
from .host.previews import PhotographedViews, photographed
from .sockets import GLDBackbone, GLDCameras, GLDViews

# What the models were trained on, and what is enough to hold neighbouring windows together.
WINDOW, OVERLAP = 8, 2


def checked(latent: dict, views: PhotographedViews, level: int, name: str):
    """The samples of a LATENT input as (V, C, ...); ValueError names the input where they cannot be that level's."""
    found = latent.get("gld_level", level)
    if found != level:
        raise ValueError(f"The input '{name}' has level-{found} features, level {level} belongs there; swap the wires.")
    networks.check_samples(views, latent["samples"], name)
    if len(latent["samples"]) != 1:
        raise ValueError(f"The input '{name}' holds {len(latent['samples'])} samples; pick one with Latent From Batch.")
    return latent["samples"][0].float().transpose(0, 1)


class GLDEncodeViews(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDEncodeViews",
            display_name="Encode GLD Views",
            category="GLD",
            description="Encode the source photographs; the cameras say which views will be made.",
            search_aliases=["features", "novel view", "vae encode"],
            inputs=[
                GLDBackbone.Input("backbone", tooltip="From Load GLD Backbone."),
                io.Image.Input("images", tooltip="The N source photographs; width and height multiples of 14."),
                GLDCameras.Input("cameras", tooltip="Cameras of all V views, those of the N photographs first."),
            ],
            outputs=[GLDViews.Output(display_name="views", tooltip="Features of the sources, and all cameras.")],
        )

    @classmethod
    def execute(cls, backbone, images, cameras):
        images = images[..., :3].movedim(-1, 1)
        codec = backbone.on_device({"backbone": len(images) * backbone.grid(*images.shape[-2:])})
        return io.NodeOutput(photographed(codec.encode_views(images, cameras), images))


def sampling_inputs(level: str) -> list:
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Of the noise that all views start from.",
        ),
        io.Int.Input(
            "steps", default=49, min=1, max=1000, tooltip=f"Steps from noise to {level}. 49 is as released for DA3."
        ),
        io.Float.Input(
            "cfg",
            default=1.5,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Guidance: how far the cameras push, against views without cameras. 1 halves the time.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.SAMPLER_NAMES,
            default="euler",
            tooltip="Any of the host's. euler: as released.",
        ),
        io.Combo.Input(
            "scheduler",
            options=["gld", *comfy.samplers.SCHEDULER_NAMES],
            default="gld",
            tooltip="gld: the released time grid, which follows the number of views.",
        ),
        io.Float.Input(
            "shift",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            advanced=True,
            tooltip="Time shift of the gld scheduler. 0: the released one for the number of views.",
        ),
        io.Int.Input(
            "window",
            default=WINDOW,
            min=2,
            max=64,
            optional=True,
            tooltip="Views that are made together, sources included; the models were trained on up to 8. A longer path "
            "is made in windows, each with all the sources.",
        ),
        io.Int.Input(
            "overlap",
            default=OVERLAP,
            min=0,
            max=62,
            optional=True,
            tooltip="Targets that a window takes over from the one before, so that it continues it. More: smoother, "
            "and slower.",
        ),
        io.Boolean.Input(
            "closed",
            default=False,
            optional=True,
            advanced=True,
            tooltip="The path ends where it began: the last window takes over the first target too.",
        ),
    ]


def plan_windows(views: PhotographedViews, window: int, overlap: int, closed: bool) -> list[Window]:
    """One window where all views fit in."""
    V = len(views.cameras)
    if window >= V:
        return [Window(list(range(V)), list(range(V)))]
    return split_into_windows(len(views.level1), V, window, overlap, closed)


def sample_views(
    level: int,
    model,
    views: PhotographedViews,
    level1: dict | None,
    seed,
    steps,
    cfg,
    sampler_name,
    scheduler,
    shift=0.0,
    window=WINDOW,
    overlap=OVERLAP,
    closed=False,
) -> io.NodeOutput:
    """The LATENT of a level, with the plan of its windows for the decoders. level1: for the cascade."""
    if not math.isfinite(cfg + shift):
        raise ValueError(f"The input 'cfg' is {cfg} and 'shift' {shift}; give finite numbers.")
    networks.check_model(model, views, level)
    if level1 is not None:
        checked(level1, views, 1, "level1")
    plan = plan_windows(views, window, overlap, closed)
    given = None if level1 is None else level1["samples"]
    samples = sampling.sample(model, views, given, plan, seed, steps, cfg, sampler_name, scheduler, shift)
    return io.NodeOutput({"samples": samples, "gld_level": level, "gld_windows": plan})


class GLDSampleLevel1(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDSampleLevel1",
            display_name="Sample GLD Level 1",
            category="GLD",
            description="Make the level-1 features of all views, sources included.",
            search_aliases=["ksampler", "novel view synthesis", "multi-view diffusion"],
            inputs=[
                io.Model.Input("model", tooltip="A level-1 model."),
                GLDViews.Input("views", tooltip="From Encode GLD Views."),
                *sampling_inputs("level-1 features"),
            ],
            outputs=[io.Latent.Output(display_name="level1", tooltip="(1, C, V, h, w) normalised features.")],
        )

    @classmethod
    def execute(cls, model, views, **settings):
        return sample_views(1, model, views, None, **settings)


class GLDCascadeLevel0(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDCascadeLevel0",
            display_name="Cascade GLD Level 0",
            category="GLD",
            description="Make the finer level-0 features of all views, given those of level 1.",
            search_aliases=["ksampler", "refiner", "detail"],
            inputs=[
                io.Model.Input("model", tooltip="A cascade model."),
                GLDViews.Input("views", tooltip="From Encode GLD Views."),
                io.Latent.Input("level1", tooltip="From Sample GLD Level 1, with the same views."),
                *sampling_inputs("level-0 features"),
            ],
            outputs=[io.Latent.Output(display_name="level0", tooltip="(1, C, V, h, w) normalised features.")],
        )

    @classmethod
    def execute(cls, model, views, level1, **settings):
        return sample_views(0, model, views, level1, **settings)


class GLDConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDConditioning",
            display_name="GLD Conditioning",
            category="GLD/advanced",
            description="What the stock samplers need to run a GLD model: conditioning with and without cameras, and "
            "the empty latent.",
            search_aliases=["ksampler", "advanced sampling"],
            inputs=[
                GLDViews.Input("views", tooltip="From Encode GLD Views."),
                io.Latent.Input(
                    "level1", optional=True, tooltip="For the cascade: the level-1 features. Leave open for level 1."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The sources with all cameras."),
                io.Conditioning.Output(display_name="negative", tooltip="The sources without cameras."),
                io.Latent.Output(display_name="latent", tooltip="Empty, (1, C, V, h, w)."),
            ],
        )

    @classmethod
    def execute(cls, views, level1=None):
        if level1 is not None:
            checked(level1, views, 1, "level1")
        given = None if level1 is None else level1["samples"]
        positive, negative, empty = sampling.conditioning(views, given)
        return io.NodeOutput(positive, negative, {"samples": empty, "gld_level": 1 if level1 is None else 0})


class GLDScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDScheduler",
            display_name="GLD Scheduler",
            category="GLD/advanced",
            description="The released time grid as SIGMAS for SamplerCustom and SamplerCustomAdvanced.",
            search_aliases=["sigmas", "timesteps"],
            inputs=[
                io.Model.Input("model", tooltip="The GLD model that will be sampled."),
                io.Latent.Input("latent", tooltip="From GLD Conditioning; the time shift follows its number of views."),
                io.Int.Input("steps", default=49, min=1, max=1000, tooltip="Network evaluations. 49 is as released."),
                io.Float.Input(
                    "shift", default=0.0, min=0.0, max=100.0, step=0.1, advanced=True, tooltip="0: the released one."
                ),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="steps + 1 times from 1 down; the last is not 0.")
            ],
        )

    @classmethod
    def execute(cls, model, latent, steps, shift=0.0):
        networks.check_model(model, None, latent.get("gld_level"))
        shape = tuple(latent["samples"].shape)
        if len(shape) != 5:
            raise ValueError(f"The input 'latent' has shape {shape}, not (1, C, V, h, w); wire GLD Conditioning's.")
        return io.NodeOutput(sampling.released_sigmas(model, latent["samples"], steps, shift))


class GLDFast(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDFast",
            display_name="Speed Up GLD Sampling",
            category="GLD/advanced",
            description="A GLD model that is guided part of the time and runs its condition encoder less often, with "
            "any sampler. Faster, and no longer the released result.",
            search_aliases=["fast", "faster", "guidance interval", "cache", "acceleration"],
            inputs=[
                io.Model.Input("model", tooltip="From Load GLD Diffusion Model, of either level."),
                io.Float.Input(
                    "guidance_from",
                    default=flow.FAST.guidance[0],
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Time from which on there is guidance: 0 is the finished features, 1 is noise.",
                ),
                io.Float.Input(
                    "guidance_to",
                    default=flow.FAST.guidance[1],
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Time up to which there is guidance. Outside only the cameras' branch is evaluated, which "
                    "takes half the time; with the gld scheduler half the steps are above 0.97. 0 to 1: as released.",
                ),
                io.Int.Input(
                    "share",
                    default=2,
                    min=1,
                    max=100,
                    tooltip="Evaluations in a row that use one output of the condition encoder. 1: as released.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For GLD's or the stock samplers.")],
        )

    @classmethod
    def validate_inputs(cls, guidance_from, guidance_to):
        if not guidance_from <= guidance_to:
            return (
                f"'guidance_from' is {guidance_from} and 'guidance_to' {guidance_to}, which leaves no time between; "
                "set 'guidance_from' below 'guidance_to', or 'cfg' in the sampler to 1 for no guidance."
            )
        return True

    @classmethod
    def execute(cls, model, guidance_from, guidance_to, share):
        networks.check_model(model, None, None)
        return io.NodeOutput(sampling.sped_up(model, (guidance_from, guidance_to), share))
