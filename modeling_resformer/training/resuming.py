"""`transformers.Trainer` whose runs can be killed at any moment and resumed to the same end.

A resumed run ends with the same weights, bit for bit in one process on the CPU, as one that was never killed, if its
processes and threads are as many. For this

- rows, their order and their augmentation are a function of (seed, epoch, row), see `rows.py`;
- random numbers drawn in the model (dropout, stochastic depth) are a function of (seed, step, process): neither an
  evaluation nor the number of data-loading workers changes them;
- checkpoints are whole or not there, see `checkpoints.py`, and hold averaged and raw weights, the counter of early
  stopping, and the sums behind the next line of the log.

Of the Trainer only public methods are overridden. It saves after a step or an epoch and before the next begins, and then
finds another output folder in its arguments; `on_save` adds what is missing and renames.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy, TrainOutput

from ..data.rows import EpochSampler
from ..errors import BadInputError
from ..files import whole_file
from .checkpoints import (
    UNFINISHED,
    check_settings,
    clean_up,
    let_appear,
    named_checkpoint_failure,
    newest_whole,
    problem_of,
    record_files,
    rotate,
    steps_of,
)
from .ema import WeightAverage
from .loss_sums import LossSums
from .run_settings import settings_of


logger = logging.getLogger(__name__)

RAW_WEIGHTS = "raw_weights.pt"
TRAINER_STATE = "trainer_state.json"

# Of torch's DataLoader; the Trainer's arguments are named dataloader_*.
LOADER_SETTINGS = (
    *("num_workers", "pin_memory", "persistent_workers", "prefetch_factor"),
    *("multiprocessing_context", "in_order", "drop_last"),
)


class RepeatableSteps(TrainerCallback):
    """Makes every step a function of (seed, step), and a checkpoint whole once the Trainer has written its part."""

    def __init__(self, trainer: "ResumableTrainer") -> None:
        self.trainer = trainer
        self.save_at_epoch_end = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.begin()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.write_aside(False)
        # On several processes Accelerate loses the sampler behind its shards when an epoch is resumed in its middle.
        self.trainer.train_sampler.set_epoch(int(state.epoch))
        self.save_at_epoch_end = False

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.write_aside(False)
        source = np.random.SeedSequence((args.seed, state.global_step, args.process_index))
        torch.manual_seed(int(source.generate_state(1)[0]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.trainer.average is not None:
            self.trainer.average.update(self.trainer.model)
        self.trainer.write_aside(True)
        # A checkpoint of an epoch's last step waits for the epoch's evaluation, which a resumed run would skip.
        if control.should_save and (float(state.epoch).is_integer() or state.global_step >= state.max_steps):
            control.should_save, self.save_at_epoch_end = False, True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.write_aside(True)
        control.should_save |= self.save_at_epoch_end

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        if self.trainer.is_in_train and args.metric_for_best_model is not None:
            self.trainer.check_metric(of["metrics"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.finish_checkpoint()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.write_aside(False)


class ResumableTrainer(Trainer):
    """A Trainer with whole checkpoints, exact resumption and, if asked for, averaged weights.

    `train_dataset` is a `TrainingRows`.

    Args:
        ema_decay: of a `WeightAverage`; default none.

    Raises:
        BadInputError: averaged weights where each process holds only a part of the model.
    """

    def __init__(self, *args: Any, ema_decay: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise BadInputError(
                "--ema_decay needs the whole model in every process, and FSDP and DeepSpeed give it a part; leave "
                "out one of the two."
            )
        self.average = None if ema_decay is None else WeightAverage(self.model, ema_decay)
        self.train_sampler: EpochSampler | None = None
        self.loss_parts: Sequence[str] = ()
        self.sums = LossSums.start(self.args.device)
        self._resumed_from: Path | None = None
        self._run = Path(self.args.output_dir)
        self._unfinished: Path | None = None
        self._most_checkpoints: int | None = None
        self._num_epochs = 0
        self.add_callback(RepeatableSteps(self))

    # Training

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, from a whole checkpoint on if one is given; `True` means the newest of the output folder, if any.

        Raises:
            BadInputError: the checkpoint is of a run with other settings, or `metric_for_best_model` is unknown.
            CheckpointWriteError: a checkpoint cannot be written.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole(self._run)
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if self._resumed_from is None:
            self._check_metric_name()
        else:
            self._note_differences(check_settings(self._resumed_from, self._settings()))
        if self.args.should_save:
            clean_up(self._run)
        with self._own_checkpoints():
            output = super().train(self._resumed_from and str(self._resumed_from), trial, ignore_keys_for_eval)
        self._end_averaging()
        # Whatever is evaluated from here on stops nothing.
        self.remove_callback(EarlyStoppingCallback)
        return output

    @contextmanager
    def _own_checkpoints(self) -> Iterator[None]:
        """Within the block the Trainer deletes no checkpoint, and a full disk is named in one line."""
        args = self.args
        self._most_checkpoints, args.save_total_limit = args.save_total_limit, None
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if self._unfinished is None:
                raise
            with named_checkpoint_failure(self._unfinished.name, self._run):
                raise error
        finally:
            args.save_total_limit = self._most_checkpoints
            self.write_aside(False)
        # As the Trainer does: under a limit of one, the best alone is left in the end.
        if args.should_save and args.save_total_limit == 1 and self.state.best_model_checkpoint is not None:
            best = Path(self.state.best_model_checkpoint)
            rotate(best.parent, 1, best, best)

    def write_aside(self, aside: bool) -> None:
        """Where the Trainer writes checkpoints from here on: where nobody takes them for whole, or in the run's folder."""
        self.args.output_dir = str(self._run / UNFINISHED if aside else self._run)

    def get_train_dataloader(self) -> DataLoader:
        """Each epoch in an order of its own, see `rows.py`."""
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        self.train_sampler = EpochSampler(len(self.train_dataset), seed)
        loader = DataLoader(
            self.train_dataset,
            # That of one process, also where the Trainer has found one that fits.
            self.get_total_train_batch_size(args) // (args.gradient_accumulation_steps * args.world_size),
            sampler=self.train_sampler,
            collate_fn=self.data_collator,
            **{name: getattr(args, f"dataloader_{name}") for name in LOADER_SETTINGS},
        )
        return self.accelerator.prepare(loader)

    def set_initial_training_values(self, *args: Any) -> tuple[Any, ...]:
        """The Trainer's; no epoch for a run at its end, where it would go on for one more step or epoch."""
        self._num_epochs, *others, max_steps = super().set_initial_training_values(*args)
        at_end = self._resumed_from is not None and (
            steps_of(self._resumed_from) >= max_steps or self._restore_early_stopping()
        )
        return (0 if at_end else self._num_epochs, *others, max_steps)

    def begin(self) -> None:
        """Go on from the checkpoint that is resumed, if any: with what the Trainer does not restore of it."""
        self.state.num_train_epochs = self._num_epochs
        self.sums = LossSums.start(self.args.device)
        if self._resumed_from is not None:
            for callback in (*self.callback_handler.callbacks, self.control):
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
            self._check_best()
            self._restore_weights(self._resumed_from / RAW_WEIGHTS)
            if (path := self._progress_file(self._resumed_from)).is_file():
                self.sums = LossSums.load(path, self.args.device)

    def _restore_early_stopping(self) -> bool:
        """Set the counters to those of the checkpoint; the patience is this run's. Whether it is at an end."""
        saved = TrainerState.load_from_json(str(self._resumed_from / TRAINER_STATE)).stateful_callbacks
        stopping = [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        for one in stopping:
            attributes = saved.get(type(one).__name__, one.state())["attributes"]
            one.early_stopping_patience_counter = attributes["early_stopping_patience_counter"]
        return any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in stopping)

    def _restore_weights(self, path: Path) -> None:
        """The Trainer has loaded the averaged weights, if the checkpoint has any: go on from the raw ones."""
        if path.is_file():
            raw = torch.load(path, map_location="cpu", weights_only=True)
            if self.average is not None:
                self.average.load(self.model, raw["updates"])
            self.model.load_state_dict(raw["weights"])

    def _check_best(self) -> None:
        """Find the best checkpoint again, where the run was moved; select anew where it is lost or broken."""
        if self.state.best_global_step is None:
            return
        best = self._resumed_from.parent / f"checkpoint-{self.state.best_global_step}"
        if problem := problem_of(best):
            self._warn("%s was the best so far and is lost (%s); the best is chosen anew from here on.", best, problem)
            self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None
        else:
            self.state.best_model_checkpoint = str(best)

    def _end_averaging(self) -> None:
        """From here on the model is the one that is kept: the best, or else the last averaged weights."""
        best_is_loaded = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        if self.average is not None and self.average.updates and not best_is_loaded:
            self.average.copy_to(self.model)
        self.average = None

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Within the block the model has the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.in_place_of(self.model)

    # The log

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The Trainer's; the loss is summed up for the log here too, since its own sums end with the process."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.sums.loss += loss
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means over what was trained since the last line, and in the end over the whole run."""
        step = self.state.global_step
        if "loss" in logs and step > self.sums.logged_step:
            logs |= self.sums.line(self.loss_parts, step, partial(self.accelerator.reduce, reduction="mean"))
        if "train_loss" in logs and step:
            logs["train_loss"] = self.sums.mean_of_run(step)
        super().log(logs, start_time)

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and image processor; outside a checkpoint each file takes the place of an earlier one at once.

        Raises:
            CheckpointWriteError: it cannot be written.
        """
        if _internal_call and output_dir is not None:
            self._unfinished = Path(output_dir)
            with self.averaged_weights():
                super().save_model(output_dir, _internal_call)
            return
        folder = Path(output_dir or self._run)
        with named_checkpoint_failure("the model", folder):
            unfinished = folder / UNFINISHED / "model"
            super().save_model(str(unfinished), _internal_call=True)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                for file in unfinished.iterdir():
                    file.replace(folder / file.name)
                clean_up(folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def save_state(self) -> None:
        """Write `trainer_state.json` beside and rename it."""
        if not self.is_world_process_zero():
            return
        with named_checkpoint_failure(TRAINER_STATE, self._run), whole_file(self._run / TRAINER_STATE) as file:
            self._stated().save_to_json(str(file))

    def _stated(self) -> TrainerState:
        """The state as it is written: of the best checkpoint's path only its name, since where a run lies is its owner's."""
        state = copy.copy(self.state)
        if state.best_model_checkpoint is not None:
            state.best_model_checkpoint = Path(state.best_model_checkpoint).name
        return state

    def finish_checkpoint(self) -> None:
        """Add what the Trainer leaves out, let the checkpoint appear, and delete those over the limit."""
        unfinished, resumable = self._unfinished, not self.args.save_only_model
        checkpoint = self._run / unfinished.name
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(checkpoint)
        if resumable:
            self.sums.save(self._progress_file(unfinished))
        if self.args.should_save:
            self._stated().save_to_json(str(unfinished / TRAINER_STATE))
            if resumable and self.average is not None:
                torch.save(self.average.state_within(self.model), unfinished / RAW_WEIGHTS)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            record_files(unfinished, self._settings(), resumable)
            let_appear(unfinished, checkpoint)
            best = self.state.best_model_checkpoint
            rotate(self._run, self._most_checkpoints, checkpoint, best and Path(best))
        self.accelerator.wait_for_everyone()
        self._unfinished = None
        self.write_aside(False)

    def _progress_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"progress_{self.args.process_index}.pt"

    # Settings and selection

    def _settings(self) -> dict[str, dict[str, Any]]:
        return settings_of(self, None if self.average is None else self.average.decay)

    def _note_differences(self, differences: list[str]) -> None:
        if differences:
            self._warn(
                "%s is resumed with %s: the result will not be exactly that of a run never interrupted.",
                self._resumed_from,
                ", ".join(differences),
            )

    def _check_metric_name(self) -> None:
        """Evaluate once before a long run if it is selected by anything but the loss: a misspelt name shows at once."""
        name = self.args.metric_for_best_model
        selects = self.args.load_best_model_at_end or self.args.save_strategy == SaveStrategy.BEST
        if selects and name not in (None, "loss", "eval_loss") and self.eval_dataset is not None:
            self.check_metric(self.predict(self.eval_dataset, metric_key_prefix="eval").metrics)

    def check_metric(self, metrics: dict[str, float]) -> None:
        """Refuses a `metric_for_best_model` that is not among those of an evaluation."""
        names = {name.removeprefix("eval_") for name in metrics}
        if self.args.metric_for_best_model.removeprefix("eval_") not in names:
            known = sorted(name for name in names if not name.endswith(("runtime", "_per_second", "_time")))
            raise BadInputError(
                f"--metric_for_best_model is {self.args.metric_for_best_model!r}, which the validation split does not "
                f"give; expected one of {', '.join(known)}."
            )

    def _warn(self, message: str, *values: Any) -> None:
        if self.args.should_log:
            logger.warning(message, *values)
