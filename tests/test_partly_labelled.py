"""Rows with a mask only, labels only, both and neither in one dataset: what is unlabelled costs exactly nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_data import CLASS_LABELS, prepared_dataset
from small_model import tiny_config
from small_trainer import make_trainer
from transformers import TrainerCallback

from modeling_resformer import ResFormerForMultiTask


BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "partly_labelled"
import report
import run


MASK_ONLY, LABELS_ONLY, BOTH, NEITHER = range(4)


@pytest.fixture
def model():
    """Batch norms by their running statistics, so that a row's logits do not depend on its neighbours."""
    return ResFormerForMultiTask(tiny_config(cross_entropy_weight=0.5)).eval()


@pytest.fixture
def mixed(batch):
    """Four rows: mask only, labels only, both, neither."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 4, (4, 48, 40), generator=generator)
    labels = torch.randint(0, 2, (4, 3), generator=generator).float()
    masks[[LABELS_ONLY, NEITHER]] = 255
    labels[[MASK_ONLY, NEITHER]] = -100
    pixels = torch.randn(4, 3, 48, 40, generator=generator)
    return {"pixel_values": pixels, "mask_labels": masks, "class_labels": labels}


def losses_and_gradients(model, batch):
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_each_loss_is_that_of_its_own_rows_alone(model, mixed):
    output, gradients = losses_and_gradients(model, mixed)
    pixels = mixed["pixel_values"]
    with_mask, with_labels = [MASK_ONLY, BOTH], [LABELS_ONLY, BOTH]
    segmentation = model(pixels[with_mask], mask_labels=mixed["mask_labels"][with_mask])
    classification = model(pixels[with_labels], class_labels=mixed["class_labels"][with_labels])
    torch.testing.assert_close(output.segmentation_loss, segmentation.segmentation_loss)
    torch.testing.assert_close(output.classification_loss, classification.classification_loss)
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(segmentation.loss + classification.loss, parameters.values())
    for (name, found), gradient in zip(gradients.items(), expected, strict=True):
        torch.testing.assert_close(found, gradient, msg=name, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("rows", "silent"),
    [
        ([MASK_ONLY], {"classification_head"}),
        ([LABELS_ONLY], {"segmentation_head", "decoder", "dilated_feature_enhancement"}),
        ([MASK_ONLY, NEITHER], {"classification_head"}),
    ],
)
def test_a_head_without_labels_gets_a_gradient_of_exactly_zero(model, mixed, rows, silent):
    """Zero and not None, which DDP would take for an unused parameter."""
    _, gradients = losses_and_gradients(model, {name: tensor[rows] for name, tensor in mixed.items()})
    for name, gradient in gradients.items():
        if name.split(".")[0] in silent:
            assert not gradient.any(), name
    assert any(gradient.any() for name, gradient in gradients.items() if name.startswith("encoder"))


def test_a_batch_of_rows_without_any_label_moves_nothing(model, mixed):
    output, gradients = losses_and_gradients(model, {name: tensor[[NEITHER]] for name, tensor in mixed.items()})
    assert output.loss.item() == 0
    assert not any(gradient.any() for gradient in gradients.values())


def test_a_run_meets_every_kind_of_row_and_stays_finite(tmp_path):
    """Batches of one row, so that some have no mask, some no labels, and some neither."""

    class Gradients(TrainerCallback):
        norms = []

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            heads = (model.segmentation_head, model.classification_head)
            self.norms.append([max(p.grad.abs().max().item() for p in head.parameters()) for head in heads])

    trainer = make_trainer(prepared_dataset(train=12), tmp_path, per_device_train_batch_size=1, num_train_epochs=1)
    trainer.add_callback(Gradients())
    trainer.train()
    # Of 12 rows 2, 5, 8 and 11 have no mask, and 3, 7 and 11 no labels.
    norms = np.array(Gradients.norms)
    assert np.isfinite(norms).all()
    assert (norms == 0).sum(axis=0).tolist() == [4, 3]
    assert (norms == 0).all(axis=1).sum() == 1


def test_the_benchmark_divides_cases_as_its_readme_says():
    """20, 40 and 40 per cent of ten cases of two images; the rest of a row, images included, stays as it is."""
    rows = prepared_dataset(train=60)["train"]
    whole = [i for i, row in enumerate(rows) if row["mask"] and row["class_labels"]]
    rows = rows.select(whole)
    cases = sorted(set(rows["case_id"]))
    kept = run.divide(rows["case_id"], 0.2, 0.4, seed=0)
    assert [len(kept[kind]) for kind in ("both", "mask", "labels")] == [
        round(share * len(cases)) for share in (0.2, 0.4, 0.4)
    ]
    assert sorted(case for kind in kept.values() for case in kind) == cases
    assert run.divide(rows["case_id"], 0.2, 0.4, seed=1) != kept
    stripped = run.partly_labelled(rows, kept)
    assert stripped.features == rows.features
    for before, after in zip(rows, stripped, strict=True):
        assert after["image"].tobytes() == before["image"].tobytes()
        assert after["case_id"] == before["case_id"]
        assert (after["mask"] is None) == (after["mask_classes"] is None) == (after["case_id"] in kept["labels"])
        assert (after["class_labels"] is None) == (after["case_id"] in kept["mask"])
    alone = run.training_part("full_rows_only", rows, kept)
    assert set(alone["case_id"]) == kept["both"]
    assert run.describe(alone) == {name: len(alone) for name in ("rows", "masks", "labels")}


@pytest.mark.slow
def test_the_benchmark_runs_goes_on_and_reports_what_the_runs_measured(tmp_path, capsys):
    dataset = prepared_dataset(train=24, validation=6, test=12)
    dataset.save_to_disk(str(tmp_path / "dataset"))
    recipe = json.loads((BENCHMARK / "recipe.json").read_text()) | {"image_size": 32, "auc_classes": []}
    recipe["per_device_train_batch_size"] = 2
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    flags = ["--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "runs"), "--max_steps", "3"]
    flags += ["--recipe", str(tmp_path / "recipe.json")]
    assert run.main(flags) == 0
    assert run.main(flags) == 0
    assert capsys.readouterr().out.count("finished before") == 3
    results = json.loads((tmp_path / "runs" / "results.json").read_text())
    for entry in results["runs"]:
        folder = tmp_path / "runs" / "seed0" / entry["arm"]
        table = report.read_rows(folder / "per_case.csv")
        ones = np.ones((1, len(table["case_id"])))
        found = report.statistics(table, ["lesion"], CLASS_LABELS, ones)
        for name in ("dice", "jaccard", "auc"):
            assert found[name][0] == pytest.approx(entry["model"][name]["value"])
    assert "partly_labelled minus" in (tmp_path / "runs" / "README.md").read_text()
    assert run.main([*flags[:-2], "--recipe", str(BENCHMARK / "recipe.json")]) == 1
    assert "other settings" in capsys.readouterr().err


def test_paired_differences_cancel_what_both_arms_share(tmp_path):
    """Two arms a constant apart on every image: the difference is that constant, and its interval has no width."""
    path = tmp_path / "per_case.csv"
    lines = ["case_id,slice_index,dice_lesion,jaccard_lesion,probability_red,label_red"]
    lines += [f"c{i},0,{0.1 * i},{0.05 * i},{0.1 * i},{i % 2}" for i in range(8)]
    path.write_text("\n".join(lines))
    one = report.read_rows(path)
    other = {**one, "dice_lesion": np.array([str(float(value) - 0.25) for value in one["dice_lesion"]])}
    found = report.paired_differences(one, other, ["lesion"], ["red"])
    assert found["dice"] == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25})
    assert found["jaccard"] == {"value": 0, "low": 0, "high": 0}
    assert found["auc"] == {"value": 0, "low": 0, "high": 0}


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(SystemExit):
        run.parse(["--dataset", "d", "--output", "o", "--full", "0.6", "--mask_only", "0.4"])
