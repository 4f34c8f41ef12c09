"""Averaged weights: the formula, and that they are what is evaluated, selected and saved."""

import copy

import numpy as np
import pytest
import torch
from prepared_data import prepared_dataset
from safetensors.torch import load_file
from small_trainer import make_trainer
from torch import nn

from modeling_resformer.training.ema import WeightAverage


def small_model():
    """Weights, running statistics, a counter, and an index that rounding would spoil."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.register_buffer("index", torch.arange(1000))
    return model


def numbers(model):
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def test_the_average_is_the_formula_written_out():
    model, generator = small_model(), torch.Generator().manual_seed(0)
    average, decay, expected = WeightAverage(model, 0.6), 0.6, None
    for step in range(20):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
                tensor.add_(torch.randn(tensor.shape, generator=generator))
        model[1].num_batches_tracked += 1
        average.update(model)
        # A first average of one; then the decay grows from 2/11 to its limit.
        d = 0 if step == 0 else min(decay, (1 + step) / (10 + step))
        now = {name: value.astype(float) for name, value in numbers(model).items()}
        expected = now if step == 0 else {name: d * expected[name] + (1 - d) * now[name] for name in now}
    raw = numbers(model)
    with average.in_place_of(model):
        averaged = numbers(model)
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        np.testing.assert_allclose(averaged[name], expected[name], rtol=1e-5, atol=1e-6)
        assert np.abs(averaged[name] - raw[name]).max() > 0.1
    for name in ("1.num_batches_tracked", "index"):
        np.testing.assert_array_equal(averaged[name], raw[name])
    for name, value in numbers(model).items():
        np.testing.assert_array_equal(value, raw[name])
    assert average.updates == 20


def test_raw_weights_come_back_after_an_error():
    model = small_model()
    average = WeightAverage(model, 0.9)
    average.update(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    raw = numbers(model)
    with pytest.raises(KeyboardInterrupt), average.in_place_of(model):
        raise KeyboardInterrupt
    for name, value in numbers(model).items():
        np.testing.assert_array_equal(value, raw[name])


@pytest.mark.parametrize("decay", [0, 1, 1.5])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="between 0 and 1"):
        WeightAverage(small_model(), decay)


def test_what_is_evaluated_and_saved_is_the_average_of_the_steps(tmp_path):
    """Three steps; an independent copy of the weights after each is averaged here."""
    dataset = prepared_dataset(train=6, validation=3, test=3)
    trainer = make_trainer(
        dataset,
        tmp_path,
        per_device_train_batch_size=2,
        num_train_epochs=1,
        eval_strategy="epoch",
        save_strategy="epoch",
        learning_rate=0.01,
    )
    trainer.average = WeightAverage(trainer.model, 0.999)
    seen, update = [], trainer.average.update

    def remembered(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        update(model)

    trainer.average.update = remembered
    trainer.train()
    # Decays of the second and third step: 2/11 and 3/12.
    expected = seen[0]
    for weights, d in zip(seen[1:], (2 / 11, 3 / 12), strict=True):
        expected = {name: d * expected[name] + (1 - d) * weights[name] for name in weights}
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    raw = torch.load(tmp_path / "checkpoint-3" / "raw_weights.pt", weights_only=True)
    for name, tensor in saved.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(raw["weights"][name], seen[-1][name], rtol=0, atol=0)
    evaluated = next(line for line in trainer.state.log_history if "eval_loss" in line)
    model = copy.deepcopy(trainer.model)
    model.load_state_dict(saved)
    alone = make_trainer(dataset, tmp_path / "alone")
    alone.model.load_state_dict(model.state_dict())
    assert evaluated["eval_loss"] == pytest.approx(alone.evaluate()["eval_loss"], abs=1e-6)
    # After training the model is the average, and nothing else is averaged in.
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, saved[name], rtol=0, atol=0)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(evaluated["eval_loss"], abs=1e-6)
