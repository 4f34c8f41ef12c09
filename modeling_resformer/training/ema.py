"""An exponential moving average of the weights: what is evaluated, selected and saved in place of the raw ones.

Polyak and Juditsky 1992 (averaging), Tarvainen and Valpola 2017, arXiv 1703.01780 (exponential, as here).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """average = d * average + (1 - d) * weights after every step t, with d = min(decay, (1 + t) / (10 + t)).

    The smaller d of the first steps forgets the random start, so that short runs gain as well. Running batch-norm
    statistics are averaged like weights, since they must fit the averaged weights; counters are copied.

    Args:
        model: whose weights are averaged; copied, so the average takes as much memory once more.
        decay: in (0, 1).

    Raises:
        ValueError: the decay lies outside.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay is {decay}; expected a number between 0 and 1, such as 0.999.")
        self.decay = decay
        self._average = AveragedModel(model, multi_avg_fn=self._update, use_buffers=True)

    @property
    def updates(self) -> int:
        """How many times the weights have been taken in."""
        return int(self._average.n_averaged)

    def update(self, model: nn.Module) -> None:
        """Take in the weights that an optimiser step has left in `model`."""
        self._average.update_parameters(model)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Within the block `model` has the averaged weights, if any; afterwards its own again, bit for bit."""
        if not self.updates:
            yield
            return
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    def state_within(self, model: nn.Module) -> dict[str, Any]:
        """What a checkpoint needs beside the averaged weights: the raw ones of `model`, and the number of updates."""
        return {"weights": model.state_dict(), "updates": self.updates}

    def load(self, averaged: nn.Module, updates: int) -> None:
        """Go on from the averaged weights of a checkpoint."""
        self._average.module.load_state_dict(averaged.state_dict())
        self._average.n_averaged.fill_(updates)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give `model` the averaged weights for good."""
        for tensor, averaged in self._pairs(model):
            tensor.copy_(averaged)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for tensor, averaged in self._pairs(model):
            kept = tensor.clone()
            tensor.copy_(averaged)
            averaged.copy_(kept)

    def _pairs(self, model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        average = self._average.module
        yield from zip(model.parameters(), average.parameters(), strict=True)
        yield from zip(model.buffers(), average.buffers(), strict=True)

    def _update(self, averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor) -> None:
        """Called by torch once for each dtype. Counters and indices must not be averaged: rounding would spoil them."""
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        decay = min(self.decay, (1 + int(updates)) / (10 + int(updates)))
        get_ema_multi_avg_fn(decay)(averaged, current, updates)
