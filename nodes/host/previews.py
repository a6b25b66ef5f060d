"""Small pictures of all views while they are sampled."""

import math
from dataclasses import dataclass, field

import comfy.cli_args
import comfy.utils
import latent_preview
import torch
import torch.nn.functional as F
from PIL import Image
from server import PromptServer
from torch import Tensor

from ...gld_core.autoencoder import Views
from . import to_host


@dataclass(frozen=True)
class PhotographedViews(Views):
    """GLD_VIEWS: encoded views with their source photographs (N, 3, H, W), which previews are fitted to.

    unfinished: by level, what an interrupted sampling of these views has made. It stays as long as the views do.
    """

    images: Tensor
    unfinished: dict = field(default_factory=dict, compare=False, repr=False)


def photographed(views: Views, images: Tensor) -> PhotographedViews:
    """Views with the photographs they were encoded from, where the host keeps what goes between nodes."""
    token = None if views.token is None else to_host(views.token)
    return PhotographedViews(
        views.backbone, views.cameras, to_host(views.level0), to_host(views.level1), token, images=to_host(images)
    )


def patch_rows(latent: Tensor, h: int, w: int) -> Tensor:
    """(C, V, ...) of one sample to (V, h*w, C), special tokens left out."""
    return latent.flatten(2)[:, :, -h * w :].permute(1, 2, 0)


def fit_colors(views: PhotographedViews, level: int) -> tuple[Tensor, Tensor] | None:
    """A linear map from features to patch colours, (C, 3) and (3,): ridge regression on the source photographs.

    Their own features of the level against the mean colour under each patch; solved over patches, of which there are
    fewer than channels or little more, on the CPU, as not every device can. None where there is no solution.
    """
    features = views.level1 if level == 1 else views.level0
    h, w = (size // 14 for size in views.images.shape[-2:])
    x = patch_rows(features.cpu().transpose(0, 1), h, w).flatten(0, 1)
    y = F.adaptive_avg_pool2d(views.images.cpu(), (h, w)).flatten(2).transpose(1, 2).flatten(0, 1)
    stride = -(-len(x) // 1024)
    x, y = x[::stride], y[::stride]
    center = y.mean(dim=0)
    gram = x @ x.T
    gram.diagonal().add_(0.1 * gram.diagonal().mean())
    solution, failed = torch.linalg.solve_ex(gram, y - center)
    return None if failed or not torch.isfinite(solution).all() else (x.T @ solution, center)


def preview_image(x0: Tensor, weight: Tensor, center: Tensor, h: int, w: int) -> Image.Image:
    """All views of the first sample side by side, a pixel per patch."""
    colors = (patch_rows(x0[0].float(), h, w) @ weight + center).clamp(0, 1).unflatten(1, (h, w))
    columns = math.ceil(math.sqrt(len(colors)))
    blank = colors.new_zeros(-len(colors) % columns, h, w, 3)
    tiles = torch.cat([colors, blank]).unflatten(0, (-1, columns)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return Image.fromarray((tiles * 255).round().byte().cpu().numpy())


def previews_are_off() -> bool:
    """Whether there are no pictures of what is sampled, which is ComfyUI's default."""
    return comfy.cli_args.args.preview_method == latent_preview.LatentPreviewMethod.NoPreviews


# The first prompt that was sampled without pictures since ComfyUI started.
first_without: list[str] = []


def previews_hint() -> str:
    """How to switch the pictures on, in that prompt. Empty in later ones, and where they are on."""
    if not previews_are_off():
        return ""
    prompt = PromptServer.instance.last_prompt_id
    if not first_without:
        first_without.append(prompt)
    if first_without != [prompt]:
        return ""
    return "Pictures while sampling are off: set Settings > Comfy > Execution > Live preview method to auto."


def preview_wrapper(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
    """Around any sampling of a GLD model: a small picture of all views with every step, where previews are on."""
    guider = executor.class_obj
    found = [cond for conds in guider.conds.values() for cond in conds if "gld_views" in cond]
    if not found or previews_are_off():
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
    views, place = found[0]["gld_views"], found[0]["gld_place"]
    h, w = (size // 14 for size in views.images.shape[-2:])
    colors = fit_colors(views, guider.model_patcher.model.level)
    if colors is None:
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
    progress = comfy.utils.ProgressBar(place(0, len(sigmas) - 1)[1])

    def with_preview(step, x0, x, total):
        if callback is not None:
            callback(step, x0, x, total)
        weight, center = (value.to(x0.device) for value in colors)
        picture = preview_image(x0, weight, center, h, w)
        progress.update_absolute(*place(step, total), ("JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION))

    return executor(noise, latent_image, sampler, sigmas, denoise_mask, with_preview, *args, **kwargs)
