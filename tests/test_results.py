"""results.json and the lines per case: groups, volumes, decisions and reliability worked out by hand; raw masks."""

import csv
import dataclasses
import io
import json

import numpy as np
import pandas
import pytest
import sklearn.metrics
import torch
from datasets import Dataset, DatasetDict, Value
from PIL import Image
from prepared_data import CLASS_LABELS, image_row
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.commands import evaluate
from modeling_resformer.data.columns import dataset_features
from modeling_resformer.data.rows import EvaluationRows
from modeling_resformer.errors import BadInputError
from modeling_resformer.evaluation.answers import ScoredRows
from modeling_resformer.evaluation.evaluation import Evaluation, Scoring
from modeling_resformer.evaluation.evaluation_metrics import EvaluationMetrics, answers_of
from modeling_resformer.evaluation.per_case import write_per_case
from modeling_resformer.evaluation.raw_masks import RawMaskRows, mask_values_of
from modeling_resformer.evaluation.report_page import headline
from modeling_resformer.evaluation.results import format_table, results_of
from modeling_resformer.evaluation.row_images import read_images
from modeling_resformer.evaluation.row_statistics import RowStatistics
from modeling_resformer.metrics.counts import Counts
from modeling_resformer.metrics.scores import Bootstrap, figure


CLASSES = ["background", "fluid", "detachment"]


@pytest.fixture
def oct_rows():
    """Six B-scans of 10 x 10 pixels, two volumes of Cirrus, one of Topcon and one of nobody knows whom."""
    features = dataset_features(
        CLASSES, CLASSES[1:], {"vendor": Value("string"), "slice_spacing": Value("float64"), "age": Value("int32")}
    )
    image = Image.new("L", (10, 10))
    table = [  # case, slice, vendor, in-plane spacing, slice spacing
        ("a", 0, "Cirrus", [0.1, 0.2], 0.5),
        ("a", 1, "Cirrus", [0.1, 0.2], 0.5),
        ("b", 0, "Cirrus", [0.1, 0.2], 0.5),
        ("c", 0, "Topcon", [0.2, 0.2], 0.5),
        ("c", 1, "Topcon", [0.2, 0.2], 0.5),
        ("d", 0, None, None, None),
    ]
    rows = [
        {
            "image": image,
            "mask": image,
            "class_labels": [],
            "class_labels_unknown": [],
            "case_id": case,
            "slice_index": number,
            "source": "test",
            "spacing": spacing,
            "original_size": [10, 10],
            "mask_classes": [],
            "vendor": vendor,
            "slice_spacing": slice_spacing,
            "age": None,
        }
        for case, number, vendor, spacing, slice_spacing in table
    ]
    return Dataset.from_list(rows, features=features)


@pytest.fixture
def metrics():
    """What an evaluation of these rows would have seen: fluid in the volumes a, c and d, detachment nowhere."""
    tp, fp, fn = [4, 1, 0, 3, 0, 5], [1, 1, 4, 0, 0, 0], [0, 1, 0, 3, 0, 5]
    counts = np.zeros((6, 4, 3), dtype=np.int64)
    counts[:, :3, 1] = np.transpose([tp, fp, fn])
    counts[:, 0, 0] = 100 - counts[:, :3, 1].sum(axis=1)
    counts[:, 1, 0], counts[:, 2, 0] = counts[:, 2, 1], counts[:, 1, 1]
    counts[:, 3] = 100 - counts[:, :3].sum(axis=1)
    config = tiny_config(id2label=dict(enumerate(CLASSES)), classification_labels=CLASSES[1:])
    config.classification_thresholds = [0.25, 0.5]
    metrics = EvaluationMetrics(config)
    probabilities = torch.tensor([[0.9, 0.15], [0.3, 0.15], [0.2, 0.15], [0.6, 0.15], [0.1, 0.15], [0.8, 0.15]])
    metrics.rows = RowStatistics(
        row_index=np.arange(6),
        case_index=np.array([0, 0, 1, 2, 2, 3]),
        mask_counts=counts,
        dice_statistics=np.ones((6, 3, 3), np.float32),
        pixel_losses=np.ones((6, 3), np.float32),
        classification_logits=torch.logit(probabilities).numpy(),
        class_labels=np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0], [-100, 0]], np.float32),
    )
    return metrics


def evaluated(metrics, rows, group_by=None, per_case_format="csv"):
    """What an evaluation makes of the rows that the metrics have seen, by a model that finds nothing again."""
    answers, table = answers_of(metrics.rows, metrics.config), EvaluationRows(rows)
    images = read_images(table, answers.rows, lambda image, size: np.zeros(size, dtype=np.int64))
    return Evaluation.of("test", answers, table, images, Scoring(Bootstrap(0), group_by, per_case_format))


