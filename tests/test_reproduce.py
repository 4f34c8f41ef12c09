"""A grid of two cells, run, resumed and tabulated; and the grids that come along."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
from prepared_data import prepared_dataset
from small_model import ARCHITECTURE

from modeling_resformer.benchmarking import cell_runs
from modeling_resformer.benchmarking.cell_costs import Cost, CostBook, epochs_within
from modeling_resformer.benchmarking.cell_runs import cell_folder
from modeling_resformer.benchmarking.forward_times import time_rows
from modeling_resformer.benchmarking.grid import GRIDS, Cell, Grid
from modeling_resformer.benchmarking.paper import rows_of
from modeling_resformer.benchmarking.reproduction import reproduce, write_reproduction
from modeling_resformer.commands.reproduce import main
from modeling_resformer.data.row_choice import RowChoice, with_mask_share
from modeling_resformer.data.rows import EpochSampler
from modeling_resformer.errors import BadInputError
from modeling_resformer.training.arguments import parse_arguments


pytest.importorskip("segmentation_models_pytorch")

GRID = {
    "title": "Two rows",
    "seeds": [0],
    "flags": {
        "image_size": 64,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "bootstrap_samples": 0,
    },
    "datasets": {"isic2017": {"text": "ISIC 2017", "paper": "ISIC 2017"}},
    "models": {
        "sequential": {"text": "ours", "ours": True, "flags": {"config": ARCHITECTURE}},
        "unet": {"text": "Unet", "flags": {"rival": "smp/Unet:efficientnet-lite0"}},
    },
    "variants": {},
    "tables": [
        {
            "name": "table_4",
            "title": "both tasks",
            "paper": "4",
            "datasets": ["isic2017"],
            "rows": [
                {"row": "sequential", "paper": "Ours, sequential"},
                {"row": "unet", "stands_for": ["He et al."]},
            ],
        }
    ],
    "tiny": {"seeds": [0]},
}
CELLS = [Cell("isic2017", "sequential", 0), Cell("isic2017", "unet", 0)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folder of a whole reproduction: data, grid and what came of it."""
    folder = tmp_path_factory.mktemp("reproduce")
    prepared_dataset(train=4, validation=4, test=6).save_to_disk(str(folder / "data"))
    (folder / "grid.json").write_text(json.dumps(GRID))
    output = folder / "output"
    grid = Grid.read(str(folder / "grid.json"), "tiny")
    assert reproduce(grid, output, {"isic2017": folder / "data"}, samples=20) == []
    return folder


