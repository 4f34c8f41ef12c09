"""Images of a batch are blended in pairs, and so are their losses: Zhang et al. 2018, arXiv 1710.09412."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..data.collation import TEACHER_PIXELS
from ..heads import Task
from ..modeling_resformer import ResFormerPreTrainedModel, classification_loss, segmentation_loss


@dataclass(frozen=True)
class Blend:
    """Which image each of a batch is blended with, and by how much.

    Attributes:
        share: of each image itself, in 0.5..1; the rest is its partner's.
        partner: (B,) index in the batch.
    """

    share: float
    partner: torch.Tensor

    @classmethod
    def draw(cls, alpha: float, batch_size: int) -> "Blend":
        """A share of Beta(alpha, alpha), the larger part being the image's own, and random partners, by torch's seed."""
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        return cls(max(share, 1 - share), torch.randperm(batch_size))

    def images(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with blended images, those that a teacher sees among them, and with every image's own labels."""
        names = [name for name in ("pixel_values", TEACHER_PIXELS) if name in batch]
        return {**batch, **{name: self._joined(batch[name], self._partners(batch[name])) for name in names}}

    def loss(
        self,
        model: ResFormerPreTrainedModel,
        task: Task,
        outputs: Mapping[str, torch.Tensor],
        batch: Mapping[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss by each image's own labels and that by its partner's, joined in the share of the images.

        Args:
            model: what answered, not wrapped.
            task: what it learns.
            outputs: its answers to the blended images, with the loss by each image's own labels.
            batch: of the collator.

        Returns:
            () the loss, and (L,) its detached parts in the order of `task.losses`.
        """
        partners = {}
        if task.mask_logits is not None:
            labels = self._partners(batch["mask_labels"])
            partners["segmentation_loss"] = segmentation_loss(outputs[task.mask_logits], labels, model.config)
        if task.class_logits is not None:
            labels = self._partners(batch["class_labels"])
            partners["classification_loss"] = classification_loss(outputs[task.class_logits], labels, model.config)
        parts = torch.stack([*partners.values()])
        total = model.total_loss(**partners) if len(partners) > 1 else parts[0]
        return self._joined(outputs["loss"], total), self._joined(task.loss_parts(outputs), parts.detach())

    def _partners(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.partner.to(values.device, non_blocking=True)]

    def _joined(self, own: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        return self.share * own + (1 - self.share) * partners
