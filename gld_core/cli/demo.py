"""The command `demo`: a rendered room, and `views` on it."""

import argparse

from ..checkpoints import NANO, NANO_SIZE, NANO_STEPS
from ..io.images import fitting_size
from ..io.posed_folders import write_scene
from ..jobs import Job
from ..jobs.many import run_one
from ..synthetic.render import render_scene
from ..synthetic.rooms import REACH
from .options import Progress, add_device_option, add_model_options, check_out, say
from .views import add_job_options, job_settings, models_of

# The small model was trained on the first 2000 rooms.
DEMO_ROOM = 5001


def demo(args: argparse.Namespace) -> int:
    """A rendered room, and `views` on it. Returns the exit code: 1 where an export failed."""
    check_out(args.out, args.overwrite)
    job = Job(str(args.out / "scene"), **{"size": NANO_SIZE, "steps": NANO_STEPS, **job_settings(args)})
    job.check()
    height, width = fitting_size(5, 9, job.size or NANO_SIZE)
    say(f"rendering a room to {job.input}")
    images, _, cameras = render_scene(DEMO_ROOM + job.seed, 6, height, width, reach=REACH)
    write_scene(args.out / "scene", images, cameras)
    return int(not run_one(job, args.out / "views", models_of(args, False), say, Progress, args.overwrite))


def add(commands) -> None:
    command = commands.add_parser(
        "demo", help=f"`views` on a rendered room, with the small model nano ({NANO_SIZE} pixels, {NANO_STEPS} steps)"
    )
    add_model_options(command, models=NANO)
    add_device_option(command)
    add_job_options(command)
    command.set_defaults(action=demo)
