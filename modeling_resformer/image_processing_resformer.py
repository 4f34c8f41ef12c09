# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""Image processing for ResFormer with torchvision: images of one size are resized and normalised together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import TorchvisionBackend
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import PILImageResampling, SizeDict

from .image_processing_pil_resformer import ResFormerImageProcessing, ResFormerImageProcessorKwargs


class ResFormerImageProcessor(ResFormerImageProcessing, TorchvisionBackend):
    """ResFormer's image processor; see `ResFormerImageProcessing` for its settings."""

    valid_kwargs = ResFormerImageProcessorKwargs  # named here too, where transformers looks for it

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | int | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float] | None,
        image_std: float | Sequence[float] | None,
        device: torch.device | str | None = None,
        disable_grouping: bool | None = None,
        **_: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        tensors = [torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device) for array in images]
        if disable_grouping is None and all(
            not do_resize or t.shape[-2:] == (size.height, size.width) for t in tensors
        ):
            disable_grouping = False  # transformers' default on CPUs, one by one, is for images to be resized
        groups, order = group_images_by_shape(tensors, disable_grouping=disable_grouping)
        for shape, batch in groups.items():
            if do_resize and tuple(batch.shape[-2:]) != (size.height, size.width):
                batch = self.resize(batch, size=size, resample=resample)
            # Bytes as they are: transformers normalises the copy that it makes floats of in place.
            groups[shape] = self.rescale_and_normalize(
                batch, do_rescale, rescale_factor, do_normalize, image_mean, image_std
            ).float()
        if len(groups) == 1:  # which is the batch: to take it apart would copy it
            (batch,) = groups.values()
            return batch.clone() if batch.data_ptr() == tensors[0].data_ptr() else batch  # the caller's own numbers
        return reorder_images(groups, order)


__all__ = ["ResFormerImageProcessor"]
