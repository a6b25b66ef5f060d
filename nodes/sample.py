"""Encoding the sources and sampling the features of all views."""

import math

import comfy.samplers
from comfy_api.latest import io

from ..gld_core import flow
from ..gld_core.export.camera_plan import counted
from ..gld_core.io.images import PATCH
from ..gld_core.windows import LONG_PATHS, OVERLAP, TRAINED_VIEWS, let_go, plan_windows
from . import host
from .host import networks, sampling
from .host.inputs import check_inputs, problem
from .host.previews import PhotographedViews, photographed, previews_hint
from .sockets import GLDBackbone, GLDCameras, GLDViews, pictures

STEPS_TOOLTIP = "0 means the model's own number, for the released ones that of the released program."


def checked(latent: dict, views: PhotographedViews, level: int, name: str):
    """The samples of a LATENT input as (V, C, ...); ValueError names the input where they cannot be that level's."""
    found = latent.get("gld_level", level)
    if found != level:
        raise ValueError(
            f"The input '{name}' has level-{found} features, but level {level} is needed; swap the connections."
        )
    networks.check_samples(views, latent["samples"], name)
    if len(latent["samples"]) != 1:
        raise ValueError(
            f"The input '{name}' holds {len(latent['samples'])} samples; choose one with Get Latent From Batch."
        )
    return latent["samples"][0].float().transpose(0, 1)


class GLDEncodeViews(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDEncodeViews",
            display_name="Encode GLD Views",
            category="GLD",
            description="Encodes the source photographs into features. The cameras say which views will be generated.",
            search_aliases=["features", "novel view", "vae encode"],
            inputs=[
                GLDBackbone.Input("backbone", tooltip="The output of Load GLD Backbone."),
                io.Image.Input(
                    "images", tooltip="The N source photographs. Their width and height must be multiples of 14."
                ),
                GLDCameras.Input(
                    "cameras", tooltip="The cameras of all V views. The cameras of the N photographs come first."
                ),
            ],
            outputs=[
                GLDViews.Output(
                    display_name="views",
                    tooltip="The features of the source photographs, with the cameras of all views.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, backbone, images, cameras):
        images = pictures(images, "images")
        height, width = images.shape[-2:]
        if height % PATCH or width % PATCH:
            raise ValueError(
                f"The input 'images' has {width}x{height} pixels, but width and height must be multiples of {PATCH}; "
                "connect the resized images of Estimate GLD Cameras, Load GLD Scene or Load GLD Cameras."
            )
        remarks = filter(None, (backbone.family.size_remark(height, width), backbone.family.lens_remark(cameras)))
        if remark := "\n".join(remarks):
            host.say(remark, cls.hidden.unique_id)
        autoencoder = backbone.on_device({"backbone": len(images) * backbone.grid(*images.shape[-2:])})
        return io.NodeOutput(photographed(autoencoder.encode_views(images, cameras), images))


def sampling_inputs(level: str) -> list:
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Random seed for the initial noise of all views.",
        ),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=1000,
            tooltip=f"Number of sampling steps from noise to {level}. {STEPS_TOOLTIP}",
        ),
        io.Float.Input(
            "cfg",
            default=1.5,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Guidance scale: how strongly the cameras guide the result. 1 means no guidance and takes half "
            "the time.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.SAMPLER_NAMES,
            default="euler",
            tooltip="Any sampler of ComfyUI. The released program uses euler.",
        ),
        io.Combo.Input(
            "scheduler",
            options=["gld", *comfy.samplers.SCHEDULER_NAMES],
            default="gld",
            tooltip="Noise schedule. gld is the released one, which depends on the number of views.",
        ),
        io.Float.Input(
            "shift",
            default=0.0,
            min=0.0,
            max=flow.LARGEST_SHIFT,
            step=0.1,
            advanced=True,
            tooltip="Time shift of the gld scheduler. 0 means the released value for the number of views.",
        ),
        io.Int.Input(
            "window",
            default=0,
            min=0,
            max=64,
            optional=True,
            advanced=True,
            tooltip="Window size: the number of views that are generated together, including the sources. 0 means the "
            "windows that long_paths chooses. Windows of another size are generated one after the other, as in version "
            "0.1.0. The released models were trained with up to 8.",
        ),
        io.Int.Input(
            "overlap",
            default=OVERLAP,
            min=0,
            max=62,
            optional=True,
            advanced=True,
            tooltip="Window overlap: the number of targets that a window shares with the window before it. A larger "
            "overlap gives smoother transitions and takes more time. It is used if window is not 0.",
        ),
        io.Boolean.Input(
            "closed",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Closed path: the camera returns to its start, so the last window also has the first targets.",
        ),
        io.Combo.Input(
            "long_paths",
            options=list(LONG_PATHS),
            default="speed",
            optional=True,
            tooltip="How a path with more views than a window is generated. All windows take every step together, and "
            "where they overlap they are blended. speed: windows of 12 views. With four sources this needs a third of "
            "the network evaluations of quality. smooth: the same, with half of the noise in common, so that "
            "neighbouring views differ less; all of them may be a little less right. quality: windows of 8 views, the "
            "number that the released models were trained with, in two thirds of the memory.",
        ),
    ]


