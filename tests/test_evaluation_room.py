"""Whom evaluation knows: nobody who trains, predicts or publishes; and no two modules that need each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from modeling_resformer.metrics.score_table import SCORES


PACKAGE = Path(__file__).parents[1] / "modeling_resformer"
KNOWN = {
    "configuration_resformer",
    "data",
    "drawing",
    "errors",
    "escaping",
    "files",
    "flags",
    "heads",
    "metrics",
    "modeling_resformer",
}


def imported(file):
    """The modules of the package that a file imports, also within functions, as paths without suffix."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [place / alias.name for alias in node.names]
            found |= {name for name in names if name.with_suffix(".py").is_file()} or {place}
    return {path.relative_to(PACKAGE) for path in found}


@pytest.mark.parametrize(("room", "known"), [("metrics", {"configuration_resformer"}), ("evaluation", KNOWN)])
def test_a_room_knows_only_the_rooms_below_it(room, known):
    rooms = {path.parts[0] for file in (PACKAGE / room).glob("*.py") for path in imported(file) if path.parts}
    assert rooms <= {room, *known}


def listed(node):
    """The strings that a literal holds."""
    parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
    return {part.value for part in parts if isinstance(part, ast.Constant)}


def test_scores_are_listed_in_one_place():
    """`scores.py` computes them by name; whoever shows them takes names, titles and order from the table."""
    own, names = {"score_table.py", "scores.py"}, {score.name for score in SCORES}
    lists = [
        (file.name, node.lineno)
        for file in PACKAGE.rglob("*.py")
        if file.name not in own
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if len(listed(node) & names) > 2
    ]
    assert lists == []


def test_no_two_modules_need_each_other():
    files = [file for room in ("metrics", "evaluation", "training") for file in (PACKAGE / room).glob("*.py")]
    needs = {file.relative_to(PACKAGE).with_suffix(""): imported(file) for file in files}
    assert Path("evaluation/results") in needs and Path("evaluation/evaluation") in needs[Path("evaluation/results")]
    TopologicalSorter(needs).prepare()  # raises CycleError