def rows_of_csv(folder):
    with (folder / "output" / "tables.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_both_cells_were_trained_by_the_same_trainer_and_kept(ran):
    for cell in CELLS:
        folder = cell_folder(ran / "output", cell)
        assert {path.name for path in folder.iterdir()} == {
            "cell.json",
            "per_case.csv",
            "results.json",
            "run.json",
            "shown",
        }
        assert list((folder / "shown").glob("*.png"))
        assert json.loads((folder / "run.json").read_text())["training"]["steps"] == 1
        assert json.loads((folder / "cell.json").read_text())["cost"]["gmac"] > 0
    assert not list((ran / "output" / "work").glob("*"))


@pytest.mark.long
def test_the_table_has_what_was_measured_what_is_printed_and_what_needs_no_learning(ran):
    lines = rows_of_csv(ran)
    kinds = {line["row"]: line["kind"] for line in lines}
    assert kinds["ours"] == "ours" and kinds["Unet (stand-in for He et al.)"] == "rival"
    assert kinds["He et al., as published, another protocol"] == "published"
    assert {"constant mask", "mean of the training split", "nearest neighbour on them"} <= kinds.keys()
    results = json.loads((cell_folder(ran / "output", CELLS[0]) / "results.json").read_text())["model"]
    for line in lines:
        if line["row"] == "ours":
            known = results[line["score"]]["value"]
            assert (line["value"] == "") == (known is None), line["score"]
            assert known is None or float(line["value"]) == pytest.approx(known, abs=1e-9), line["score"]
    printed = {
        line["score"]: float(line["paper_percent"])
        for line in lines
        if line["row"] == "ours" and line["paper_percent"]
    }
    assert printed == rows_of("4", "ISIC 2017")["Ours, sequential"]


@pytest.mark.long
def test_markdown_and_latex_say_the_same_and_flag_the_slips(ran):
    text, latex = ((ran / "output" / name).read_text() for name in ("tables.md", "tables.tex"))
    assert "A rehearsal" in text and "Table 4 of the paper" in text
    assert "sensitivity and specificity make 82.33" in text
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    assert latex.count(r" \\") == text.count("\n| ") - 1  # the line below Markdown's header is none of LaTeX's
    assert (ran / "output" / "figures" / "masks_isic2017.png").is_file()
    assert "Every convention side by side" in (ran / "output" / "analyses.md").read_text()


@pytest.mark.long
def test_finished_cells_are_not_run_again(ran, monkeypatch):
    monkeypatch.setattr(
        "modeling_resformer.benchmarking.cell_runs.train_cell", lambda *given: pytest.fail("ran again")
    )
    monkeypatch.setattr("modeling_resformer.benchmarking.reproduction.write_reproduction", lambda *given: None)
    grid = Grid.read(str(ran / "grid.json"), "tiny")
    assert reproduce(grid, ran / "output", {"isic2017": ran / "data"}) == []


@pytest.mark.long
def test_tables_are_written_again_without_data(ran):
    before = (ran / "output" / "tables.csv").read_text()
    (ran / "output" / "tables.csv").unlink()
    flags = ["--budget", "tiny", "--tables-only", "--bootstrap-samples", "20"]
    assert main([str(ran / "grid.json"), "--output", str(ran / "output"), *flags]) == 0
    assert (ran / "output" / "tables.csv").read_text() == before


@pytest.mark.long
def test_rows_are_timed_together_once_and_the_tables_say_so(ran, tmp_path, monkeypatch):
    output = tmp_path / "output"
    shutil.copytree(ran / "output", output)
    grid = Grid.read(str(ran / "grid.json"), "tiny")
    data = {"isic2017": ran / "data"}
    time_rows(grid, data, output, rounds=1)
    record = json.loads((output / "times.json").read_text())
    assert record["hardware"]["device"] == "cpu"
    assert record["milliseconds"].keys() == {"isic2017-sequential", "isic2017-unet"}
    assert min(record["milliseconds"].values()) > 0
    monkeypatch.setattr("modeling_resformer.benchmarking.forward_times.forward_seconds", pytest.fail)
    time_rows(grid, data, output)
    write_reproduction(grid, output, {}, samples=20)
    with (output / "tables.csv").open(newline="") as file:
        told = {line["row"]: float(line["milliseconds"]) for line in csv.DictReader(file) if line["milliseconds"]}
    assert told["ours"] == record["milliseconds"]["isic2017-sequential"]


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("budget", ["full", "tiny"])
def test_every_cell_of_the_grids_is_understood_by_the_trainer(path, budget, tmp_path):
    grid, names = Grid.read(path.stem, budget), set()
    if budget == "full":
        papers = {table.paper for table in grid.tables} - {None}
        for table in grid.tables:
            for row in table.rows:
                for system in (row.paper, *row.stands_for):
                    assert system is None or system in rows_of(table.paper), (table.name, system)
        assert papers
    for cell in grid.cells(seeds=[0]):
        recipe = grid.recipe(cell)
        told = json.dumps(recipe, sort_keys=True)
        if told not in names:
            names.add(told)
            file = tmp_path / "recipe.json"
            file.write_text(json.dumps(recipe))
            parse_arguments(["--recipe", str(file), "--dataset", "data", "--output_dir", str(tmp_path), "--use_cpu"])


def test_a_grid_that_is_none_is_refused_in_one_line(tmp_path):
    with pytest.raises(BadInputError, match=r"expected a JSON file, or one of .*paper"):
        Grid.read("nothing")
    (tmp_path / "grid.json").write_text(json.dumps({**GRID, "tables": [{**GRID["tables"][0], "rows": ["unett"]}]}))
    with pytest.raises(BadInputError, match="unett"):
        Grid.read(str(tmp_path / "grid.json"))


@pytest.fixture(scope="module")
def prepared(ran):
    from modeling_resformer.data.prepared import load_prepared

    return load_prepared(ran / "data")


@pytest.mark.long
def test_a_smaller_share_of_the_masks_is_a_part_of_a_larger_one(prepared):
    def kept(share, seed=0):
        rows = RowChoice(mask_share=share).applied_to(prepared, seed).dataset["train"]
        assert rows["case_id"] == prepared.dataset["train"]["case_id"]
        assert rows["class_labels"] == prepared.dataset["train"]["class_labels"]
        masks = [mask is not None for mask in rows["mask"]]
        assert masks == [classes is not None for classes in rows["mask_classes"]]
        return {i for i, there in enumerate(masks) if there}

    assert len(kept(1.0)) == 3 and len(kept(0.5)) == 2 and len(kept(0.01)) == 1
    assert kept(0.01) < kept(0.5) < kept(1.0)
    whole, part = prepared.dataset["train"], RowChoice(mask_share=0.5).applied_to(prepared, 0).dataset["train"]
    assert all(part[i]["mask"].tobytes() == whole[i]["mask"].tobytes() for i in kept(0.5))


@pytest.mark.long
def test_rows_of_one_value_alone_or_all_but_these(prepared):
    def cases(dataset):
        return {split: sorted(set(rows["slice_index"])) for split, rows in dataset.items()}

    assert cases(RowChoice.of("slice_index=1", None).applied_to(prepared, 0).dataset) == {
        split: [1] for split in prepared.dataset
    }
    held = cases(RowChoice.of(None, "slice_index=1").applied_to(prepared, 0).dataset)
    assert held == {"train": [0], "validation": [0], "test": [1]}
    with pytest.raises(BadInputError, match="vendor=Zeiss: no such column"):
        RowChoice.of("vendor=Zeiss", None).applied_to(prepared, 0)
    with pytest.raises(BadInputError, match="expected COLUMN=VALUE"):
        RowChoice.of("Cirrus", None)


def test_which_masks_are_kept_has_nothing_to_do_with_the_order_of_the_images():
    from datasets import Dataset

    rows = Dataset.from_dict({"mask": ["m"] * 400, "mask_classes": [["lesion"]] * 400})
    kept = [i for i, mask in enumerate(with_mask_share(rows, 0.2, seed=0)["mask"]) if mask is not None]
    first = list(EpochSampler(400, seed=0))[:80]
    assert len(kept) == 80 and len(set(kept) & set(first)) < 40


@pytest.mark.long
def test_a_process_leaves_the_cells_that_another_has_to_it(ran, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(cell_runs, "run_cell", lambda grid, cell, *given: trained.append(cell) or True)
    grid = Grid.read(str(ran / "grid.json"), "tiny")
    script = (
        "import sys\nfrom pathlib import Path\nfrom modeling_resformer.benchmarking import cell_runs, grid\n"
        "with cell_runs.taken(Path(sys.argv[1]), grid.Cell('isic2017', 'sequential', 0)) as mine:\n"
        "    print(mine, flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        assert cell_runs.run_cells(grid, CELLS, {"isic2017": ran / "data"}, tmp_path, None, None) == []
        assert trained == CELLS[1:]
        other.kill()
    cell_runs.run_cells(grid, CELLS[:1], {"isic2017": ran / "data"}, tmp_path, None, None)
    assert trained == [CELLS[1], CELLS[0]]


@pytest.mark.long
def test_a_row_that_cannot_be_built_fails_alone_and_the_exit_status_says_so(ran, tmp_path, monkeypatch, caplog):
    broken = {"text": "broken", "flags": {"rival": "smp/Unet:resnet34", "image_size": 64, "learning_rate": -1.0}}
    rows = [{"row": "broken"}, {"row": "sequential"}]
    table = {**GRID["tables"][0], "rows": rows, "reference": "sequential"}
    grid = {**GRID, "models": {**GRID["models"], "broken": broken}, "tables": [table]}
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    monkeypatch.setattr("modeling_resformer.benchmarking.reproduction.run_baselines", lambda *given: None)
    monkeypatch.setattr("modeling_resformer.benchmarking.reproduction.draw_figures", lambda *given: [])
    monkeypatch.setattr(CostBook, "of", lambda self, cell: Cost(1, 1.0, 1.0, 1.0, None, 1.0, 1.0, 1.0))
    flags = ["--budget", "tiny", "--data", f"isic2017={ran / 'data'}", "--bootstrap-samples", "0"]
    assert main([str(tmp_path / "grid.json"), "--output", str(tmp_path / "out"), *flags]) == 1
    assert "isic2017-broken-0 failed" in caplog.text
    assert [path.name for path in (tmp_path / "out" / "cells").iterdir()] == ["isic2017-sequential-0"]
    assert "Not run: broken" in (tmp_path / "out" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("minutes", "epochs"),
    [
        (1.0, 0.5),  # 50 s of learning and one validation of 10 s
        (3.5, 1.9),  # 190 s of learning and two of 10 s
        (2.0, 1.0),  # a second validation would leave nothing of a second epoch
        (0.0, 0.01),
    ],
)
def test_a_budget_of_time_buys_epochs_and_a_validation_of_each_begun_one(minutes, epochs):
    assert epochs_within(minutes, Cost(1, 1.0, 1.0, 1.0, None, 100.0, 10.0, 0.0)) == pytest.approx(epochs)


@pytest.mark.long
def test_a_table_is_finished_for_all_seeds_before_the_next_begins(ran):
    second = {**GRID["tables"][0], "name": "second", "rows": [{"row": "unet"}, {"row": "sequential/plain"}]}
    variants = {"plain": {"text": "plain", "flags": {}}}
    (ran / "two.json").write_text(
        json.dumps({**GRID, "seeds": [0, 1], "tables": [*GRID["tables"], second], "variants": variants})
    )
    told = [(cell.row, cell.seed) for cell in Grid.read(str(ran / "two.json")).cells()]
    assert told == [
        ("sequential", 0),
        ("unet", 0),
        ("sequential", 1),
        ("unet", 1),
        ("sequential/plain", 0),
        ("sequential/plain", 1),
    ]
