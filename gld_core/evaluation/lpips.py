"""LPIPS with VGG: how different two pictures look to a network trained to recognise things.

Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018; version 0.1. Its weights are
not shipped: VGG_FILE is torchvision's ImageNet network, LINEAR_FILE the authors' (weights/v0.1 of their `lpips`).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints import read_file, reading

VGG_FILE, LINEAR_FILE = "vgg16-397923af.pth", "vgg.pth"
# Convolutions of VGG-16 by their number in the file; a stage ends in the features that are compared.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
# Authors' own constants, for values in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def missing_files(folder: Path) -> list[str]:
    """The names of the files that the folder lacks, of the two that are needed."""
    return [name for name in (VGG_FILE, LINEAR_FILE) if not (folder / name).is_file()]


class LPIPS:
    """Reads both files of a folder. FileNotFoundError or ValueError names the one that is missing or damaged."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        vgg, linear = read_file(folder / VGG_FILE), read_file(folder / LINEAR_FILE)
        with reading(folder / VGG_FILE):
            self.stages = [
                [tuple(vgg[f"features.{i}.{part}"].float().to(device) for part in ("weight", "bias")) for i in stage]
                for stage in STAGES
            ]
        with reading(folder / LINEAR_FILE):
            self.linear = [linear[f"lin{i}.model.1.weight"].float().to(device) for i in range(len(STAGES))]
        self.shift, self.scale = (torch.tensor(value, device=device).view(3, 1, 1) for value in (SHIFT, SCALE))

    def features(self, images: Tensor) -> list[Tensor]:
        """Per stage (V, C, h, w), of length 1 over channels."""
        x = (2 * images.to(self.shift).clamp(0, 1) - 1 - self.shift) / self.scale
        found = []
        for number, stage in enumerate(self.stages):
            if number:
                x = F.max_pool2d(x, 2)
            for weight, bias in stage:
                x = F.conv2d(x, weight, bias, padding=1).relu()
            found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return found

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        """(V,) float64 on the CPU, of (V, 3, H, W) both clamped to [0, 1], H and W at least 16."""
        out = torch.zeros(len(images), dtype=torch.float64)
        for view in range(len(images)):
            pairs = zip(self.features(images[view, None]), self.features(truth[view, None]), self.linear, strict=True)
            out[view] = sum(float(F.conv2d((x - y) ** 2, weight).mean()) for x, y, weight in pairs)
        return out
