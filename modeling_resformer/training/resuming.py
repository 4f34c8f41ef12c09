"""`transformers.Trainer` whose runs can be killed at any moment and resumed to the same end.

A resumed run ends with the same weights, bit for bit in one process on the CPU, as one that was never killed, if its
processes and threads are as many. For this

- rows, their order and their augmentation are a function of (seed, epoch, row), see `rows.py`;
- random numbers drawn in the model (dropout, stochastic depth) are a function of (seed, step, process): neither an
  evaluation nor the number of data-loading workers changes them;
- checkpoints are whole or not there, see `checkpoints.py`, and hold averaged and raw weights, the counter of early
  stopping, and the sums behind the next line of the log.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
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
    checkpoints_in,
    clean_up,
    discard,
    named_checkpoint_failure,
    newest_whole,
    problem_of,
    publish,
    rotate,
    write_manifest,
)
from .ema import WeightAverage


logger = logging.getLogger(__name__)

RAW_WEIGHTS = "raw_weights.pt"
TRAINER_STATE = "trainer_state.json"

# Arguments that make a run another run, and those that only change its last digits, its length or its choice.
FIXED_ARGUMENTS = (
    "seed",
    "data_seed",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "dataloader_drop_last",
)
NOTED_ARGUMENTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "max_grad_norm",
    "bf16",
    "fp16",
    "metric_for_best_model",
    "greater_is_better",
)


class RepeatableSteps(TrainerCallback):
    """Makes every step a function of (seed, step), so that it matters to none whether the run was resumed before it."""

    def __init__(self, trainer: "ResumableTrainer") -> None:
        self.trainer = trainer
        self.save_at_epoch_end = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.restore_progress()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # On several processes Accelerate loses the sampler behind its shards when an epoch is resumed in its middle.
        self.trainer.train_sampler.set_epoch(int(state.epoch))
        self.save_at_epoch_end = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        source = np.random.SeedSequence((args.seed, state.global_step, args.process_index))
        torch.manual_seed(int(source.generate_state(1)[0]))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.average is not None:
            self.trainer.average.update(self.trainer.model)
        # A checkpoint of an epoch's last step waits for the epoch's evaluation, which a resumed run would skip.
        if control.should_save and (float(state.epoch).is_integer() or state.global_step >= state.max_steps):
            control.should_save, self.save_at_epoch_end = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_save |= self.save_at_epoch_end


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
        self._unfinished: Path | None = None
        self._resumed_from: Path | None = None
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
        run = Path(self.args.output_dir)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole(run)
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if self._resumed_from is None:
            self._check_metric_name()
        else:
            self._note_differences(check_settings(self._resumed_from, self._settings()))
        if self.args.should_save:
            clean_up(run)
        output = super().train(str(self._resumed_from) if self._resumed_from else None, trial, ignore_keys_for_eval)
        self._end_averaging()
        # Whatever is evaluated from here on stops nothing.
        self.remove_callback(EarlyStoppingCallback)
        return output

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.train_sampler = EpochSampler(len(dataset), seed)
        return self.train_sampler

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        epochs_trained, batches_trained = super()._init_training_state(max_steps, *args)
        if self._resumed_from is None:
            return epochs_trained, batches_trained
        early_stopping = self._restore_callbacks()
        self._check_best()
        stopped = any(stop.early_stopping_patience_counter >= stop.early_stopping_patience for stop in early_stopping)
        if stopped or self.state.global_step >= max_steps:
            # The Trainer would go on for one more step or epoch: it knows the end only when it runs into it.
            return self.state.num_train_epochs, 0
        return epochs_trained, batches_trained

    def _restore_callbacks(self) -> list[EarlyStoppingCallback]:
        """Set the counters of early stopping to those of the checkpoint; the patience is that of this run."""
        early_stopping = []
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
            if isinstance(callback, EarlyStoppingCallback):
                attributes = self.state.stateful_callbacks[type(callback).__name__]["attributes"]
                callback.early_stopping_patience_counter = attributes["early_stopping_patience_counter"]
                early_stopping.append(callback)
        return early_stopping

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

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the model has the averaged weights, if there are any."""
        if self.average is None or not self.average.updates:
            yield
            return
        with self.average.in_place_of(self.model):
            yield

    # The sums behind the next line of the log

    def progress(self) -> dict[str, Any]:
        """What this process has summed up since the last line of the log; goes into each checkpoint."""
        return {
            "loss": self._tr_loss,
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
        }

    def load_progress(self, progress: dict[str, Any]) -> None:
        """The reverse of `progress`."""
        self._tr_loss = progress["loss"].to(self.args.device)
        self._total_loss_scalar = progress["logged_loss"]
        self._globalstep_last_logged = progress["logged_step"]

    def restore_progress(self) -> None:
        """Go on with the sums of the checkpoint that is resumed, if it holds this process's."""
        path = self._resumed_from and self._progress_file(self._resumed_from)
        if path and path.is_file():
            self.load_progress(torch.load(path, map_location="cpu", weights_only=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; the mean loss of the whole run stays that of the whole run after it was resumed."""
        if "train_loss" in logs and self.state.global_step:
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        super().log(logs, start_time)

    def _progress_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"progress_{self.args.process_index}.pt"

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and image processor; outside a checkpoint each file takes the place of an earlier one at once.

        Raises:
            CheckpointWriteError: it cannot be written.
        """
        if self._unfinished is not None:
            super().save_model(output_dir, _internal_call)
            return
        folder = Path(output_dir or self.args.output_dir)
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
        run = Path(self.args.output_dir)
        with named_checkpoint_failure(TRAINER_STATE, run), whole_file(run / TRAINER_STATE) as partial:
            self.state.save_to_json(str(partial))

    def _get_output_dir(self, trial: Any) -> str:
        run = super()._get_output_dir(trial)
        return run if self._unfinished is None else str(self._unfinished)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        checkpoint = run / f"checkpoint-{self.state.global_step}"
        with named_checkpoint_failure(checkpoint.name, run):
            self._unfinished = run / UNFINISHED
            try:
                with self.averaged_weights():
                    super()._save_checkpoint(model, trial)
            finally:
                self._unfinished = None
            self._complete(run / UNFINISHED / checkpoint.name, checkpoint)
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(checkpoint))

    def _complete(self, unfinished: Path, checkpoint: Path) -> None:
        """Add what the Trainer leaves out, let the checkpoint appear, and delete those over the limit."""
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(checkpoint)
        if self.args.should_save:
            self.state.save_to_json(str(unfinished / TRAINER_STATE))
            if self.average is not None and not self.args.save_only_model:
                torch.save(self.average.state_within(self.model), unfinished / RAW_WEIGHTS)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(unfinished, self._settings(), resumable=not self.args.save_only_model)
            publish(unfinished, checkpoint)
            best = self.state.best_model_checkpoint
            rotate(checkpoint.parent, self.args.save_total_limit, checkpoint, best and Path(best))
        self.accelerator.wait_for_everyone()

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        torch.save(self.progress(), self._progress_file(Path(output_dir)))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: the Trainer calls this before the checkpoint has its place."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / RAW_WEIGHTS
        if path.is_file():
            raw = torch.load(path, map_location="cpu", weights_only=True)
            if self.average is not None:
                self.average.load(self.model, raw["updates"])
            self.model.load_state_dict(raw["weights"])

    def _load_best_model(self) -> None:
        super()._load_best_model()
        # The Trainer deletes the last checkpoint under a limit of one, and would leave half of it if it were killed.
        if self.args.should_save and self.args.save_total_limit == 1:
            for checkpoint in checkpoints_in(Path(self.args.output_dir)):
                if checkpoint.name != Path(self.state.best_model_checkpoint).name:
                    discard(checkpoint)

    # Settings and selection

    def _settings(self) -> dict[str, dict[str, Any]]:
        """What a resumed run must have in common with its checkpoint, and what it is told about."""
        args, rows = self.args, self.train_dataset
        model = self.accelerator.unwrap_model(self.model)
        # Architecture, labels and losses; what else stands in a config is filled in when it is saved, or later.
        own = {"id2label", *type(model.config).__annotations__} - {"classification_thresholds", "resformer_version"}
        fixed = {
            "training rows": len(rows),
            "checksum of their cases": crc32("\n".join(rows.rows["case_id"]).encode()),
            "images a step (processes x batch size x accumulation)": (
                args.world_size * args.per_device_train_batch_size * args.gradient_accumulation_steps
            ),
            "model": type(model).__name__,
            **{f"config {name}": value for name, value in model.config.to_dict().items() if name in own},
            **{name: getattr(args, name) for name in FIXED_ARGUMENTS},
        }
        noted = {
            "processes": args.world_size,
            "augmentation": repr(rows.augmentation),
            "image size": str(getattr(self.processing_class, "size", None)),
            "ema_decay": None if self.average is None else self.average.decay,
            "CPU threads": torch.get_num_threads() if args.device.type == "cpu" else None,
            "torch": str(torch.__version__),
            **{name: getattr(args, name) for name in NOTED_ARGUMENTS},
        }
        return {"fixed": fixed, "noted": noted}

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
            self._known_metric(self.predict(self.eval_dataset, metric_key_prefix="eval").metrics)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self.args.metric_for_best_model is not None:
            self._known_metric(metrics)
        return super()._determine_best_metric(metrics, trial)

    def _known_metric(self, metrics: dict[str, float]) -> None:
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
