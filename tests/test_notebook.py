"""examples/resformer.ipynb: clean as it is kept, and its cells run from a folder to a page."""

import json
import re
import shutil
from pathlib import Path

import pytest


NOTEBOOK = Path(__file__).parents[1] / "examples" / "resformer.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs_and_installs_first():
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in CELLS)
    assert [number for number, code in enumerate(CODE) if "%pip install" in code] == [0]
    for code in CODE:
        compile(re.sub(r"(?m)^%.*$", "", code), "cell", "exec")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the runtime of the page")
def test_its_cells_run_in_order(tmp_path, monkeypatch):
    """With one epoch; in a notebook of Jupyter's own, where the packages are there already."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = re.sub(r"(?m)^%pip.*$", "", cell.source).replace("EPOCHS = 10", "EPOCHS = 1")
        cell.source = cell.source.replace('Path("resformer_work")', f"Path({str(tmp_path)!r})")
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"dice 0\.\d{3} \(.*\), n = 14", said)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "trained/results.json").is_file()
    described = json.loads((tmp_path / "page/model.json").read_text())
    assert described["name"] == "my model" and described["metadata"]["image_classes"][0] == "melanoma"
    assert (tmp_path / "page.zip").stat().st_size > 1e6
