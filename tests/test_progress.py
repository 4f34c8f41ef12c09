"""What a training prints: one line an evaluation, with the numbers of the log, and nothing else in between."""

import json
import logging
import re
import time
import warnings

import pytest
from prepared_data import prepared_dataset
from small_model import ARCHITECTURE
from small_trainer import make_trainer

from modeling_resformer.commands import train


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    prepared_dataset(train=8, validation=3, test=3).save_to_disk(str(folder / "dataset"))
    flags = ["--dataset", str(folder / "dataset"), "--config", json.dumps(ARCHITECTURE), "--image_size", "32"]
    flags += ["--per_device_train_batch_size", "4", "--num_train_epochs", "2", "--bootstrap_samples", "0"]
    return [*flags, "--use_cpu", "--cpu_threads", "1"]


def lines_and_log(flags, output, caplog, capfd):
    """Log lines between the start and the results, and the Trainer's own record; nothing may be on stdout or stderr."""
    with caplog.at_level(logging.INFO):
        assert train.main([*flags, "--output_dir", str(output)]) == 0
    written = capfd.readouterr()
    for noise in ("{'", "it/s", "Writing model shards", "pin_memory", "worker"):
        assert noise not in written.out + written.err
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [record.message for record in caplog.records if record.name.endswith("progress")], log


def test_an_epoch_is_one_line_with_the_losses_and_the_score_that_selects(flags, tmp_path, caplog, capfd):
    flags = [*flags, "--logging_strategy", "epoch", "--metric_for_best_model", "sensitivity"]
    lines, log = lines_and_log(flags, tmp_path, caplog, capfd)
    losses = [line["loss"] for line in log if "loss" in line]
    evaluations = [line for line in log if "eval_loss" in line]
    assert len(lines) == 2
    for number, (line, loss, scores) in enumerate(zip(lines, losses, evaluations, strict=True), start=1):
        assert line.startswith(f"epoch {number}/2  loss {loss:.3f}  validation loss {scores['eval_loss']:.3f}  dice ")
        for name in ("dice", "jaccard", "sensitivity"):
            assert f"  {name} {scores[f'eval_{name}']:.3f}" in line


def test_by_steps_an_evaluation_is_one_line_too(flags, tmp_path, caplog, capfd):
    flags = [*flags, "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "no"]
    flags += ["--load_best_model_at_end", "false", "--logging_steps", "1"]
    lines, _ = lines_and_log(flags, tmp_path, caplog, capfd)
    assert [re.match(r"step (\d)/4  loss \d\.\d+  validation loss ", line)[1] for line in lines] == ["2", "4"]


def test_without_evaluations_the_training_loss_is_what_is_told(flags, tmp_path, caplog, capfd):
    flags = [*flags, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    lines, _ = lines_and_log([*flags, "--logging_strategy", "epoch"], tmp_path, caplog, capfd)
    assert [re.fullmatch(r"epoch (\d)/2  loss [\d.]+", line)[1] for line in lines] == ["1", "2"]


def test_a_training_tells_how_long_it_waited_for_data(tmp_path, caplog):
    trainer = make_trainer(prepared_dataset(), tmp_path, max_steps=2)
    read = trainer.train_dataset.__class__.__getitem__
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(
            trainer.train_dataset.__class__,
            "__getitem__",
            lambda *args: time.sleep(0.05) or read(*args),
            raising=False,
        )
        trainer.train()
    # Eight rows by turns.
    assert 0.4 <= trainer.data_wait.waited < 0.4 + trainer.data_wait.worked + 5
    (line,) = [record.message for record in caplog.records if record.name.endswith("data_wait")]
    assert re.fullmatch(r"The steps waited for data \d+ % of their time(; more --dataloader_num_workers .*)?\.", line)


def test_torch_has_nothing_to_warn_of_in_data_loading(tmp_path):
    trainer = make_trainer(prepared_dataset(), tmp_path, dataloader_num_workers=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(iter(trainer.get_eval_dataloader()))
    assert 0 < trainer.args.dataloader_num_workers < 4096