def views_remark(together: int) -> str:
    """A sentence about more views at a time than in training. Empty if they are not."""
    if together <= TRAINED_VIEWS:
        return ""
    return (
        f"The models were trained with up to {TRAINED_VIEWS} views at a time; here it is {together}. Set long_paths to "
        f"quality for windows of {TRAINED_VIEWS}."
    )


# Samplers that extrapolate from earlier steps over the very long last one of the gld schedule. With nano in 16 steps
# they end 4 times as far from 400 steps of euler as euler does, or further: tests/bench/samplers.py.
EXTRAPOLATING = ("dpmpp_2m", "dpmpp_3m", "ipndm_v", "lms", "res_multistep", "sa_solver")


def sampler_remark(sampler_name: str, scheduler: str) -> str:
    """A sentence about a sampler that comes out far off. Empty for others."""
    if "_cfg_pp" in sampler_name:
        return f"{sampler_name} comes out far off: it is for other models. Set 'sampler_name' to euler."
    if scheduler != "gld" or not sampler_name.startswith(EXTRAPOLATING):
        return ""
    return (
        f"{sampler_name} comes out far off on the schedule gld, whose last step is very long; set 'scheduler' to "
        "simple or beta for it, or 'sampler_name' to euler."
    )


BEGINS_AGAIN = (
    "If it is interrupted, this path begins again. It goes on from its last step with the samplers "
    f"{', '.join(sampling.WITHOUT_NOISE + sampling.WITH_NOISE)}, and without patches of other nodes in the model."
)


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
    window=0,
    overlap=OVERLAP,
    closed=False,
    long_paths="speed",
    speed_up=None,
    node_id=None,
) -> dict:
    """The LATENT of a level, with the plan of its windows for the decoders. level1: for the cascade. speed_up: as in
    `sampling.sample`. node_id: of the node that says what is done.
    """
    if not math.isfinite(cfg + shift):
        raise ValueError(f"The inputs 'cfg' and 'shift' are {cfg} and {shift}; give finite numbers.")
    networks.check_model(model, views, level)
    if level1 is not None:
        checked(level1, views, 1, "level1")
    N, V = len(views.level1), len(views.cameras)
    plan = plan_windows(N, V, window, overlap if window else OVERLAP, closed, long_paths)
    given = None if level1 is None else level1["samples"]
    family, cameras = model.model.family, views.cameras
    steps = steps or family.steps
    together = window == 0 and len(plan) > 1
    windows = f"{len(plan)} windows that step together" if together else f"{len(plan)} windows"
    windows = f", {counted(steps, 'step')}." if len(plan) == 1 else f" in {windows}, {len(plan) * steps} steps in all."
    about = [
        f"Level {level} with {family.name}: {len(cameras)} views{windows}",
        family.size_remark(cameras.height, cameras.width),
        family.steps_remark(steps),
        sampler_remark(sampler_name, scheduler),
        "" if not together or sampling.goes_on(sampler_name, model) else BEGINS_AGAIN,
        views_remark(max(len(part.views) for part in plan)),
        previews_hint(),
    ]
    about = [sentence for sentence in about if sentence]

    def say(*first: str) -> None:
        # The page shows two lines of a long text in a small node.
        host.say("\n".join([*first, *about]), node_id)

    say()
    choice = None if window else long_paths
    try:
        samples = sampling.sample(
            model, views, given, plan, seed, steps, cfg, sampler_name, scheduler, shift, say, speed_up, closed, choice
        )
    finally:
        # Without the time that was left.
        say()
    return {"samples": samples, "gld_level": level, "gld_windows": plan}


