"""--report_to trackio: both losses and the scores of both tasks, read back from its file on this machine."""

import pytest
from prepared_data import prepared_dataset
from small_trainer import make_trainer


@pytest.mark.slow  # needs the extra trackio, which brings another event loop for uvicorn than the tests have
def test_losses_and_scores_of_both_tasks_are_in_trackios_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read at its import
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    trainer = make_trainer(
        prepared_dataset(train=4, validation=4, test=1),
        tmp_path,
        report_to="trackio",
        project="eyes",
        run_name="first",
        max_steps=2,
        logging_steps=1,
        eval_strategy="epoch",
    )
    trainer.train()
    logs = SQLiteStorage.get_logs("eyes", "first")
    names = {name for line in logs for name in line}
    losses = ("loss", "segmentation_loss", "classification_loss")
    assert {f"{part}/{name}" for part in ("train", "eval") for name in losses} <= names
    assert {"eval/dice", "eval/jaccard", "eval/auc", "eval/accuracy"} <= names
    logged = [line["segmentation_loss"] for line in trainer.state.log_history if "segmentation_loss" in line]
    assert [line["train/segmentation_loss"] for line in logs if "train/segmentation_loss" in line] == pytest.approx(
        logged
    )
