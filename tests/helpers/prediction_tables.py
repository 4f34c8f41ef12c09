"""The tables that a prediction wrote."""

import csv
from pathlib import Path


def rows_of(output: Path, table: str = "predictions") -> list[dict[str, str]]:
    with open(output / f"{table}.csv", newline="") as file:
        return list(csv.DictReader(file))
