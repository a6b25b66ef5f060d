"""Whole jobs: from an input to files, one scene or many. The command line and `gld_core.run` are made of these."""

from .description import Job, read_list
from .many import Models, Outcome, run_many
from .scene import run

__all__ = ["Job", "Models", "Outcome", "read_list", "run", "run_many"]
