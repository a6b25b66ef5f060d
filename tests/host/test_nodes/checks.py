"""Where the host looks whether the user has cancelled: how long each node goes on between two looks, and a cancel at a
chosen one.
"""

import time

import comfy.model_management
import execution
from aiohttp import web
from server import PromptServer

# By node: looks, and the most seconds of this thread's processor time from one to the next.
looks: dict[str, int] = {}
longest: dict[str, float] = {}
# The node that was running at the last look, and when that was.
last: list = [None, 0.0]
# Cancel at this look of this node.
cancel: dict = {}
look = comfy.model_management.throw_exception_if_processing_interrupted
task_done = execution.PromptQueue.task_done


def count(node: str | None) -> None:
    now = time.thread_time()
    before, since = last
    if before is not None:
        longest[before] = max(longest.get(before, 0), now - since)
    last[:] = node, now


def counted_look() -> None:
    node = PromptServer.instance.last_node_id
    count(node)
    if node is not None:
        looks[node] = looks.get(node, 0) + 1
        if cancel.get("node") == node and looks[node] == cancel["at"]:
            comfy.model_management.interrupt_current_processing()
    look()


def counted_end(*args, **kwargs):
    count(None)
    return task_done(*args, **kwargs)


def install() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted = counted_look
    execution.PromptQueue.task_done = counted_end

    @PromptServer.instance.routes.get("/test/looks")
    async def found(request: web.Request) -> web.Response:
        return web.json_response({"looks": looks, "longest": longest})

    @PromptServer.instance.routes.post("/test/looks")
    async def begin(request: web.Request) -> web.Response:
        """Count anew; with a JSON of node and at, cancel there."""
        looks.clear()
        longest.clear()
        cancel.clear()
        cancel.update(await request.json())
        return web.json_response({})
