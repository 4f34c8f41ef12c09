"""The three things ResFormer can be trained for: which labels each takes, and which logits and losses it gives.

The one place that knows; collator, trainer and evaluation speak of `mask_labels` and `class_labels` throughout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerPreTrainedModel,
)


@dataclass(frozen=True)
class Task:
    """How one model class names what it takes and gives.

    Attributes:
        model_class: the class that is trained.
        labels: argument of `forward` by key of the collator's batch.
        losses: field of the output by name in logs and results.
        mask_logits: field of the output that holds (B, S, H, W) mask logits; None without a segmentation head.
        class_logits: field of the output that holds (B, K) class logits; None without a classification head.
    """

    model_class: type[ResFormerPreTrainedModel]
    labels: Mapping[str, str]
    losses: Mapping[str, str]
    mask_logits: str | None
    class_logits: str | None

    def forward_arguments(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What `forward` takes of a batch, labels included; nothing else is passed on."""
        labels = {argument: batch[key] for key, argument in self.labels.items()}
        return {"pixel_values": batch["pixel_values"], **labels}

    def loss_parts(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The unweighted losses as one float32 vector, in the order of `losses`."""
        return torch.stack([outputs[field].detach().float() for field in self.losses.values()])


TASKS = {
    "multi_task": Task(
        model_class=ResFormerForMultiTask,
        labels={"mask_labels": "mask_labels", "class_labels": "class_labels"},
        losses={"segmentation_loss": "segmentation_loss", "classification_loss": "classification_loss"},
        mask_logits="segmentation_logits",
        class_logits="classification_logits",
    ),
    "segmentation": Task(
        model_class=ResFormerForSemanticSegmentation,
        labels={"mask_labels": "labels"},
        losses={"segmentation_loss": "loss"},
        mask_logits="logits",
        class_logits=None,
    ),
    "classification": Task(
        model_class=ResFormerForImageClassification,
        labels={"class_labels": "labels"},
        losses={"classification_loss": "loss"},
        mask_logits=None,
        class_logits="logits",
    ),
}


def task_named(class_name: str) -> Task:
    """The task of a model class by its name, as a checkpoint's config records it.

    Raises:
        ValueError: no head is trained in a class of that name.
    """
    for task in TASKS.values():
        if task.model_class.__name__ == class_name:
            return task
    known = ", ".join(task.model_class.__name__ for task in TASKS.values())
    raise ValueError(f"{class_name} has no task to train or evaluate; expected one of {known}.")


def task_of(model: ResFormerPreTrainedModel) -> Task:
    """The task of a model: that which its class names, as a rival's does, else that of the class.

    Raises:
        ValueError: no head is trained in its class.
    """
    name = getattr(model, "task", None)
    return TASKS[name] if name in TASKS else task_named(type(model).__name__)
