"""Volumes of which only some slices are annotated: null and 255 where nobody looked, out of loss and scores."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from raw_data import random_volume, write_csv, write_mask, write_metaimage, write_photograph
from small_model import tiny_config
from transformers import EvalPrediction


pytest.importorskip("SimpleITK")

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands import prepare_folder, prepare_retouch
from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.data.rows import EvaluationRows
from modeling_resformer.evaluation.answers import row_scores
from modeling_resformer.evaluation.evaluation_metrics import EvaluationMetrics
from modeling_resformer.evaluation.row_statistics import row_statistics
from modeling_resformer.heads import TASKS
from modeling_resformer.metrics.counts import Counts
from modeling_resformer.metrics.scores import segmentation_scores
from modeling_resformer.training.building import build_collator


FLUIDS = ["IRF", "SRF", "PED"]
SPACING = (0.25, 0.5, 2.0)  # x, y, z in mm: a voxel of 0.25 mm3


def reference():
    """Slices: 0 all fluids, 1 healthy, 2 SRF in a half that alone was annotated, 3 and 4 not annotated."""
    codes = np.zeros((5, 32, 24), dtype=np.uint8)
    codes[0, :8], codes[0, 8:16], codes[0, 16:20] = 1, 2, 3
    codes[2, :16, :6], codes[2, 16:] = 2, 255
    codes[3:] = 255
    return codes


def prepare(tmp_path, codes, *flags, script=prepare_retouch):
    folder = tmp_path / "raw" / "Cirrus" / "TRAIN001"
    write_metaimage(folder / "oct.mhd", random_volume(codes.shape), SPACING)
    write_metaimage(folder / "reference.mhd", codes, SPACING)
    arguments = ["--source", tmp_path / "raw", "--output", tmp_path / "out", *flags]
    return script.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("code", [255, 9])
def test_pixels_of_the_code_are_not_annotated(tmp_path, code):
    codes = np.where(reference() == 255, code, reference()).astype(np.uint8)
    assert prepare(tmp_path, codes, "--unannotated-code", code) == 0
    rows = load_prepared(tmp_path / "out").dataset["train"]
    assert len(rows) == 5  # all are there to predict on
    assert [row["mask"] is None for row in rows] == [False, False, False, True, True]
    assert rows["class_labels"] == [[0, 1, 2], [], [1], None, None]
    assert rows["class_labels_unknown"] == [[], [], [0, 2], [], []]
    assert rows["mask_classes"] == [[1, 2, 3], [], [2], None, None]
    np.testing.assert_array_equal(np.asarray(rows[2]["mask"]), reference()[2])


def test_without_the_flag_the_code_is_refused_and_the_flag_named(tmp_path, capsys):
    assert prepare(tmp_path, reference()) == 1
    error = capsys.readouterr().err
    assert "label codes 255, expected 0 none" in error and "--unannotated-code" in error


def test_the_code_of_a_class_is_refused(tmp_path, capsys):
    assert prepare(tmp_path, reference(), "--unannotated-code", 2) == 1
    assert "--unannotated-code 2: this value means SRF" in capsys.readouterr().err


def test_only_listed_slices_count_as_annotated(tmp_path):
    codes = np.zeros((5, 32, 24), dtype=np.uint8)
    codes[:, :8] = 1
    write_csv(tmp_path / "list.csv", [["case_id", "slice_index"], ["train001", 1], ["TRAIN001", 4]])
    assert prepare(tmp_path, codes, "--annotated-slices", tmp_path / "list.csv") == 0
    rows = load_prepared(tmp_path / "out").dataset["train"]
    assert rows["class_labels"] == [None, [0], None, None, [0]]
    assert [row["mask"] is None for row in rows] == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["TRAIN001", 5], "names slice 5 of TRAIN001, which the source does not hold"),
        (["TRAIN002", 0], "names case TRAIN002, which the source does not hold"),
        (["TRAIN001", "1.0"], "slice_index of TRAIN001 is '1.0', expected 0, 1, 2"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, capsys, line, message):
    write_csv(tmp_path / "list.csv", [["case_id", "slice_index"], ["TRAIN001", 0], line])
    assert prepare(tmp_path, reference(), "--annotated-slices", tmp_path / "list.csv", "--unannotated-code", 255) == 1
    assert f"list.csv: {message}" in capsys.readouterr().err


def test_the_report_counts_and_warns_where_it_can_know(tmp_path, capsys):
    assert prepare(tmp_path, reference(), "--unannotated-code", 255) == 0
    assert "Masks: train 3 rows annotated (1 in part), 2 not" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["volumes"]["TRAIN001"]["annotated_slices"] == 3
    assert any("only some slices are annotated: 1, e.g. TRAIN001 with 3 of 5" in line for line in report["warnings"])
    # Two slices and half of a third were annotated; shares are of those pixels.
    annotated = 2 * 32 * 24 + 16 * 24
    shares = report["splits"]["train"]["share_of_pixels"]
    assert shares["IRF"] == pytest.approx(8 * 24 / annotated)
    assert shares["SRF"] == pytest.approx((8 * 24 + 16 * 6) / annotated)
    assert sum(shares.values()) == pytest.approx(1)


def test_a_reference_without_the_code_says_nothing_of_what_was_left_out(tmp_path):
    assert prepare(tmp_path, np.zeros((5, 32, 24), dtype=np.uint8)) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not any("only some slices" in line for line in report["warnings"])
    assert report["splits"]["train"]["annotated"] == 5


@pytest.fixture
def slices(tmp_path):
    """A folder whose rows are the slices of two volumes; slice 1 of "b" was not annotated, slice 0 of "b" in part."""
    for i, name in enumerate(("a0", "a1", "b0", "b1")):
        write_photograph(tmp_path / "raw" / "images" / f"{name}.png", seed=i)
    mask = np.asarray(write_mask(tmp_path / "raw" / "masks" / "a0.png", values=(0, 1)))
    write_mask(tmp_path / "raw" / "masks" / "a1.png", values=(0, 1))
    write_mask(tmp_path / "raw" / "masks" / "b0.png", values=(255, 1))
    write_mask(tmp_path / "raw" / "masks" / "b1.png", values=(255, 255))
    table = [["file_name", "case_id", "slice_index", "class_labels"]]
    table += [[name, name[0], name[1], "ill"] for name in ("a0", "a1", "b0", "b1")]
    write_csv(tmp_path / "raw" / "labels.csv", table)
    return mask


def prepare_slices(tmp_path, *flags):
    arguments = ["--source", tmp_path / "raw", "--output", tmp_path / "out", "--mask-values", "0=background,1=lesion"]
    return prepare_folder.main([str(argument) for argument in [*arguments, *flags]])


def test_a_folder_takes_the_same_value(tmp_path, slices):
    assert prepare_slices(tmp_path, "--unannotated-code", 255) == 0
    rows = load_prepared(tmp_path / "out").dataset["train"]
    assert rows["mask_classes"] == [[1], [1], [1], None]
    np.testing.assert_array_equal(np.asarray(rows[2]["mask"]), np.where(slices == 1, 1, 255))
    assert rows["class_labels"] == [[0]] * 4  # the table's own, which no mask contradicts


def test_a_folder_takes_the_same_list(tmp_path, slices):
    write_csv(tmp_path / "raw" / "annotated.csv", [["case_id", "slice_index"], ["a", 1], ["b", 0]])
    flags = ["--unannotated-code", 255, "--annotated-slices", tmp_path / "raw" / "annotated.csv"]
    assert prepare_slices(tmp_path, *flags) == 0
    rows = load_prepared(tmp_path / "out").dataset["train"]
    assert rows["class_labels"] == [None, [0], [0], None]
    assert rows["mask_classes"] == [None, [1], [1], None]


def test_resized_masks_keep_what_was_not_annotated(tmp_path):
    assert prepare(tmp_path, reference(), "--unannotated-code", 255, "--image-size", 16, 12) == 0
    rows = load_prepared(tmp_path / "out").dataset["train"]
    assert rows["class_labels"] == [[0, 1, 2], [], [1], None, None]
    np.testing.assert_array_equal(np.asarray(rows[2]["mask"]), reference()[2, ::2, ::2])


def evaluated(model, rows, collate, processor):
    """Loss and metrics of all rows as one batch, by the trainer's own code."""
    batch = collate([EvaluationRows(rows)[i] for i in range(len(rows))])
    inputs = {name: batch[name] for name in ("pixel_values", "mask_labels", "class_labels")}
    with torch.no_grad():
        output = model(**inputs)
    statistics = row_statistics(output, batch, TASKS["multi_task"], processor, model.config)
    metrics = EvaluationMetrics(model.config)
    losses = metrics(EvalPrediction(predictions=statistics, label_ids=None), compute_result=True)
    return batch, output, metrics, losses


