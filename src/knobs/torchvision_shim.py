"""`from knobs.torchvision_shim import torchvision`: also where its compiled operators do not load.

torchvision's wheels are compiled against one build of torch. Beside another (a CPU torch, say) its
operators are missing, and its import fails while it describes one of them. The data sets and models
that knobs uses need none of them, so the two it describes are declared first.
"""

import torch

try:
    import torchvision
except RuntimeError:
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", boxes)
    import torchvision

__all__ = ["torchvision"]
