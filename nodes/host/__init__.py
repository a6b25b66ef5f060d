"""What every node needs of ComfyUI. Only this package knows its internals: folders, models, samplers, previews."""

from collections.abc import Callable

import comfy.model_management
import comfy.utils
from server import PromptServer
from torch import Tensor


def to_host(tensor: Tensor) -> Tensor:
    """A result where the host keeps what goes between nodes."""
    return tensor.to(comfy.model_management.intermediate_device())


def say(text: str, node_id: str) -> None:
    """Text under the widgets of a node."""
    PromptServer.instance.send_progress_text(text, node_id)


def progress_bar() -> Callable[[int, int], None]:
    """progress(done, total) on the running node; raises where the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, max(total, done))

    return progress
