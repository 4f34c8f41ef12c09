"""Which rows of a prepared dataset a run takes, and of how many training images it is shown the masks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict

from ..errors import BadInputError
from .prepared import PreparedDataset


MASK_COLUMNS = ("mask", "mask_classes")
MASK_STREAM = (1, 1)


@dataclass(frozen=True)
class RowChoice:
    """All rows with all masks, unless it says something else.

    Attributes:
        only: column and value of the rows that are taken, in all splits; None for all.
        hold_out: column and value of the rows that are tested, and that no other split keeps; None for none.
        mask_share: of the training rows with a mask, how many keep it.
    """

    only: tuple[str, str] | None = None
    hold_out: tuple[str, str] | None = None
    mask_share: float = 1.0

    @classmethod
    def of(cls, only: str | None, hold_out: str | None, mask_share: float = 1.0) -> "RowChoice":
        """From flags. Raises `BadInputError` for what is no COLUMN=VALUE."""
        return cls(_column_and_value("--only", only), _column_and_value("--hold_out", hold_out), mask_share)

    def applied_to(self, prepared: PreparedDataset, seed: int) -> PreparedDataset:
        """The dataset with these rows and masks.

        Args:
            prepared: the whole.
            seed: which masks are kept; a smaller share of the same seed is a part of a larger one.

        Raises:
            BadInputError: there is no such column or value, or a split is left without rows.
        """
        rules, dataset = [], prepared.dataset
        if self.only is not None:
            dataset, rule = _restricted(dataset, "--only", self.only, lambda split: True), "="
            rules.append(f"only rows of {rule.join(self.only)}")
        if self.hold_out is not None:
            dataset = _restricted(dataset, "--hold_out", self.hold_out, lambda split: split == "test")
            rules.append(f"tested on {'='.join(self.hold_out)}, which is kept out of all other splits")
        if self.mask_share < 1:
            dataset = DatasetDict({**dataset, "train": with_mask_share(dataset["train"], self.mask_share, seed)})
            rules.append(f"{self.mask_share:g} of the training masks kept")
        if not rules:
            return prepared
        told = "; ".join([str(prepared.metadata.get("split_rule")), *rules])
        return replace(prepared, dataset=dataset, metadata={**prepared.metadata, "split_rule": told})


def with_mask_share(rows: Dataset, share: float, seed: int) -> Dataset:
    """The same rows, of which only a share of those with a mask, at least one, keeps it.

    Args:
        rows: with the columns `mask` and `mask_classes`, null where nobody drew one.
        share: above 0, at most 1.
        seed: of the order in which rows lose their masks.
    """
    there = np.flatnonzero([value is not None for value in rows["mask_classes"]])
    # Another stream than that of the order of the images, or the first images of a run would be those that keep theirs.
    kept = np.random.default_rng((seed, *MASK_STREAM)).permutation(there)[
        : max(1, math.ceil(share * len(there) - 1e-9))
    ]
    keeps = np.zeros(len(rows), dtype=bool)
    keeps[kept] = True
    order = rows.column_names
    if len(rows.data) != len(rows):  # a choice of rows, which datasets would write into the user's folder
        rows = rows.flatten_indices(keep_in_memory=True)
    for name in MASK_COLUMNS:
        column = rows.data.column(name).combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        # Rows are taken by index, and a missing index is a null: no value is decoded.
        index = pa.array(np.arange(len(rows)), mask=~keeps)
        rows = rows.remove_columns(name).add_column(name, column.take(index), feature=rows.features[name])
    return rows.select_columns(order)


def _restricted(
    dataset: DatasetDict, flag: str, choice: tuple[str, str], wanted_in: Callable[[str], bool]
) -> DatasetDict:
    """Of every split the rows with the value, or those without it where it is not wanted."""
    name, value = choice
    chosen: dict[str, Any] = {}
    for split, rows in dataset.items():
        if name not in rows.column_names:
            raise BadInputError(f"{flag} {name}={value}: no such column; expected one of {rows.column_names}.")
        values = [str(one) for one in rows[name]]
        kept = [i for i, one in enumerate(values) if (one == value) == wanted_in(split)]
        if not kept:
            there = ", ".join(sorted(set(values)))
            raise BadInputError(f"{flag} {name}={value}: leaves the {split} split empty, which holds {there}.")
        chosen[split] = rows.select(kept)
    return DatasetDict(chosen)


def _column_and_value(flag: str, text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise BadInputError(f"{flag} is {text!r}; expected COLUMN=VALUE, such as vendor=Cirrus.")
    return name, value
