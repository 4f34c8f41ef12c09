"""What a training prints while it runs: one bar, and one line for each evaluation."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub.utils import enable_progress_bars
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy
from transformers.utils.logging import disable_progress_bar

from ..metrics.score_table import MAIN_SCORES


logger = logging.getLogger(__name__)


class ProgressLines(ProgressCallback):
    """In the place of the Trainer's own callbacks, which print every metric as a Python dictionary.

    A line per evaluation of a training: `epoch 3/30  loss 0.52  validation loss 0.48  dice 0.81  jaccard 0.70  auc 0.66`,
    the score that selects among them; without evaluations, a line per logged training loss.

    Args:
        bar: show a bar; without one there are the lines alone.
    """

    def __init__(self, bar: bool) -> None:
        super().__init__()
        self.bar = bar
        self.training_loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar:
            super().on_train_begin(args, state, control, **kwargs)
            # A resumed run goes on where it was.
            if self.training_bar is not None and state.global_step:
                self.training_bar.update(state.global_step)
            self.current_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar and self.training_bar is None:  # one bar at a time
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        self.training_loss = logs["loss"]
        if args.eval_strategy == IntervalStrategy.NO and state.is_world_process_zero:
            logger.info("%s  loss %.4g", place(args, state), self.training_loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_evaluate(args, state, control, **kwargs)
        if metrics and "eval_loss" in metrics and state.is_world_process_zero:
            logger.info("%s", self.line(args, state, metrics))
            self.training_loss = None

    def line(self, args: TrainingArguments, state: TrainerState, metrics: Mapping[str, float]) -> str:
        """Where the run is, its losses and its scores."""
        figures = {} if self.training_loss is None else {"loss": self.training_loss}
        figures["validation loss"] = metrics["eval_loss"]
        chosen = (args.metric_for_best_model or "loss").removeprefix("eval_")
        for name in dict.fromkeys((*MAIN_SCORES, chosen)):
            value = metrics.get(f"eval_{name}")
            if name != "loss" and value is not None and not math.isnan(value):
                figures[name] = value
        return "  ".join([place(args, state), *(f"{name} {value:.3f}" for name, value in figures.items())])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)


def place(args: TrainingArguments, state: TrainerState) -> str:
    """`epoch 3/30`, or `step 50/300` where the run is evaluated or measured by steps."""
    epoch, epochs = state.epoch or 0, state.num_train_epochs
    by = args.logging_strategy if args.eval_strategy == IntervalStrategy.NO else args.eval_strategy
    if by == IntervalStrategy.STEPS or args.max_steps > 0:
        return f"step {state.global_step}/{state.max_steps}"
    return f"epoch {round(epoch)}/{epochs}"


def quieten_libraries() -> None:
    """No bar for every file of weights that is written or read; those of downloads stay."""
    disable_progress_bar()
    enable_progress_bars()
