"""Training and evaluation: what batch size, workers and processes must not change, and what a run must learn."""

import re

import numpy as np
import pytest
import sklearn.metrics
import torch
from prepared_data import prepared_dataset
from small_trainer import make_trainer, scores_of
from transformers import TrainerCallback

from modeling_resformer import modeling_resformer as network_code
from modeling_resformer.data.rows import EpochSampler, EvaluationRows, TrainingRows
from modeling_resformer.data.transforms import default_augmentation
from modeling_resformer.errors import NonFiniteLossError
from modeling_resformer.evaluation.row_statistics import RowStatistics
from modeling_resformer.training import finite_losses


def test_eval_loss_is_the_loss_of_one_batch_of_everything(dataset, tmp_path):
    """Whatever the batch size; with every loss term, and with rows that lack masks or labels."""
    settings = {"cross_entropy_weight": 0.5, "focal_weight": 0.3}
    results = []
    for batch_size in (1, 2, 3, 5):
        trainer = make_trainer(dataset, tmp_path, model_settings=settings, per_device_eval_batch_size=batch_size)
        results.append(scores_of(trainer.evaluate()))
    batch = trainer.data_collator([trainer.eval_dataset[i] for i in range(5)])
    with torch.no_grad():
        output = trainer.model.eval()(
            **{name: batch[name] for name in ("pixel_values", "mask_labels", "class_labels")}
        )
    for result in results:
        assert result == pytest.approx(results[0], abs=1e-6)
        assert result["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-5)
        assert result["eval_segmentation_loss"] == pytest.approx(output.segmentation_loss.item(), rel=1e-5)
        assert result["eval_classification_loss"] == pytest.approx(output.classification_loss.item(), rel=1e-5)


def test_scores_are_those_of_the_stored_masks(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, per_device_eval_batch_size=2)
    result = trainer.evaluate()
    expected = []
    for row in dataset["validation"]:
        if row["mask"] is None:
            continue
        pixels = trainer.processing_class(images=[row["image"]], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            logits = trainer.model.eval()(pixels).segmentation_logits
        true = np.asarray(row["mask"])
        logits = torch.nn.functional.interpolate(logits, size=true.shape, mode="bilinear")
        expected.append(sklearn.metrics.jaccard_score(true.ravel(), logits[0].argmax(0).numpy().ravel()))
    assert result["eval_jaccard"] == pytest.approx(np.mean(expected))
    cases = [trainer.data_collator.case_ids[case] for case in trainer.compute_metrics.rows.case_index]
    assert cases == dataset["validation"]["case_id"]


def test_rows_that_fill_up_a_last_batch_count_once():
    def batch(rows):
        rows = np.array(rows)
        return {
            "row_index": rows,
            "case_index": rows * 10,
            "mask_counts": np.ones((len(rows), 4, 2), int),
            "dice_statistics": np.ones((len(rows), 3, 2)),
            "pixel_losses": np.ones((len(rows), 3)),
            "classification_logits": np.ones((len(rows), 2)),
            "class_labels": np.ones((len(rows), 2)),
        }

    joined = RowStatistics.join([batch([2, 3]), batch([0, 1]), batch([4, 0])])
    assert joined.row_index.tolist() == [0, 1, 2, 3, 4]
    assert joined.case_index.tolist() == [0, 10, 20, 30, 40]
    assert joined.mask_counts[:, 0].sum(axis=0).tolist() == [5, 5]


def test_both_losses_are_logged_and_add_up(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, max_steps=4, logging_steps=2, gradient_accumulation_steps=2)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        weighted = line["segmentation_loss"] + 0.25 * line["classification_loss"]
        assert line["loss"] == pytest.approx(weighted, rel=1e-4)


@pytest.mark.long
def test_four_images_are_learned_by_heart(tmp_path):
    dataset = prepared_dataset(train=4, validation=2, test=2)
    dataset["validation"] = dataset["train"]
    trainer = make_trainer(dataset, tmp_path, num_train_epochs=60, learning_rate=5e-3)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] / 3
    assert after["eval_jaccard"] > 0.9
    assert after["eval_accuracy"] == 1


def test_every_epoch_is_a_new_order_of_all_rows():
    sampler, orders = EpochSampler(20, seed=3), []
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        epochs, rows = np.divmod(list(sampler), 20)
        assert set(epochs) == {epoch}
        assert sorted(rows) == list(range(20))
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]
    again = EpochSampler(20, seed=3)
    again.set_epoch(2)
    assert np.mod(list(again), 20).tolist() == orders[2]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_do_not_change_what_an_epoch_looks_like(dataset, tmp_path, persistent):
    """Worker processes outlive the epoch, or not: either way epoch 1 has its own order and its own augmentation."""
    batches = []
    for settings in ({}, {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent}):
        loader = make_trainer(dataset, tmp_path, default_augmentation("dermoscopy"), **settings).get_train_dataloader()
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            batches.append([batch["pixel_values"] for batch in loader])
    first, second, first_with_workers, second_with_workers = batches
    torch.testing.assert_close(first, first_with_workers, rtol=0, atol=0)
    torch.testing.assert_close(second, second_with_workers, rtol=0, atol=0)
    assert not torch.equal(first[0], second[0])


