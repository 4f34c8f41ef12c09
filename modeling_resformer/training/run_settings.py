"""What a resumed run must have in common with its checkpoint, and what it is told about."""

from typing import Any
from zlib import crc32

import torch
from transformers import Trainer

from ..configuration_resformer import UNFITTED


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


def settings_of(trainer: Trainer, ema_decay: float | None) -> dict[str, dict[str, Any]]:
    """Those that are fixed and those that are noted, for `checkpoints.py`.

    Args:
        trainer: whose `train_dataset` is a `TrainingRows`.
        ema_decay: of its averaged weights, if there are any.
    """
    args, rows = trainer.args, trainer.train_dataset
    model = trainer.accelerator.unwrap_model(trainer.model)
    # Architecture, labels and losses; what else stands in a config is filled in when it is saved, or later.
    own = {"id2label", *type(model.config).__annotations__} - {*UNFITTED, "resformer_version"}
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
        "image size": str(getattr(trainer.processing_class, "size", None)),
        "ema_decay": ema_decay,
        "CPU threads": torch.get_num_threads() if args.device.type == "cpu" else None,
        "torch": str(torch.__version__),
        **{name: getattr(args, name) for name in NOTED_ARGUMENTS},
    }
    return {"fixed": fixed, "noted": noted}
