"""How much of a training's time its steps waited for data."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)

MUCH = 0.1  # of the time, from which on more workers are suggested


class DataWait(TrainerCallback):
    """Measures, and says in one line when a training ends.

    Attributes:
        waited: seconds in which batches were waited for.
        worked: seconds of steps.
    """

    def __init__(self) -> None:
        self.waited = self.worked = self._began = 0.0

    @property
    def share(self) -> float:
        """Of the time of steps and of waiting for them; 0 before the first."""
        return self.waited / (self.waited + self.worked) if self.waited else 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of a block in which batches are fetched."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.waited += time.monotonic() - began

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.worked += time.monotonic() - self._began

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not (self.worked and state.is_world_process_zero):
            return
        workers = args.dataloader_num_workers
        cure = f"; more --dataloader_num_workers ({workers} now) may help" if self.share > MUCH else ""
        logger.info("The steps waited for data %.0f %% of their time%s.", 100 * self.share, cure)
