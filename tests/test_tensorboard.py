"""--report_to tensorboard: both losses and the scores of both tasks, read back from the event file."""

import pytest
from prepared_data import prepared_dataset
from small_trainer import make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def test_losses_and_scores_of_both_tasks_are_in_the_event_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_trainer(
        prepared_dataset(train=4, validation=4, test=1),
        tmp_path,
        report_to="tensorboard",
        max_steps=2,
        logging_steps=1,
        eval_strategy="epoch",
    )
    trainer.train()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    losses = ("loss", "segmentation_loss", "classification_loss")
    assert {f"{part}/{name}" for part in ("train", "eval") for name in losses} <= tags
    assert {"eval/dice", "eval/jaccard", "eval/auc", "eval/accuracy"} <= tags
    logged = [line["segmentation_loss"] for line in trainer.state.log_history if "segmentation_loss" in line]
    assert [event.value for event in events.Scalars("train/segmentation_loss")] == pytest.approx(logged)
