"""What every node needs of ComfyUI. Only this package knows its internals: folders, models, samplers, previews."""

import json
from collections.abc import Callable

import comfy.cli_args
import comfy.model_management
import comfy.utils
import latent_preview
from aiohttp import web
from PIL import Image
from server import PromptServer
from torch import Tensor


def to_host(tensor: Tensor) -> Tensor:
    """A result where the host keeps what goes between nodes."""
    return tensor.to(comfy.model_management.intermediate_device())


def say(text: str, node_id: str) -> None:
    """Text under the widgets of a node, in the page that queued the running prompt. Without that page's name the host
    tells all clients, and other programs take every binary message for a picture.
    """
    server = PromptServer.instance
    if server.sockets_metadata.get(server.client_id, {}).get("feature_flags"):
        server.send_progress_text(text, node_id, server.client_id)


def page_is_strict() -> bool:
    """Whether ComfyUI's page is kept from addresses that it makes itself (blob:), as it is without API nodes."""
    return comfy.cli_args.args.disable_api_nodes


def stop_if_cancelled() -> None:
    """Raises where the user cancels."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress_bar() -> Callable[[int, int], None]:
    """progress(done, total) on the running node; raises where the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        stop_if_cancelled()
        bar.update_absolute(done, max(total, done))

    return progress


def picture_bar() -> Callable[[int, int, Image.Image | None], None]:
    """The same with a picture of how far the work is, or None to leave the last one."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int, picture: Image.Image | None) -> None:
        stop_if_cancelled()
        preview = picture and ("JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION)
        bar.update_absolute(done, total, preview)

    return progress


def tell_page(event: str, data: dict) -> None:
    """An event for the page that queued the running prompt; its modules hear it through the page's `api`."""
    server = PromptServer.instance
    server.send_sync(event, data, server.client_id)


def answer_page(address: str, answer: Callable[[dict], dict]) -> None:
    """Let the page ask for something at an address: a JSON object comes in, one goes out; what a ValueError says goes
    out as its 'error'.
    """

    @PromptServer.instance.routes.post(address)
    async def respond(request: web.Request) -> web.Response:
        try:
            asked = json.loads(await request.text())
            if not isinstance(asked, dict):
                raise ValueError(f"The request is {str(asked)[:40]!r}; send a JSON object.")
            return web.json_response(answer(asked))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
