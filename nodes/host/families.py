"""The families of networks that work together, and what each is made for."""

import math
from dataclasses import dataclass
from pathlib import Path

from ...gld_core import Cameras, checkpoints, flow
from .folders import NANO


@dataclass(frozen=True)
class Family:
    """Networks of one training. backbone: whose files and shapes they have. long_side: pixels of the longer image side
    they were trained at. steps: network evaluations they are meant to be sampled with. narrowest: the smallest field of
    view, in degrees across the shorter side of an image, with which they give pictures at all.
    """

    name: str
    backbone: str
    long_side: int
    steps: int
    narrowest: float = 0

    def size_remark(self, height: int, width: int) -> str:
        """A sentence about images far from the size that the family was trained at. Empty if they are near it."""
        ratio = max(height, width) / self.long_side
        if 2 / 3 <= ratio <= 1.5:
            return ""
        work = f" and about {ratio**2:.0f} times the work" if ratio > 1 else ""
        return (
            f"{self.name} was trained at {self.long_side} pixels, but these images have {max(height, width)}: expect "
            f"worse pictures{work}. Set 'long_side' to 0 for its own size."
        )

    def lens_remark(self, cameras: Cameras) -> str:
        """A sentence about cameras whose lenses are too long for the family. Empty if none is."""
        size = cameras.K.new_tensor([cameras.width, cameras.height])
        longest = float((cameras.K.diagonal(dim1=1, dim2=2)[:, :2] / size).max())
        degrees = math.degrees(2 * math.atan(0.5 / longest))
        if degrees >= self.narrowest:
            return ""
        return (
            f"{self.name} does not know lenses as long as these, with a field of view of {degrees:.0f} degrees across "
            f"the shorter side: below {self.narrowest:.0f} expect no picture. Use photographs of a wider lens, or da3."
        )

    def steps_remark(self, steps: int) -> str:
        """A sentence about many more steps than the family needs. Empty if they are not."""
        if steps <= 3 * self.steps:
            return ""
        return f"{self.name} needs {self.steps} steps and not {steps}; set 'steps' to 0 for its own number."


FAMILIES = {name: Family(name, name, checkpoints.RELEASED_SIZE, flow.STEPS[name]) for name in checkpoints.LAYOUT}
FAMILIES[NANO] = Family(NANO, "da3", checkpoints.NANO_SIZE, checkpoints.NANO_STEPS, narrowest=27)


def diffusion_family(path: Path, backbone: str) -> Family:
    """The family of a diffusion model in `checkpoints/`, made for that backbone: nano's lie below a folder `nano`."""
    own = path.parents[1].name == NANO and backbone == FAMILIES[NANO].backbone
    return FAMILIES[NANO if own else backbone]
