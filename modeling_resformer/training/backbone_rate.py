"""A pretrained backbone learns at a rate of its own, and not at all in the first epochs."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import BadInputError
from ..modeling_resformer import ResFormerPreTrainedModel


def scale_backbone_rate(optimizer: torch.optim.Optimizer, model: ResFormerPreTrainedModel, scale: float) -> None:
    """Gives the backbone's parameters groups of their own, in place: what they have now, with `scale` times the rate.

    The new groups stand behind the others, so that the rate that is logged, the first group's, stays the full one.

    Args:
        optimizer: of the model, before its schedule is made.
        model: the plain one.
        scale: 0 or more.

    Raises:
        BadInputError: the model has no backbone, or the optimiser does not hold its parameters one by one.
    """
    check_backbone(f"--backbone_lr_scale {scale:g}", model)
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    moved = []
    for group in optimizer.param_groups:
        inside = [parameter for parameter in group["params"] if id(parameter) in backbone]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in backbone]
        moved.append({**group, "params": inside, "lr": scale * group["lr"]})
    if not any(group["params"] for group in moved):
        raise BadInputError(
            f"--backbone_lr_scale {scale:g}: the optimiser holds none of the backbone's parameters as they are, as under "
            "FSDP 1; set it to 1."
        )
    for group in moved:
        if group["params"]:
            optimizer.add_param_group(group)


def check_backbone(flag: str, model: ResFormerPreTrainedModel) -> None:
    """Refuses a flag that means the backbone where a model has none.

    Raises:
        BadInputError: naming the flag.
    """
    if next(model.backbone_parameters(), None) is None:
        raise BadInputError(f"{flag}: the model has no backbone; give --backbone, or leave it out.")


class FrozenBackbone(TrainerCallback):
    """Leaves the backbone's weights as they are in the first epochs, by dropping their gradients before each step.

    They keep `requires_grad`, since DDP, which waits for every gradient that it was made for, knows of no such epochs; so
    this saves no time. Running batch-norm statistics follow the images.

    Args:
        epochs: how many from the start of the run, parts of one included.
    """

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any
    ) -> None:
        model = of["model"]
        if state.epoch < self.epochs:
            for parameter in getattr(model, "module", model).backbone_parameters():
                parameter.grad = None
