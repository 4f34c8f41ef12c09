"""Where in an image the classification head finds its evidence for each class, and how much of that lies in the mask.

Grad-CAM (Selvaraju et al., ICCV 2017) on what the head is given. The head averages the two deepest levels over all positions
and passes both through linear layers, so **both** are looked at: either alone would leave out a part of the logit. The
gradient is that of the head, not of the network behind the maps, since the finer level also leads to the deeper one, whose
share would be counted twice by a gradient through the network. Libraries' Grad-CAM looks at one layer by the network's
gradient; of the maps that enter this head it gives the same (tested against MONAI's). No backward pass through the network is
needed, and the paper's encoder, a backbone and both models' evaluation forms are treated alike.

Since the head is linear, the maps here are a whole account: a class's logit is the mean of its map over all positions, plus a
constant. What lies above 0 speaks for the class. What a map shows is where the last features lie, each of which has seen a
wide part of the image: it is a hint to look at, no proof of a reason.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..modeling_resformer import POOLED_LEVELS


FeatureMaps = Sequence[torch.Tensor]


def head_evidence(head: nn.Module, feature_maps: FeatureMaps) -> torch.Tensor:
    """Evidence for every class at each position that the head averages.

    Args:
        head: a `classification_head`.
        feature_maps: what it is given; the last `POOLED_LEVELS`, each (B, C, h, w), are read.

    Returns:
        (B, K, h, w) float32 on the grid of the finest map read, signed. Its mean over positions is the logit without its
        constant, which is the logit of maps of zeros.
    """
    with torch.inference_mode(False), torch.enable_grad():
        maps = [one.detach().clone().requires_grad_() for one in feature_maps[-POOLED_LEVELS:]]
        logits = head(maps)
        by_class = [torch.autograd.grad(logits[:, k].sum(), maps, retain_graph=True) for k in range(logits.shape[1])]
    size = maps[0].shape[-2:]
    return torch.stack([_on_one_grid(maps, gradients, size) for gradients in by_class], dim=1)


def _on_one_grid(maps: FeatureMaps, gradients: FeatureMaps, size: Sequence[int]) -> torch.Tensor:
    """Grad-CAM of each level without its ReLU, times its number of positions, so that levels weigh what they do in the
    logit; resized and added. -> (B, h, w)."""
    total = 0
    for features, gradient in zip(maps, gradients, strict=True):
        weights = gradient.float().sum((2, 3), keepdim=True)
        level = (weights * features.detach().float()).sum(1, keepdim=True)
        total = total + F.interpolate(level, size=tuple(size), mode="bilinear", align_corners=False)
    return total[:, 0]


def input_evidence(model: nn.Module, feature_maps: FeatureMaps, size: Sequence[int]) -> torch.Tensor:
    """`head_evidence` on the pixels of the model's input.

    Args:
        model: with an `encoder` and a `classification_head`.
        feature_maps: what the head was given for an input of `size`.
        size: (height, width) of the input, before the encoder pads it.

    Returns:
        (B, K, height, width).
    """
    stride = model.encoder.padding.stride
    padded = [-(-side // stride) * stride for side in size]
    evidence = head_evidence(model.classification_head, feature_maps)
    resized = F.interpolate(evidence, size=padded, mode="bilinear", align_corners=False)
    return resized[..., : size[0], : size[1]]


def class_evidence(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Evidence maps of a batch: (B, num_channels, H, W), as the image processor makes it -> (B, K, H, W) float32, signed.

    Raises:
        ValueError: the model has no classification head.
    """
    if not hasattr(model, "classification_head"):
        raise ValueError("Evidence maps need a model with image-level classes; this one only segments.")
    with torch.no_grad():
        feature_maps, _ = model.encoder(pixel_values)
    return input_evidence(model, feature_maps, pixel_values.shape[-2:])


def share_inside(evidence: np.ndarray, mask: np.ndarray) -> float | None:
    """Share of the evidence for a class that lies inside a mask.

    Args:
        evidence: (H, W) of one class; only what is above 0 counts.
        mask: (H, W), true or above 0 inside.

    Returns:
        0..1, None where nothing speaks for the class. A map that is the same everywhere gives the mask's share of the area.
    """
    if evidence.shape != mask.shape:
        raise ValueError(f"Evidence {evidence.shape} and a mask {mask.shape}; expected one size.")
    speaking = np.maximum(np.asarray(evidence, np.float64), 0)
    total = speaking.sum()
    return float(speaking[mask > 0].sum() / total) if total > 0 else None


@contextmanager
def seen_by_head(model: nn.Module, passes: int) -> Iterator["deque[FeatureMaps]"]:
    """The feature maps that a model's classification head is given within a block, of the last `passes` forward passes.

    They stay empty for a model without that head, and for one that ONNX Runtime runs in its place.
    """
    kept: deque[FeatureMaps] = deque(maxlen=passes)
    if passes == 0 or not hasattr(model, "classification_head"):
        yield kept
        return
    handle = model.classification_head.register_forward_hook(lambda head, given, logits: kept.append(given[0]))
    try:
        yield kept
    finally:
        handle.remove()


__all__ = ["class_evidence", "head_evidence", "input_evidence", "seen_by_head", "share_inside"]
