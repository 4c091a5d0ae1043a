"""Let PyPI's torchvision import beside a CPU-only torch, for the ComfyUI tests; put on the path by a .pth file.

ComfyUI imports torchvision for its pure-Python parts. PyPI's Linux wheel is built for CUDA, and beside a CPU build of
torch its compiled operators cannot be loaded; its import then fails where it describes two of them. Declaring their
signatures beforehand is enough.
"""

import importlib.abc
import sys


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                self.library = torch.library.Library("torchvision", "DEF")
                self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                sys.modules[__name__].keep = self.library
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
