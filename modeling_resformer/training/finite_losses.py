"""Whether losses are numbers, asked without making every step of a training wait for the answer."""

from dataclasses import dataclass, field

import torch


MOST = 100  # micro-batches that go unlooked at


@dataclass
class LossOfCases:
    """What one micro-batch lost.

    Attributes:
        step: after how many steps.
        values: (1 + parts,) the loss and its parts.
        case_index: (B,) of the images.
    """

    step: int
    values: torch.Tensor
    case_index: torch.Tensor


@dataclass
class FiniteLosses:
    """Keeps losses where they were computed. To look at one means to wait until an accelerator has computed it."""

    kept: list[LossOfCases] = field(default_factory=list)

    def add(self, loss: LossOfCases) -> None:
        self.kept.append(loss)

    @property
    def is_due(self) -> bool:
        """Whether to look now: on a CPU always, where it costs nothing."""
        return bool(self.kept) and (len(self.kept) >= MOST or is_at_hand(self.kept[-1].values))

    def first_wrong(self) -> LossOfCases | None:
        """The first since the last look that is NaN or infinite."""
        kept, self.kept = self.kept, []
        if not kept:
            return None
        finite = torch.stack([one.values for one in kept]).isfinite().all(dim=1).tolist()
        return None if all(finite) else kept[finite.index(False)]


def is_at_hand(values: torch.Tensor) -> bool:
    return values.device.type == "cpu"