def test_from_file_to_scores_only_what_was_annotated_counts(tmp_path):
    assert prepare(tmp_path, reference(), "--unannotated-code", 255) == 0
    prepared = load_prepared(tmp_path / "out")
    rows = prepared.dataset["train"]
    config = tiny_config(classification_labels=FLUIDS, cross_entropy_weight=1.0)
    model, processor = ResFormerForMultiTask(config).eval(), ResFormerImageProcessor(size={"height": 32, "width": 24})
    batch, output, metrics, losses = evaluated(model, rows, build_collator(prepared, processor, config), processor)
    truth, predicted = reference(), output.segmentation_logits.argmax(1).numpy()
    np.testing.assert_array_equal(batch["mask_labels"].numpy(), truth)
    known = torch.tensor([[1.0, 1, 1], [0, 0, 0], [-100, 1, -100], [-100] * 3, [-100] * 3])
    torch.testing.assert_close(batch["class_labels"], known)

    # The losses, from torch alone, over annotated pixels and known entries.
    chosen = torch.from_numpy(truth != 255)
    probabilities = output.segmentation_logits.softmax(1).movedim(1, -1)[chosen]
    one_hot = torch.eye(4)[torch.from_numpy(truth).long()[chosen]]
    entropy = -(probabilities.log() * one_hot).sum() / chosen.sum()
    start = 0 if config.dice_include_background else 1
    shared, total = (probabilities * one_hot).sum(0)[start:], (probabilities + one_hot).sum(0)[start:]
    smooth = config.dice_smooth
    soft_dice = 1 - ((2 * shared + smooth) / (total + smooth)).mean()
    assert output.segmentation_loss.item() == pytest.approx((soft_dice + entropy).item(), rel=1e-4)
    assert losses["segmentation_loss"] == pytest.approx((soft_dice + entropy).item(), rel=1e-4)
    entries = known >= 0
    binary = torch.nn.functional.binary_cross_entropy_with_logits(
        output.classification_logits[entries], known[entries]
    )
    assert output.classification_loss.item() == pytest.approx(binary.item(), rel=1e-5)

    # The scores of the volume, from NumPy alone, over annotated pixels.
    answers = metrics.answers
    scores = row_scores(dataclasses.replace(answers.rows, pixel_volumes=np.full(5, 0.25)), answers.classes)
    for code, name in enumerate(FLUIDS, start=1):
        true, found = (truth == code)[truth != 255], (predicted == code)[truth != 255]
        dice = 2 * (true & found).sum() / (true.sum() + found.sum())
        assert scores[f"dice_volume_{name}"].value == pytest.approx(dice)
        difference = abs(int(found.sum()) - int(true.sum())) * 0.25
        assert scores[f"volume_difference_{name}"].value == pytest.approx(difference)
        assert scores[f"volume_difference_{name}"].n == 1
        assert scores[f"dice_{name}"].n == 3


def test_a_volume_without_any_annotation_has_no_volume_difference():
    counts = [np.array([[2, 2], [0, 0], [0, 0]]), np.array([[0, 3], [0, 0], [0, 0]])]
    tp, fp = counts
    scores = segmentation_scores(
        Counts(tp, fp, np.zeros_like(tp), np.zeros_like(tp)),
        np.array([0, 0, 1]),
        ["background", "fluid"],
        pixel_volume=np.array([0.5, np.nan, 0.5]),
    )
    # Case 0: three pixels too many in its annotated slice; the spacing of the other does not matter.
    assert scores["volume_difference_fluid"].value == pytest.approx(1.5)
    assert scores["volume_difference_fluid"].n == 1