def repeated(rows, times, case_index):
    """The same rows one after the other, as so many cases."""
    kept = {name: np.concatenate([array] * times) for name, array in vars(rows).items() if array is not None}
    return RowStatistics(**{**kept, "case_index": case_index})


@pytest.fixture
def results(metrics, oct_rows):
    return results_of(evaluated(metrics, oct_rows))


def test_scores_of_each_vendor_worked_out_by_hand(results):
    assert results["group_by"] == "vendor"
    assert {name: (group["images"], group["cases"]) for name, group in results["groups"].items()} == {
        "Cirrus": (3, 2),
        "Topcon": (2, 1),
        "unknown": (1, 1),
    }
    model = {name: group["model"] for name, group in results["groups"].items()}
    # Volume a: 5 shared, 2 too many, 1 missed; volume b: 4 too many, no truth.
    assert model["Cirrus"]["dice_volume_fluid"]["value"] == pytest.approx((10 / 13 + 0) / 2)
    # 0.01 mm3 a pixel: volume a is 1 pixel too large, b 4.
    assert model["Cirrus"]["volume_difference_fluid"] == {
        "value": pytest.approx((0.01 + 0.04) / 2),
        "low": None,
        "high": None,
        "n": 2,
    }
    # Volume c: 3 of 6 found, at 0.02 mm3 a pixel.
    assert model["Topcon"]["dice_volume_fluid"]["value"] == pytest.approx(6 / 9)
    assert model["Topcon"]["volume_difference_fluid"]["value"] == pytest.approx(0.06)
    assert model["Topcon"]["dice_present_fluid"] == {"value": pytest.approx(6 / 9), "low": None, "high": None, "n": 1}
    assert model["unknown"]["volume_difference_fluid"] == {"value": None, "low": None, "high": None, "n": 0}
    assert model["unknown"]["dice_volume_fluid"]["value"] == pytest.approx(10 / 15)
    # All four volumes; that of unknown spacing has no size in mm3.
    assert results["model"]["volume_difference_fluid"]["n"] == 3
    assert results["model"]["volume_difference_fluid"]["value"] == pytest.approx((0.01 + 0.04 + 0.06) / 3)


def test_decisions_and_reliability_worked_out_by_hand(results):
    assert results["thresholds"] == {"fluid": 0.25, "detachment": 0.5}
    # Of fluid .9, .3, .6 are there and found; .2, .1 are neither; the last label is unknown.
    assert results["decisions"]["fluid"] == {"tp": 3, "fp": 0, "fn": 0, "tn": 2}
    assert results["decisions"]["detachment"] == {"tp": 0, "fp": 0, "fn": 0, "tn": 6}
    bins = results["reliability"]["detachment"]
    assert [entry["n"] for entry in bins] == [0, 6, 0, 0, 0, 0, 0, 0, 0, 0]
    assert bins[0] == {"low": 0, "high": 0.1, "n": 0, "mean_probability": None, "share_present": None}
    assert bins[1]["mean_probability"] == pytest.approx(0.15)
    assert bins[1]["share_present"] == 0
    assert sum(entry["n"] for entry in results["reliability"]["fluid"]) == 5


def test_a_class_that_never_occurs_is_named_and_its_scores_are_null(results):
    assert results["absent_classes"] == ["detachment"]
    assert results["model"]["dice_present_detachment"]["value"] is None
    assert results["model"]["auc_detachment"] == {"value": None, "low": None, "high": None, "n": 6}
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_the_table_has_a_line_for_every_vendor(results):
    lines = [line.split() for line in format_table(results).splitlines()]
    header = next(line for line in lines if line[:1] == ["vendor"])
    cirrus = next(line for line in lines if line[:1] == ["Cirrus"])
    assert cirrus[1:3] == ["3", "2"]
    assert cirrus[header.index("dice_volume")] == f"{10 / 13 / 2:.3f}"
    # Of both: no true mask holds any detachment, and none is predicted.
    assert cirrus[header.index("volume_difference")] == f"{0.025 / 2:.3f}"
    assert cirrus[-1] == "detachment"
    assert "Means of Dice and Jaccard leave out what no true mask here holds: detachment." in format_table(results)


