"""Gradient accumulation divides once: the step of several micro-batches is that of the mean of their losses."""

import pytest
import torch
from prepared_data import prepared_dataset
from small_trainer import make_trainer
from transformers import TrainerCallback

from modeling_resformer import ResFormerForImageClassification, ResFormerForMultiTask
from modeling_resformer.data.rows import EpochSampler
from modeling_resformer.heads import task_named


@pytest.fixture(scope="module")
def dataset():
    """Eight training rows, each with a mask and with every label known."""
    dataset = prepared_dataset(train=30)
    full = [i for i, row in enumerate(dataset["train"]) if row["mask"] and row["class_labels"]]
    known = [i for i in full if not dataset["train"][i]["class_labels_unknown"]]
    dataset["train"] = dataset["train"].select(known[:8])
    return dataset


class Gradients(TrainerCallback):
    """Keeps the gradients of the first optimiser step, before anything is clipped."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def freeze_batch_norms(model):
    """Running statistics whatever the Trainer asks for, so that rows do not see their micro-batch."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module


def one_step(dataset, folder, model_class, batch_size, accumulation, **model_settings):
    """Gradients and log of one optimiser step over the eight rows, and the trainer."""
    settings = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(
        dataset,
        folder,
        model_settings=model_settings,
        model_class=model_class,
        max_steps=1,
        logging_steps=1,
        max_grad_norm=0,
        **settings,
    )
    freeze_batch_norms(trainer.model)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    trainer.model.load_state_dict(before)
    return gradients.found, trainer.state.log_history[0], trainer


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("kind", ["multi_label", "exclusive"])
def test_four_micro_batches_of_two_are_one_batch_of_eight_for_the_cross_entropy(dataset, tmp_path, kind):
    """Weighted by class, too."""
    settings = {"classification_type": kind, "label_smoothing": 0.1}
    whole, whole_log, _ = one_step(dataset, tmp_path, ResFormerForImageClassification, 8, 1, **settings)
    parts, parts_log, _ = one_step(dataset, tmp_path, ResFormerForImageClassification, 2, 4, **settings)
    assert max(gradient.abs().max().item() for gradient in whole.values()) > 1e-2
    assert largest_difference(whole, parts) < 1e-6
    assert parts_log["loss"] == pytest.approx(whole_log["loss"], abs=1e-4)
    assert parts_log["classification_loss"] == pytest.approx(whole_log["classification_loss"], abs=1e-6)


def test_the_step_of_both_tasks_is_that_of_the_mean_of_the_micro_batches_losses(dataset, tmp_path):
    """Which for the pooled Dice coefficient is not the loss of the whole batch."""
    found, log, trainer = one_step(dataset, tmp_path, ResFormerForMultiTask, 2, 4)
    rows = [trainer.train_dataset[position] for position in EpochSampler(8, trainer.args.seed)]
    task, losses = task_named("ResFormerForMultiTask"), []
    trainer.model.train()
    for start in range(0, 8, 2):
        batch = trainer.data_collator(rows[start : start + 2])
        losses.append(trainer.model(**task.forward_arguments(batch)).loss)
    loss = torch.stack(losses).mean()
    parameters = dict(trainer.model.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    assert largest_difference(found, expected) < 1e-6
    assert log["loss"] == pytest.approx(loss.item(), abs=1e-4)