def finished(views: PhotographedViews, *latents: dict | None) -> io.NodeOutput:
    """The results of a node that was not interrupted, so that nothing is left to go on from."""
    views.unfinished.clear()
    let_go(views)
    return io.NodeOutput(*latents)


class GLDSampleLevel1(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDSampleLevel1",
            display_name="Sample GLD Level 1",
            category="GLD",
            description="Samples the level-1 features of all views, including the sources.",
            search_aliases=["ksampler", "novel view synthesis", "multi-view diffusion"],
            inputs=[
                io.Model.Input("model", tooltip="A level-1 diffusion model."),
                GLDViews.Input("views", tooltip="The output of Encode GLD Views."),
                *sampling_inputs("level-1 features"),
            ],
            outputs=[
                io.Latent.Output(display_name="level1", tooltip="Normalised level-1 features of shape (1, C, V, h, w).")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, views, **settings):
        return finished(views, sample_views(1, model, views, None, **settings, node_id=cls.hidden.unique_id))


class GLDCascadeLevel0(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDCascadeLevel0",
            display_name="Cascade GLD Level 0",
            category="GLD",
            description="Samples the finer level-0 features of all views, guided by their level-1 features.",
            search_aliases=["ksampler", "refiner", "detail"],
            inputs=[
                io.Model.Input("model", tooltip="A cascade diffusion model."),
                GLDViews.Input("views", tooltip="The output of Encode GLD Views."),
                io.Latent.Input("level1", tooltip="The output of Sample GLD Level 1 for the same views."),
                *sampling_inputs("level-0 features"),
            ],
            outputs=[
                io.Latent.Output(display_name="level0", tooltip="Normalised level-0 features of shape (1, C, V, h, w).")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, views, level1, **settings):
        return finished(views, sample_views(0, model, views, level1, **settings, node_id=cls.hidden.unique_id))


class GLDSample(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        seed, steps, cfg, *others = sampling_inputs("features")
        for entry in others:
            entry.advanced = True
        return io.Schema(
            node_id="GLDSample",
            display_name="Sample GLD",
            category="GLD",
            description="Generates the features of all views: level 1, which gives geometry and layout, then level 0, "
            "which adds fine detail.",
            search_aliases=["ksampler", "novel view synthesis", "multi-view diffusion", "new angle", "generate views"],
            inputs=[
                GLDViews.Input("views", tooltip="The output of Encode GLD Views."),
                io.Model.Input("level1_model", tooltip="The level-1 model of Load GLD."),
                io.Model.Input(
                    "level0_model",
                    optional=True,
                    tooltip="The level-0 model of Load GLD. If not connected: a quick preview without fine detail.",
                ),
                seed,
                steps,
                cfg,
                io.Combo.Input(
                    "quality",
                    options=["released", "quick"],
                    default="released",
                    tooltip="released: what the released program computes. quick: two thirds of the "
                    "model's own steps, and the settings of Speed Up GLD Sampling. This takes about half the time, and "
                    "the result differs.",
                ),
                *others,
            ],
            outputs=[
                io.Latent.Output(display_name="level1", tooltip="Normalised level-1 features, for the decoders."),
                io.Latent.Output(
                    display_name="level0",
                    tooltip="Normalised level-0 features, for the decoders. Empty without level0_model.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, views, level1_model, steps, quality, level0_model=None, **settings):
        models = {1: level1_model, 0: level0_model}
        given = {level: model for level, model in models.items() if model is not None}
        # Both, before hours are spent on the first.
        for level, model in given.items():
            networks.check_model(model, views, level, f"level{level}_model")
        settings["node_id"] = cls.hidden.unique_id
        latents, speed_up = {0: None}, None
        for level, model in given.items():
            count = steps
            if quality == "quick":
                count = steps or flow.quick_steps(model.model.family.steps)
                speed_up = (flow.QUICK.guidance, flow.QUICK.reuse_encoder_for)
            latents[level] = sample_views(
                level, model, views, latents.get(1), steps=count, speed_up=speed_up, **settings
            )
        return finished(views, latents[1], latents[0])


class GLDConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDConditioning",
            display_name="GLD Conditioning",
            category="GLD/advanced",
            description="Prepares the inputs of ComfyUI's own samplers for a GLD model: conditioning with and without "
            "cameras, and an empty latent.",
            search_aliases=["ksampler", "advanced sampling"],
            inputs=[
                GLDViews.Input("views", tooltip="The output of Encode GLD Views."),
                io.Latent.Input(
                    "level1",
                    optional=True,
                    tooltip="The level-1 features, which the cascade needs. If not connected: conditioning for level "
                    "1.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="Conditioning with the source features and all cameras."
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="Conditioning with the source features and without cameras."
                ),
                io.Latent.Output(display_name="latent", tooltip="Empty latent of shape (1, C, V, h, w)."),
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
            description="Gives the released noise schedule as SIGMAS for SamplerCustom and SamplerCustomAdvanced.",
            search_aliases=["sigmas", "timesteps"],
            inputs=[
                io.Model.Input("model", tooltip="The GLD model that will be sampled."),
                io.Latent.Input(
                    "latent", tooltip="The latent of GLD Conditioning. The time shift depends on its number of views."
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip=f"Number of sampling steps. {STEPS_TOOLTIP}",
                ),
                io.Float.Input(
                    "shift",
                    default=0.0,
                    min=0.0,
                    max=flow.LARGEST_SHIFT,
                    step=0.1,
                    advanced=True,
                    tooltip="Time shift. 0 means the released value for the number of views.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="steps + 1 noise levels that decrease from 1. The last one is not 0."
                )
            ],
        )

    @classmethod
    def execute(cls, model, latent, steps, shift=0.0):
        networks.check_model(model, None, latent.get("gld_level"))
        shape = tuple(latent["samples"].shape)
        if len(shape) != 5:
            raise ValueError(
                f"The input 'latent' has shape {shape} instead of (1, C, V, h, w); connect the latent of GLD "
                "Conditioning."
            )
        steps = steps or model.model.family.steps
        return io.NodeOutput(sampling.released_sigmas(model, *latent["samples"].shape[1:3], steps, shift))


class GLDFast(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDFast",
            display_name="Speed Up GLD Sampling",
            category="GLD/advanced",
            description="Makes sampling faster with any sampler: guidance is used in a part of the time range only, "
            "and the condition encoder runs less often. The result differs from the released one.",
            search_aliases=["fast", "faster", "guidance interval", "cache", "acceleration"],
            inputs=[
                io.Model.Input("model", tooltip="The output of Load GLD Diffusion Model, of level 1 or level 0."),
                io.Float.Input(
                    "guidance_from",
                    default=flow.QUICK.guidance[0],
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Lower end of the time range with guidance. Time 0 is the finished features, time 1 is "
                    "noise.",
                ),
                io.Float.Input(
                    "guidance_to",
                    default=flow.QUICK.guidance[1],
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Upper end of the time range with guidance. Outside the range a step takes half the time. "
                    "With the gld scheduler, half of the steps are above 0.97. A range from 0 to 1 gives the released "
                    "result.",
                ),
                io.Int.Input(
                    "share",
                    default=flow.QUICK.reuse_encoder_for,
                    min=1,
                    max=100,
                    tooltip="Number of consecutive steps that share one output of the condition encoder. 1 gives the "
                    "released result.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The same model with faster settings, for GLD's samplers or ComfyUI's own.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, guidance_from=None, guidance_to=None):
        return problem(cls.check_times, guidance_from, guidance_to)

    @classmethod
    def check_times(cls, guidance_from, guidance_to):
        # The host leaves the range of an input to whoever validates it.
        times = {"guidance_from": guidance_from, "guidance_to": guidance_to}
        known = {name: time for name, time in times.items() if time is not None}
        check_inputs(cls.define_schema().inputs, known)
        if len(known) == 2 and guidance_from > guidance_to:
            raise ValueError(
                f"'guidance_from' is {guidance_from} and 'guidance_to' is {guidance_to}, so the time range is empty; "
                "set 'guidance_from' below 'guidance_to', or for no guidance set 'cfg' in the sampler to 1."
            )

    @classmethod
    def execute(cls, model, guidance_from, guidance_to, share):
        cls.check_times(guidance_from, guidance_to)
        networks.check_model(model, None, None)
        return io.NodeOutput(sampling.sped_up(model, (guidance_from, guidance_to), share))
