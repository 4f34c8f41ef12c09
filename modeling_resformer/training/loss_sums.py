"""The sums behind the next line of the log: of the loss that is trained on, and of its parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class LossSums:
    """What one process has summed up; goes into each checkpoint, so that a resumed run logs what it would have logged.

    Args:
        loss: () sum over the steps since the last line.
        loss_sums: (parts,) sum of them over the micro-batches since the last line.
        loss_steps: how many micro-batches these are.
        logged_loss: sum over all steps up to the last line, the mean over processes.
        logged_step: the step of the last line.
    """

    loss: torch.Tensor
    loss_sums: torch.Tensor
    loss_steps: int = 0
    logged_loss: float = 0.0
    logged_step: int = 0

    @classmethod
    def start(cls, device: torch.device) -> "LossSums":
        return cls(loss=torch.zeros((), device=device), loss_sums=torch.zeros((), device=device))

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "LossSums":
        """Those that `save` wrote, on a device."""
        sums = cls(**torch.load(path, map_location="cpu", weights_only=True))
        sums.loss, sums.loss_sums = sums.loss.to(device), sums.loss_sums.to(device)
        return sums

    def save(self, path: Path) -> None:
        torch.save(vars(self), path)

    def add_parts(self, parts: torch.Tensor) -> None:
        """Take in the parts of the loss of one micro-batch."""
        self.loss_sums = self.loss_sums + parts
        self.loss_steps += 1

    def line(
        self, names: Sequence[str], step: int, over_processes: Callable[[torch.Tensor], torch.Tensor]
    ) -> dict[str, float]:
        """Means since the last line, by name; the sums start anew.

        Args:
            names: of the parts.
            step: that the run is at.
            over_processes: the mean of a tensor over all processes.
        """
        loss = over_processes(self.loss).item()
        means = {"loss": loss / (step - self.logged_step)}
        if self.loss_steps:
            parts = over_processes(self.loss_sums / self.loss_steps)
            means |= dict(zip(names, parts.tolist(), strict=True))
        self.logged_loss += loss
        self.logged_step = step
        self.loss, self.loss_sums = torch.zeros_like(self.loss), torch.zeros_like(self.loss_sums)
        self.loss_steps = 0
        return means

    def mean_of_run(self, step: int) -> float:
        """Mean loss of all steps, before and after the run was resumed."""
        return (self.logged_loss + self.loss.item()) / step
