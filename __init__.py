"""GLD in ComfyUI: novel views, depth and 3D from one to four photographs."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