def test_means_and_their_baselines_leave_out_classes_that_no_true_mask_holds(results):
    """Detachment, never there and never predicted, would be 1 in `dice`; fluid alone has 10/13, 0 and 6/9 by slice below."""
    slices = [8 / 9, 2 / 4, 0, 6 / 9, 1, 10 / 15]
    assert results["left_out_of_means"] == ["detachment"]
    assert results["model"]["dice"]["value"] == pytest.approx(np.mean(slices))
    assert results["model"]["dice_detachment"]["value"] == 1
    assert {name: group["left_out_of_means"] for name, group in results["groups"].items()} == {
        name: ["detachment"] for name in ("Cirrus", "Topcon", "unknown")
    }
    assert results["groups"]["Topcon"]["model"]["dice"]["value"] == pytest.approx((6 / 9 + 1) / 2)


def test_what_is_predicted_of_an_absent_class_counts_in_false_positives_and_volumes(metrics, oct_rows):
    """Topcon, where nobody has any detachment: 10 pixels of it in one of two slices, at 0.02 mm3 a pixel."""
    metrics.rows.mask_counts[3, 1, 2], metrics.rows.mask_counts[3, 3, 2] = 10, 90
    results = results_of(evaluated(metrics, oct_rows))
    topcon = results["groups"]["Topcon"]
    assert topcon["left_out_of_means"] == ["detachment"]
    # Fluid is absent from the other slice, where none is predicted; 3 pixels of it are missed in volume c.
    assert topcon["model"]["false_positive_rate_empty"]["value"] == pytest.approx((0 / 1 + 1 / 2) / 2)
    assert topcon["model"]["volume_difference"]["value"] == pytest.approx((3 + 10) * 0.02 / 2)
    assert topcon["model"]["dice"] == topcon["model"]["dice_fluid"]
    assert results["model"]["false_positive_rate_empty"]["value"] == pytest.approx((1 / 2 + 1 / 6) / 2)


def test_a_group_without_any_class_has_no_means(metrics, oct_rows):
    by_case = results_of(evaluated(metrics, oct_rows, "case_id"))
    assert by_case["groups"]["b"]["left_out_of_means"] == ["fluid", "detachment"]
    assert by_case["groups"]["b"]["model"]["dice"] == {"value": None, "low": None, "high": None, "n": 0}
    assert by_case["groups"]["b"]["model"]["false_positive_rate_empty_fluid"]["value"] == 1


def test_rows_without_any_annotation_are_not_counted_as_scored(metrics, oct_rows):
    """Slice 1 of a and all of b have neither mask nor labels; slice 0 of c has labels only, the one of d a mask only."""
    metrics.rows.mask_counts[[1, 2, 3]] = 0
    metrics.rows.class_labels[[1, 2, 5]] = -100
    evaluation = evaluated(metrics, oct_rows)
    results = results_of(evaluation)
    assert [results[key] for key in ("images", "cases", "unannotated")] == [4, 3, 2]
    assert "Only 3 cases were scored" in results["warnings"][0]
    groups = {n: [g[key] for key in ("images", "cases", "unannotated")] for n, g in results["groups"].items()}
    assert groups == {"Cirrus": [1, 1, 2], "Topcon": [2, 1, 0], "unknown": [1, 1, 0]}
    lines = [line.split("  ") for line in format_table(results).splitlines()]
    table = [[cell.strip() for cell in line if cell.strip()][:4] for line in lines[-4:]]
    assert table[:2] == [["vendor", "images", "cases", "not annotated"], ["Cirrus", "1", "1", "2"]]
    assert headline(evaluation).startswith("4 test images of 3 cases (2 more are not annotated)\n")


def test_a_model_of_one_task_counts_the_rows_that_its_head_is_scored_on(metrics):
    both = metrics.rows
    both.mask_counts[:4], both.class_labels[5] = 0, -100
    of_masks = dataclasses.replace(both, classification_logits=None, class_labels=None)
    of_labels = dataclasses.replace(both, mask_counts=None)
    assert ScoredRows.of(of_masks, metrics.config).annotated.tolist() == [False] * 4 + [True] * 2
    assert ScoredRows.of(of_labels, metrics.config).annotated.tolist() == [True] * 5 + [False]
    assert ScoredRows.of(both, metrics.config).annotated.all()


@pytest.mark.parametrize(("cases", "warned"), [(9, True), (10, False)])
def test_few_cases_are_warned_of_in_the_results(metrics, oct_rows, cases, warned):
    metrics.rows = repeated(metrics.rows, 2, np.minimum(np.arange(12), cases - 1))
    plain = oct_rows.remove_columns(["vendor", "slice_spacing"])
    results = results_of(evaluated(metrics, plain))
    expected = "Only 9 cases were scored: with fewer than 10, no figure is more than an impression."
    assert results["warnings"] == ([expected] if warned else [])


