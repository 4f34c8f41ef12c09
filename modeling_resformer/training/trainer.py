"""`transformers.Trainer` where it needs help: cases carried past the model, both losses logged, exact evaluation."""

import os
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate.utils import broadcast
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback

from ..errors import NonFiniteLossError
from ..evaluation.row_statistics import row_statistics
from ..heads import task_of
from .backbone_rate import FrozenBackbone, check_backbone, scale_backbone_rate
from .data_wait import DataWait
from .distillation import Teacher
from .finite_losses import FiniteLosses, LossOfCases
from .mixup import Blend
from .progress import ProgressLines
from .resuming import ResumableTrainer


DISTILLATION = "distillation_loss"  # in the log


class ResFormerTrainer(ResumableTrainer):
    """A Trainer for the three classes of `heads.py`, whose runs can be killed and resumed.

    `train_dataset` is a `TrainingRows`, `eval_dataset` an `EvaluationRows`, `data_collator` a `MultiTaskCollator`,
    `processing_class` the image processor and `compute_metrics` an `EvaluationMetrics`.

    Args:
        ema_decay: of an exponential moving average of the weights, which is then what is evaluated and saved.
        backbone_lr_scale: learning rate of the backbone's parameters over that of the others.
        freeze_backbone_epochs: epochs from the start in which the backbone's weights stay as they are.
        teacher: whose answers are learned as well; the collator then makes its pixels too.
        mixup: alpha of the shares in which images are blended in pairs; 0 for none.

    Raises:
        ValueError: an argument that would lose columns or keep all logits in memory.
        BadInputError: `freeze_backbone_epochs` of a model without a backbone.
        NonFiniteLossError: by `train` and `evaluate`, where a loss or an output is NaN or infinite.
    """

    def __init__(
        self,
        *args: Any,
        backbone_lr_scale: float = 1.0,
        freeze_backbone_epochs: float = 0.0,
        teacher: Teacher | None = None,
        mixup: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher
        self.mixup = mixup
        self.backbone_lr_scale = backbone_lr_scale
        self.freeze_backbone_epochs = freeze_backbone_epochs
        if freeze_backbone_epochs:
            check_backbone(f"--freeze_backbone_epochs {freeze_backbone_epochs:g}", self.model)
            self.add_callback(FrozenBackbone(freeze_backbone_epochs))
        for name, needed in (("remove_unused_columns", False), ("batch_eval_metrics", True)):
            if getattr(self.args, name) is not needed:
                raise ValueError(f"ResFormerTrainer needs TrainingArguments({name}={needed}); it is {not needed}.")
        self._settle_data_loading()
        for printing in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
            self.remove_callback(printing)
        self.add_callback(ProgressLines(bar=not self.args.disable_tqdm))
        # A loss that is no number ends the run; the Trainer would look for one at every step, and wait for it.
        self.args.logging_nan_inf_filter = False
        self.finite_losses = FiniteLosses()
        self.data_wait = DataWait()
        self.add_callback(self.data_wait)
        self.task = task_of(self.model)
        self.loss_parts = [*self.task.losses, *([] if teacher is None else [DISTILLATION])]

    def _settle_data_loading(self) -> None:
        """What torch would warn of: pinned memory without an accelerator, and more workers than cores.

        From pinned memory batches are copied while an accelerator works.
        """
        if self.args.device.type == "cpu":
            self.args.dataloader_pin_memory = False
        self.accelerator.dataloader_config.non_blocking = self.args.dataloader_pin_memory
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.args.dataloader_num_workers = min(self.args.dataloader_num_workers, cores)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, torch.Tensor | int | None]:
        """The batches of a step; the time is counted."""
        with self.data_wait.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's, in which a backbone may have a learning rate of its own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.backbone_lr_scale != 1:
            plain = self.accelerator.unwrap_model(self.model if model is None else model)
            scale_backbone_rate(optimizer, plain, self.backbone_lr_scale)
        return optimizer

    def _settings(self) -> dict[str, dict[str, Any]]:
        settings = super()._settings()
        # Only what is not the default, so that checkpoints from before there was a choice are resumed.
        if self.backbone_lr_scale != 1:
            settings["fixed"]["backbone_lr_scale"] = self.backbone_lr_scale
        if self.freeze_backbone_epochs:
            settings["fixed"]["freeze_backbone_epochs"] = self.freeze_backbone_epochs
        if self.mixup:
            settings["fixed"]["mixup"] = self.mixup
        if self.teacher is not None:
            settings["fixed"] |= {"distillation_weight": self.teacher.weight, "teacher": self.teacher.checksum}
        return settings

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The model's own loss; its parts are kept for the log."""
        blend = Blend.draw(self.mixup, len(inputs["pixel_values"])) if self.mixup else None
        if blend is not None:
            inputs = blend.images(inputs)
        arguments = self.task.forward_arguments(inputs)
        loss, outputs = super().compute_loss(model, arguments, True, num_items_in_batch)
        parts = self.task.loss_parts(outputs)
        if blend is not None:
            loss, parts = blend.loss(self.accelerator.unwrap_model(model), self.task, outputs, inputs)
        if self.teacher is not None:
            taught = self.teacher.loss(outputs, self.task, inputs)
            loss = loss + self.teacher.weight * taught
            parts = torch.cat([parts, taught.detach().reshape(1)])
        values = torch.cat([loss.detach().reshape(1), parts.to(loss.dtype)])
        self.finite_losses.add(LossOfCases(self.state.global_step, values, inputs["case_index"]))
        if self.finite_losses.is_due:
            self._check_losses()
        self.sums.add_parts(parts)
        return (loss, outputs) if return_outputs else loss

    def _check_losses(self) -> None:
        """Raises `NonFiniteLossError` before anything is logged, measured or saved of a model that has diverged."""
        wrong = self.finite_losses.first_wrong()
        if wrong is not None:
            values = zip(self.loss_parts, wrong.values[1:].tolist(), strict=True)
            what = f"The loss ({', '.join(f'{name} {value}' for name, value in values)})"
            self._stop(what, wrong.case_index, wrong.step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The line of a run that is going well."""
        self._check_losses()
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Model and image processor, see `ResumableTrainer`."""
        self._check_losses()
        super().save_model(output_dir, _internal_call)

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        """Of the given rows. The Trainer keeps persistent workers, and gives those of the validation split for any."""
        if eval_dataset is None or eval_dataset is self.eval_dataset:
            return super().get_eval_dataloader()
        return self.get_test_dataloader(eval_dataset)

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate one and the same model on every process: the main one's, which is what a checkpoint holds.

        Under DDP each process counts its own batches into its running batch-norm statistics until the next forward
        pass in training, which shares the main process's.
        """
        self._check_losses()
        with self.averaged_weights():
            for buffer in self.model.buffers():
                buffer.copy_(broadcast(buffer))
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, dict[str, torch.Tensor], torch.Tensor]:
        """Row statistics in the place of logits, row indices in the place of labels.

        No loss is returned: the Trainer would average it over batches, `EvaluationMetrics` computes it exactly.
        """
        plain = self.accelerator.unwrap_model(model)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(pixel_values=inputs["pixel_values"].to(plain.dtype))
        statistics = row_statistics(outputs, inputs, self.task, self.processing_class, plain.config)
        numbers = [
            values.flatten(1) if values.ndim > 1 else values[:, None]
            for values in statistics.values()
            if values.is_floating_point()
        ]
        finite = torch.cat(numbers, dim=1).isfinite().all(dim=1)
        if not finite.all():
            self._stop("The model's output", inputs["case_index"][~finite], self.state.global_step)
        return None, statistics, inputs["row_index"]

    @torch.no_grad()
    def predict_mask(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray | None:
        """Class indices (H, W) of one image at a size (height, width); None from a model that only classifies.

        Every process must call this, since under FSDP each holds a part of the model.
        """
        if self.task.mask_logits is None:
            return None
        model = self.model_wrapped if self.is_fsdp_enabled else self.model
        model.eval()
        pixels = self.processing_class(images=[image], return_tensors="pt")["pixel_values"]
        with self.compute_loss_context_manager():
            logits = model(pixel_values=pixels.to(self.args.device))[self.task.mask_logits].float()
        (mask,) = self.processing_class.post_process_semantic_segmentation({"logits": logits}, target_sizes=[size])
        return mask.cpu().numpy()

    def _stop(self, what: str, case_index: torch.Tensor, step: int) -> NoReturn:
        cases = dict.fromkeys(self.data_collator.case_ids[index] for index in case_index.tolist())
        raise NonFiniteLossError(
            f"{what} is not finite after {step} steps, for the cases {', '.join(cases)}. If other "
            "cases follow when these are left out, the weights have diverged: lower --learning_rate, clip by "
            "--max_grad_norm 1, or train without --fp16."
        )
