"""On PYTHONPATH of the test server only: lets torchvision import where its compiled operators do not load.

A CPU build of torch beside a torchvision built for CUDA stops at `operator torchvision::nms does not exist`. The two
operators that torchvision looks up while it is imported are then declared, without an implementation.
"""

import importlib.machinery
import importlib.util
import pathlib
import sys


class DeclareOperators:
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or torch.version.cuda is not None:
            return spec
        folder = pathlib.Path(spec.origin).parent
        for suffix in [*importlib.machinery.EXTENSION_SUFFIXES, ".so"]:
            if (folder / f"_C{suffix}").is_file():
                try:
                    torch.ops.load_library(str(folder / f"_C{suffix}"))
                except OSError:
                    self.library = torch.library.Library("torchvision", "FRAGMENT")
                    for operator in ("nms", "qnms"):
                        self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                    torch.torchvision_operators = self
                break
        return spec


sys.meta_path.insert(0, DeclareOperators())
