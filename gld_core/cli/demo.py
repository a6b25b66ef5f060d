"""The command `demo`: a rendered room, and `views` on it."""

import argparse

from ..checkpoints import NANO, NANO_SIZE, NANO_STEPS
from ..io.images import fitting_size
from ..io.posed_folders import write_scene
from ..synthetic.render import render_scene
from ..synthetic.rooms import REACH
from .options import add_model_options, add_sampling_options, add_source_options, check_out, say
from .views import views

# The small model was trained on the first 2000 rooms.
DEMO_ROOM = 5001


def demo(args: argparse.Namespace) -> None:
    """A rendered room, and `views` on it."""
    check_out(args.out, args.overwrite)
    height, width = fitting_size(5, 9, args.size)
    say(f"rendering a room to {args.out / 'scene'}")
    images, _, cameras = render_scene(DEMO_ROOM + args.seed, 6, height, width, reach=REACH)
    write_scene(args.out / "scene", images, cameras)
    args.scene, args.out = args.out / "scene", args.out / "views"
    views(args)


def add(commands) -> None:
    command = commands.add_parser("demo", help="the same on a rendered room, with the small model nano")
    add_source_options(command)
    add_sampling_options(command, steps=NANO_STEPS, size=NANO_SIZE)
    add_model_options(command, models=NANO)
    command.set_defaults(action=demo)