def test_groups_of_few_cases_are_warned_of_by_name(metrics, oct_rows):
    metrics.rows = repeated(metrics.rows, 2, np.arange(12))
    results = results_of(evaluated(metrics, oct_rows))
    (warning,) = results["warnings"]
    assert warning.startswith("Fewer than 10 cases were scored of Cirrus (6), Topcon (4), unknown (2):")


def test_any_column_of_single_values_can_group_and_others_are_refused(metrics, oct_rows):
    assert Scoring(Bootstrap(0), "case_id").column(oct_rows) == "case_id"
    for name in ("vendr", "mask", "spacing"):
        with pytest.raises(BadInputError, match=f"--group_by {name}: no such column; expected one of .*'vendor'"):
            Scoring(Bootstrap(0), name).column(oct_rows)
    by_case = results_of(evaluated(metrics, oct_rows, "case_id"))
    assert list(by_case["groups"]) == ["a", "b", "c", "d"]
    without = oct_rows.remove_columns(["vendor", "slice_spacing"])
    plain = results_of(evaluated(metrics, without))
    assert (plain["group_by"], plain["groups"]) == (None, {})
    assert "volume_difference" not in plain["model"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_lines_per_case_carry_vendor_and_volume(metrics, oct_rows, tmp_path, suffix):
    write_per_case(evaluated(metrics, oct_rows, per_case_format=suffix), tmp_path)
    path = tmp_path / f"per_case.{suffix}"
    table = pandas.read_csv(path) if suffix == "csv" else pandas.read_parquet(path)
    assert table["vendor"].fillna("-").tolist() == ["Cirrus"] * 3 + ["Topcon"] * 2 + ["-"]
    np.testing.assert_allclose(table["volume_true_fluid"], [0.04, 0.02, 0, 0.12, 0, np.nan])
    np.testing.assert_allclose(table["volume_predicted_fluid"], [0.05, 0.02, 0.04, 0.06, 0, np.nan])
    np.testing.assert_allclose(table["label_fluid"], [1, 1, 0, 1, 0, np.nan])
    assert [path.name for path in tmp_path.iterdir()] == [f"per_case.{suffix}"]


@pytest.fixture
def resized(tmp_path):
    """Four images of 80 x 96 pixels stored at 40 x 48, a folder of their own masks, and a checkpoint: (folder, masks)."""
    rng, rows, masks = np.random.default_rng(1), [], {}
    (tmp_path / "masks").mkdir()
    for number in range(4):
        row = {**image_row(3 * number, rng, size=(80, 96)), "case_id": f"ISIC_{number}", "slice_index": 0}
        masks[row["case_id"]] = np.asarray(row["mask"])
        name = f"isic_{number}_Segmentation.png"
        Image.fromarray(masks[row["case_id"]] * np.uint8(255)).save(tmp_path / "masks" / name)
        row["image"] = row["image"].resize((48, 40))
        row["mask"] = row["mask"].resize((48, 40), Image.Resampling.NEAREST)
        rows.append(row)
    features = dataset_features(["background", "lesion"], CLASS_LABELS)
    dataset = DatasetDict({name: Dataset.from_list(rows, features=features) for name in ("train", "test")})
    dataset.save_to_disk(str(tmp_path / "dataset"))
    config = tiny_config(id2label={0: "background", 1: "lesion"}, classification_labels=CLASS_LABELS)
    ResFormerForMultiTask(config).save_pretrained(tmp_path / "model")
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    return tmp_path, masks


def run_evaluate(folder, *flags):
    paths = ["--model_name_or_path", str(folder / "model"), "--dataset", str(folder / "dataset")]
    paths += ["--output", str(folder / "out"), "--bootstrap_samples", "0", "--use_cpu"]
    return evaluate.main([*paths, "--raw_masks", str(folder / "masks"), *flags])


def test_raw_masks_are_scored_at_their_own_size(resized):
    folder, masks = resized
    assert run_evaluate(folder, "--batch_size", "3") == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    model, processor = (
        ResFormerForMultiTask.from_pretrained(folder / "model"),
        ResFormerImageProcessor.from_pretrained(folder / "model"),
    )
    expected = []
    for row in DatasetDict.load_from_disk(str(folder / "dataset"))["test"]:
        with torch.no_grad():
            logits = model.eval()(**processor(row["image"], return_tensors="pt")).segmentation_logits
        predicted = torch.nn.functional.interpolate(logits, size=(80, 96), mode="bilinear").argmax(1)
        expected.append(sklearn.metrics.jaccard_score(masks[row["case_id"]].ravel(), predicted.numpy().ravel()))
    assert results["model"]["jaccard"]["value"] == pytest.approx(np.mean(expected))
    assert results["mask_resolution"] == "native, from the source's own masks"
    lines = csv.DictReader(io.StringIO((folder / "out" / "per_case.csv").read_text()))
    assert {sum(int(line[f"{part}_lesion"]) for part in ("tp", "fp", "fn", "tn")) for line in lines} == {80 * 96}
    # Everything lesion scores the share of the lesion in the masks at their own size.
    share = np.mean([mask.mean() for mask in masks.values()])
    assert results["baselines"]["everything_lesion"]["jaccard"]["value"] == pytest.approx(share)


def test_a_pixel_of_a_raw_mask_covers_a_quarter_of_a_stored_one_of_half_the_side(resized):
    folder, _ = resized
    rows = RawMaskRows(DatasetDict.load_from_disk(str(folder / "dataset"))["test"], folder / "masks", {0: 0, 255: 1})
    counts = Counts(*np.ones((4, 4, 2), dtype=int))
    scored = ScoredRows(np.arange(4), np.arange(4), np.ones(4, dtype=bool), counts)
    images = read_images(rows, scored, lambda image, size: np.zeros(size, dtype=int))
    assert images.pixel_areas.tolist() == [0.25] * 4
    assert images.drawn[0].true.shape == images.drawn[0].predicted.shape == (40, 48)


def test_a_mask_that_the_preparation_left_out_stays_out(resized):
    """Its file lies among the raw masks all the same, as that of a slice which a list of annotated ones does not hold."""
    folder, _ = resized
    dataset = DatasetDict.load_from_disk(str(folder / "dataset"))
    rows = [{**row, "mask": None, "mask_classes": None} if i == 0 else row for i, row in enumerate(dataset["test"])]
    dataset["test"] = Dataset.from_list(rows, features=dataset["test"].features)
    dataset.save_to_disk(str(folder / "part"))
    assert run_evaluate(folder, "--dataset", str(folder / "part")) == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["model"]["jaccard"]["n"] == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda masks: (masks / "isic_1_Segmentation.png").unlink(), "no mask of case ISIC_1"),
        (lambda masks: Image.new("L", (96, 80)).save(masks / "ISIC_1.png"), "both fit ISIC_1"),
        (
            lambda masks: Image.new("L", (48, 40)).save(masks / "isic_1_Segmentation.png"),
            "mask is 40 x 48, its image",
        ),
        (
            lambda masks: Image.new("L", (96, 80), 7).save(masks / "isic_1_Segmentation.png"),
            "mask values 7 are unknown",
        ),
        (lambda masks: Image.new("RGB", (96, 80)).save(masks / "isic_1_Segmentation.png"), "one-channel"),
    ],
)
def test_raw_masks_that_do_not_fit_are_named(resized, capsys, spoil, message):
    folder, _ = resized
    spoil(folder / "masks")
    assert run_evaluate(folder) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--raw_masks", "nowhere"], "--raw_masks nowhere: no such folder"),
        (["--raw_mask_values", "0=background,255=spot"], "names ['spot']; expected some of"),
        (["--task", "classification"], "only classifies"),
        (["--group_by", "vendor"], "--group_by vendor: no such column"),
        (["--per_case_format", "xls"], "expected csv or parquet"),
    ],
)
def test_flags_that_do_not_fit_are_named(resized, capsys, flags, message):
    assert run_evaluate(resized[0], *flags) == 1
    assert message in capsys.readouterr().err


def test_cases_of_several_images_have_no_raw_masks(oct_rows, tmp_path):
    with pytest.raises(BadInputError, match=r"case . has 2 images"):
        RawMaskRows(oct_rows, tmp_path, {0: 0})


def test_raw_mask_values():
    assert mask_values_of(None, ["background", "lesion"]) == {0: 0, 255: 1}
    assert mask_values_of(None, CLASSES) == {0: 0, 1: 1, 2: 2}
    assert mask_values_of("0=background,128=fluid,255=fluid", CLASSES) == {0: 0, 128: 1, 255: 1}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.000"), (0.00174, "0.0017"), (0.00049, "0.00049"), (0.0123, "0.012"), (0.8765, "0.876"), (1.0, "1.000")],
)
def test_small_volumes_keep_two_digits(value, shown):
    assert figure(value) == shown