@pytest.mark.long
def test_persistent_workers_do_not_give_one_part_for_another(dataset, tmp_path):
    """Evaluated on the validation split first, then on the test split, as every run does."""
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    trainer = make_trainer(dataset, tmp_path, **workers)
    trainer.evaluate()
    on_test = trainer.evaluate(EvaluationRows(dataset["test"]), metric_key_prefix="test")
    alone = make_trainer(dataset, tmp_path).evaluate(EvaluationRows(dataset["test"]), metric_key_prefix="test")
    assert scores_of(on_test) == scores_of(alone)


@pytest.mark.long
def test_training_draws_a_new_augmentation_every_epoch(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, default_augmentation("dermoscopy"), num_train_epochs=3)
    drawn = []

    class Recorded(TrainingRows):
        def __getitem__(self, position):
            drawn.append(divmod(position, len(self)))
            return super().__getitem__(position)

    trainer.train_dataset.__class__ = Recorded
    trainer.train()
    assert sorted(drawn) == [(epoch, row) for epoch in range(3) for row in range(8)]


@pytest.mark.parametrize("wrong", [{"remove_unused_columns": True}, {"batch_eval_metrics": False}])
def test_arguments_that_would_lose_columns_or_fill_memory_are_refused(dataset, tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_trainer(dataset, tmp_path, **wrong)


def poisoned(collator, case_id):
    """The collator, which gives that case images full of NaN."""

    def collate(rows):
        batch = collator(rows)
        batch["pixel_values"][[row["case_id"] == case_id for row in rows]] = torch.nan
        return batch

    collate.case_ids = collator.case_ids
    return collate


def test_a_loss_that_is_no_number_stops_training_and_names_the_cases(dataset, tmp_path):
    """Two rows a batch, drawn in the sampler's order, so that the poisoned batch is known."""
    trainer = make_trainer(dataset, tmp_path, per_device_train_batch_size=2, num_train_epochs=1)
    trainer.data_collator = poisoned(trainer.data_collator, "case_1")
    cases = [dataset["train"]["case_id"][position] for position in EpochSampler(8, trainer.args.seed)]
    number, batch = next((i, cases[i : i + 2]) for i in range(0, 8, 2) if "case_1" in cases[i : i + 2])
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    named = set(re.findall(r"case_\d+", str(caught.value)))
    assert named == set(batch)
    assert f"not finite after {number // 2} steps" in str(caught.value)
    assert "segmentation_loss nan" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """What is looked at on a CPU alone, where that costs nothing, is not looked at."""
    monkeypatch.setattr(finite_losses, "is_at_hand", lambda values: False)
    monkeypatch.setattr(network_code, "check_values", lambda *_: None)


class Reads(TrainerCallback):
    """Counts, within steps, calls that give Python a tensor's values: an accelerator has to be waited for then."""

    def __init__(self) -> None:
        self.names = []
        self.patched = pytest.MonkeyPatch()

    def on_step_begin(self, *_, **__):
        for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__"):
            plain = getattr(torch.Tensor, name)

            def counted(*given, name=name, plain=plain, **options):
                self.names.append(name)
                return plain(*given, **options)

            self.patched.setattr(torch.Tensor, name, counted)

    def on_step_end(self, *_, **__):
        self.patched.undo()


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_a_training_step_waits_for_no_value(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, max_steps=3, logging_steps=10, max_grad_norm=1.0)
    reads = Reads()
    trainer.add_callback(reads)
    trainer.train()
    assert reads.names == []
    assert all(group["fused"] for group in trainer.optimizer.optimizer.param_groups)
    reads.on_step_begin()
    assert torch.ones(1) > 0  # is counted, which shows that anything is
    reads.on_step_end()
    assert reads.names == ["__bool__"]


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize("settings", [{"logging_steps": 3}, {"save_strategy": "steps", "save_steps": 4}], ids=str)
def test_losses_not_waited_for_are_looked_at_before_a_log_and_a_checkpoint(dataset, tmp_path, settings):
    trainer = make_trainer(dataset, tmp_path, max_steps=8, per_device_train_batch_size=4, **settings)
    trainer.data_collator = poisoned(trainer.data_collator, "case_1")
    with pytest.raises(NonFiniteLossError, match=r"not finite after [01] steps.*case_1"):
        trainer.train()
    assert trainer.state.global_step == next(iter(reversed(settings.values())))
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not [line for line in trainer.state.log_history if "loss" in line]


def test_an_output_that_is_no_number_stops_evaluation_and_names_that_case_alone(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, per_device_eval_batch_size=5)
    case_id = dataset["validation"]["case_id"][2]
    trainer.data_collator = poisoned(trainer.data_collator, case_id)
    with pytest.raises(NonFiniteLossError, match=rf"for the cases {case_id}\."):
        trainer.evaluate()
