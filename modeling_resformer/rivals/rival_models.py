"""Rivals as models that the trainer takes: its arguments, its outputs and losses, whatever network is inside."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from safetensors.torch import save_file
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput
from transformers.utils import SAFE_WEIGHTS_NAME

from ..configuration_resformer import ResFormerConfig
from ..files import whole_file
from ..heads import TASKS, Task
from ..modeling_resformer import (
    ResFormerForMultiTask,
    ResFormerMultiTaskOutput,
    ResFormerPreTrainedModel,
    classification_loss,
    segmentation_loss,
)
from .rival_names import RivalName
from .rival_networks import build_network


@strict
class RivalConfig(ResFormerConfig):
    """Labels, losses and thresholds as `ResFormerConfig` has them; its numbers of the architecture mean nothing here.

    Args:
        rival (`str`): Name of the network, see `modeling_resformer.rivals`.
        pretrained (`bool`, defaults to `False`): Whether a part of it started from ImageNet weights.
    """

    model_type = "resformer-rival"

    rival: str = "smp/Unet:resnet34"
    pretrained: bool = False

    @property
    def side(self) -> int:
        """Of the images that it is trained on, in pixels."""
        return self.image_size if isinstance(self.image_size, int) else max(self.image_size)


class RivalModel(ResFormerPreTrainedModel):
    """What the three below share."""

    config_class = RivalConfig
    base_model_prefix = "rival"
    supports_gradient_checkpointing = False
    _supports_sdpa = _supports_attention_backend = False
    task: str

    def __init__(self, config: RivalConfig) -> None:
        super().__init__(config)
        heads, name = TASKS[self.task], RivalName.of(config.rival)
        name.check_task(self.task)
        self.network = build_network(
            name,
            None if heads.mask_logits is None else len(config.mask_class_names),
            None if heads.class_logits is None else len(config.image_class_names),
            config.side,
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every library has initialised its own."""

    def save_pretrained(
        self, save_directory: str | Path, *_: Any, state_dict: Mapping[str, torch.Tensor] | None = None, **__: Any
    ) -> None:
        """Weights and config. There is no code to go along: a rival is loaded where this package and its library are.

        Not by transformers, which gives the weights of its own networks other names, and refuses modules that a library
        keeps under two names.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        state = self.state_dict() if state_dict is None else state_dict
        whole = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
        with whole_file(folder / SAFE_WEIGHTS_NAME) as partial:
            save_file(whole, partial, metadata={"format": "pt"})

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Those that started from ImageNet weights; none without."""
        if self.config.pretrained:
            yield from self.network.pretrained_part().parameters()

    def logits(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Mask logits (B, S, H, W) and class logits (B, K) for images (B, 3, H, W) of any size."""
        height, width = pixel_values.shape[-2:]
        multiple = self.network.multiple
        padded = F.pad(pixel_values, (0, -width % multiple, 0, -height % multiple))
        masks, classes = self.network(padded)
        return None if masks is None else masks[..., :height, :width], classes


class RivalForMultiTask(RivalModel):
    """Masks and image-level classes of an image by a rival; forward as `ResFormerForMultiTask`."""

    task = "multi_task"
    total_loss = ResFormerForMultiTask.total_loss

    def forward(
        self,
        pixel_values: torch.Tensor,
        mask_labels: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ResFormerMultiTaskOutput | tuple:
        masks, classes = self.logits(pixel_values)
        losses = {}
        if mask_labels is not None:
            losses["segmentation_loss"] = segmentation_loss(masks, mask_labels, self.config)
        if class_labels is not None:
            losses["classification_loss"] = classification_loss(classes, class_labels, self.config)
        output = ResFormerMultiTaskOutput(
            loss=self.total_loss(**losses) if losses else None,
            **losses,
            segmentation_logits=masks,
            classification_logits=classes,
        )
        return output if self.option(return_dict, "return_dict") else output.to_tuple()


class RivalForSemanticSegmentation(RivalModel):
    """Masks alone; forward as `ResFormerForSemanticSegmentation`."""

    task = "segmentation"

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> SemanticSegmenterOutput | tuple:
        masks, _ = self.logits(pixel_values)
        loss = None if labels is None else segmentation_loss(masks, labels, self.config)
        output = SemanticSegmenterOutput(loss=loss, logits=masks)
        return output if self.option(return_dict, "return_dict") else output.to_tuple()


class RivalForImageClassification(RivalModel):
    """Image-level classes alone; forward as `ResFormerForImageClassification`."""

    task = "classification"

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput | tuple:
        _, classes = self.logits(pixel_values)
        loss = None if labels is None else classification_loss(classes, labels, self.config)
        output = ImageClassifierOutput(loss=loss, logits=classes)
        return output if self.option(return_dict, "return_dict") else output.to_tuple()


RIVALS = {
    model.task: model for model in (RivalForMultiTask, RivalForSemanticSegmentation, RivalForImageClassification)
}


def rival_model(task: Task, config: RivalConfig) -> RivalModel:
    """A rival from random weights.

    Raises:
        BadInputError: there is no such network, it cannot learn the task, or its library is not installed.
    """
    return RIVALS[next(name for name, one in TASKS.items() if one is task)](config)
