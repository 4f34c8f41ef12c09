"""A student learns, beside the annotations, what a trained model answers to the same images.

Hinton, Vinyals and Dean 2015, arXiv 1503.02531, at temperature 1; also on rows that nobody annotated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor

from ..configuration_resformer import ResFormerConfig
from ..data.collation import TEACHER_PIXELS
from ..errors import BadInputError
from ..heads import Task, task_of
from ..modeling_resformer import ResFormerPreTrainedModel


@dataclass(frozen=True)
class Teacher:
    """A trained model, what it takes, and how much its answers weigh.

    Attributes:
        model: frozen, in evaluation mode.
        image_processor: its own; the teacher may see larger images than the student.
        weight: of the distillation loss beside that of the annotations.
    """

    model: ResFormerPreTrainedModel
    image_processor: BaseImageProcessor
    weight: float

    @classmethod
    def of(cls, model: ResFormerPreTrainedModel, image_processor: BaseImageProcessor, weight: float) -> "Teacher":
        return cls(model.eval().requires_grad_(False), image_processor, weight)

    def check(self, name: str, config: ResFormerConfig, task: Task) -> None:
        """Refuses a teacher that answers something else than a student of this config and task learns.

        Raises:
            BadInputError: naming what differs.
        """
        own, theirs = task_of(self.model), self.model.config
        for logits, kind, taught, learnt in (
            ("mask_logits", "mask classes", theirs.mask_class_names, config.mask_class_names),
            ("class_logits", "image-level classes", theirs.image_class_names, config.image_class_names),
            ("class_logits", "classification_type", theirs.classification_type, config.classification_type),
        ):
            if getattr(task, logits) is None:
                continue
            if getattr(own, logits) is None or taught != learnt:
                has = f"has {taught}" if getattr(own, logits) is not None else "has none"
                raise BadInputError(
                    f"--distill_from {name}: of {kind} the teacher {has}, the student {learnt}; expected the same in the "
                    "same order."
                )

    @property
    def checksum(self) -> int:
        """Of its weights, by which a resumed run knows its teacher again."""
        total = 0
        for tensor in self.model.state_dict().values():
            total = crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), total)
        return total

    def loss(self, student: Mapping[str, torch.Tensor], task: Task, batch: Mapping[str, Any]) -> torch.Tensor:
        """() mean of what the student's answers lack of the teacher's, unweighted; 0 where they agree.

        Args:
            student: output of the student.
            task: of the student.
            batch: of the collator, with `teacher_pixel_values`.
        """
        self.model.to(batch[TEACHER_PIXELS].device)
        with torch.no_grad():
            teacher = self.model(pixel_values=batch[TEACHER_PIXELS])
        own = task_of(self.model)
        terms = []
        if task.mask_logits is not None:
            terms.append(mask_divergence(student[task.mask_logits], teacher[own.mask_logits]))
        if task.class_logits is not None:
            exclude = self.model.config.classes_exclude
            terms.append(class_divergence(student[task.class_logits], teacher[own.class_logits], exclude))
        return torch.stack(terms).sum()


def mask_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """() mean over pixels of KL(teacher || student) of the softmax over mask classes.

    Args:
        student: (B, S, h, w) logits.
        teacher: (B, S, H, W) logits; its probabilities are resized to the student's pixels.
    """
    wanted = teacher.float().softmax(dim=1)
    if wanted.shape != student.shape:
        wanted = F.interpolate(wanted, student.shape[-2:], mode="bilinear", antialias=True)
    return F.kl_div(student.float().log_softmax(dim=1), wanted, reduction="none").sum(dim=1).mean()


def class_divergence(student: torch.Tensor, teacher: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """() KL(teacher || student) of the class scores: mean over images, and over classes where each has a sigmoid.

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits.
        exclusive: whether the scores are a softmax.
    """
    student, teacher = student.float(), teacher.float()
    if exclusive:
        return F.kl_div(student.log_softmax(dim=1), teacher.softmax(dim=1), reduction="batchmean")
    wanted = teacher.sigmoid()
    return F.binary_cross_entropy_with_logits(student, wanted) - F.binary_cross_entropy_with_logits(teacher, wanted)
