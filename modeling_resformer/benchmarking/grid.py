"""A grid: what is compared with what on which data, from one JSON file.

    {"title": "...",
     "seeds": [0, 1],
     "flags": {...},                          of every training
     "cpu_minutes": 25,                       of one cell: as many epochs as fit, to a hundredth; left out: as the flags say
     "datasets": {"Cirrus": {"text": "RETOUCH, Cirrus", "source": "retouch", "recipe": "retouch_paper",
                             "flags": {"only": "vendor=Cirrus"}, "paper": "Cirrus"}, ...},
     "models": {"sequential": {"text": "ours, sequential", "ours": true, "flags": {...}}, ...},
     "variants": {"segmentation": {"text": "segmentation only", "flags": {"task": "segmentation"}}, ...},
     "tables": [{"name": "table_4", "title": "...", "paper": "4", "of": "masks", "datasets": ["isic2017"], "reference": "sequential",
                 "rows": [{"row": "sequential", "paper": "Ours, sequential"},
                          {"row": "unet_r34", "stands_for": ["He et al."]},
                          {"row": "sequential/segmentation", "paper": "..."}]}],
     "share_of_masks": {"datasets": [...], "rows": ["sequential"], "shares": [1, 0.5, 0.2, 0.1, 0.05]},
     "tiny": {"flags": {...}, "seeds": [0], "datasets": [...], "recipe": null}}

A dataset takes a prepared folder by its `source` (default its own name), a row is `MODEL` or `MODEL/VARIANT`. Flags are those
of scripts/train.py; later ones win (recipe, grid, dataset, model, variant), `config` is joined, null removes one. A cell is
one row on one dataset with one seed: one that several tables ask for is run once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadInputError
from ..shipped import shipped
from ..training.recipes import find_recipe


GRIDS = shipped("scripts/grids")
TINY = "tiny"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        model, variant: keys of the grid; variant is empty for the model as it is.
        text: as it is printed.
        paper: the row of the paper's table whose system this is; None where it prints none.
        stands_for: rows of the paper's table whose systems are not to be had, which this one stands in for.
    """

    model: str
    variant: str
    text: str
    paper: str | None = None
    stands_for: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.model}/{self.variant}" if self.variant else self.model


@dataclass(frozen=True)
class Cell:
    """One training."""

    dataset: str
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.row.replace('/', '-')}-{self.seed}"


@dataclass(frozen=True)
class Table:
    """One table of the paper, or one of ours.

    Attributes:
        name: of its files.
        title: above it.
        paper: number of the paper's table; None for one that it has not.
        datasets: keys of the grid, a part of the table each.
        reference: row that the others are tested against.
        rows: in order.
        baselines: whether what needs no learning stands below.
        of: `masks` or `classes` for the scores of these alone; None for all.
    """

    name: str
    title: str
    paper: str | None
    datasets: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]
    baselines: bool = True
    of: str | None = None


@dataclass(frozen=True)
class Grid:
    """See the top of this file.

    Attributes:
        name: of the file.
        settings: the file's content.
        tables: those of the file, and one for every further analysis.
        seeds: of every row.
    """

    name: str
    settings: Mapping[str, Any]
    tables: tuple[Table, ...]
    seeds: tuple[int, ...]
    tiny: bool = False
    cpu_minutes: float | None = None
    shares: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, budget: str | None = None) -> "Grid":
        """A grid by its file, or by its bare name in `scripts/grids`.

        Args:
            name: of either.
            budget: `tiny` for the rehearsal that the file describes.

        Raises:
            BadInputError: there is no such file, or a name in it means nothing.
        """
        path = Path(name) if Path(name).is_file() else GRIDS / f"{name.removesuffix('.json')}.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            there = ", ".join(sorted(one.stem for one in GRIDS.glob("*.json")))
            raise BadInputError(f"{name}: there is no such grid; expected a JSON file, or one of {there}.") from None
        except (OSError, ValueError) as error:
            raise BadInputError(f"{path}: is no JSON ({error}); see docs/reproduce.md.") from error
        try:
            return cls._of(path.stem, settings, budget)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInputError(
                f"{path}: {error} is missing or means nothing there; see docs/reproduce.md."
            ) from error

    @classmethod
    def _of(cls, name: str, settings: Mapping[str, Any], budget: str | None) -> "Grid":
        tiny = settings[TINY] if budget == TINY else {}
        kept = tiny.get("datasets", list(settings["datasets"]))
        tables = [_table_of(one, settings, kept) for one in [*settings["tables"], *_share_tables(settings)]]
        return cls(
            name,
            settings,
            tuple(table for table in tables if table.datasets),
            tuple(tiny.get("seeds", settings["seeds"])),
            budget == TINY,
            None if budget == TINY else settings.get("cpu_minutes"),
            settings.get("share_of_masks", {}),
        )

    @property
    def sources(self) -> list[str]:
        """Names of the prepared folders that the tables need."""
        return list(dict.fromkeys(self.source(name) for table in self.tables for name in table.datasets))

    def source(self, dataset: str) -> str:
        """Name of the prepared folder of a dataset."""
        return self.settings["datasets"][dataset].get("source", dataset)

    def cells(self, seeds: Sequence[int] = (), only: Sequence[str] = ()) -> Iterator[Cell]:
        """Every cell once, table by table: of each all rows with the first seed, then with the next.

        Args:
            seeds: default those of the grid.
            only: names of tables, datasets, models, rows or cells, one of which a cell must belong to; default all.
        """
        seen = set()
        for table in self.tables:
            for seed in seeds or self.seeds:
                for dataset in table.datasets:
                    for row in table.rows:
                        cell = Cell(dataset, row.key, seed)
                        names = {table.name, dataset, row.model, row.key, cell.name}
                        if cell not in seen and (not only or names & set(only)):
                            seen.add(cell)
                            yield cell

    def recipe(self, cell: Cell) -> dict[str, Any]:
        """The flags of a cell's training, as one flat recipe."""
        dataset = self.settings["datasets"][cell.dataset]
        model, _, variant = cell.row.partition("/")
        parts = [
            self.settings.get("flags", {}),
            dataset.get("flags", {}),
            self.settings["models"][model].get("flags", {}),
        ]
        parts += [self.variant_flags(variant)]
        base = dataset.get("recipe")
        if self.tiny:
            tiny = self.settings[TINY]
            base = tiny.get("recipe", base)
            parts += [tiny.get("flags", {}), tiny.get("of_datasets", {}).get(cell.dataset, {})]
            parts += [tiny.get("of_models", {}).get(model, {})]
        recipe = {} if base is None else json.loads(find_recipe(base).read_text(encoding="utf-8"))
        for flags in parts:
            joined = {**recipe.get("config", {}), **flags.get("config", {})}
            recipe = {
                **recipe,
                **flags,
                "config": {name: value for name, value in joined.items() if value is not None},
            }
        if "rival" in recipe:
            recipe = _without_architecture(recipe)
        return {**{name: value for name, value in recipe.items() if value is not None}, "seed": cell.seed}

    def variant_flags(self, variant: str) -> Mapping[str, Any]:
        """Flags of a variant; `masks_20` is a share of the masks in per cent."""
        if not variant:
            return {}
        if variant.startswith(SHARE) and variant not in self.settings.get("variants", {}):
            return {"mask_share": float(variant.removeprefix(SHARE)) / 100}
        return self.settings["variants"][variant]["flags"]


SHARE = "masks_"
# Of a config only these mean something to a rival.
OF_RIVALS = (
    "classification_type",
    "classification_loss_weight",
    "segmentation_loss_weight",
    "cross_entropy_weight",
    "focal_weight",
    "label_smoothing",
    "dice_smooth",
    "dice_include_background",
)


def _without_architecture(recipe: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in recipe["config"].items() if name in OF_RIVALS}
    return {name: value for name, value in recipe.items() if name not in ("backbone", "init_resnet")} | {
        "config": config
    }


def _table_of(one: Mapping[str, Any], settings: Mapping[str, Any], kept: Sequence[str]) -> Table:
    rows = tuple(_row_of(row, settings) for row in one["rows"])
    for dataset in one["datasets"]:
        settings["datasets"][dataset]
    return Table(
        one["name"],
        one["title"],
        one.get("paper"),
        tuple(dataset for dataset in one["datasets"] if dataset in kept),
        one.get("reference", rows[0].key),
        rows,
        one.get("baselines", True),
        one.get("of"),
    )


def _row_of(row: str | Mapping[str, Any], settings: Mapping[str, Any]) -> Row:
    row = {"row": row} if isinstance(row, str) else row
    model, _, variant = row["row"].partition("/")
    text = settings["models"][model]["text"]
    if variant:
        is_share = variant.startswith(SHARE) and variant not in settings.get("variants", {})
        text += (
            f", {variant.removeprefix(SHARE)} % of the masks"
            if is_share
            else f", {settings['variants'][variant]['text']}"
        )
    return Row(model, variant, row.get("text", text), row.get("paper"), tuple(row.get("stands_for", ())))


def _share_tables(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of the share of masks, a row a share."""
    given = settings.get("share_of_masks")
    if not given:
        return []
    rows = [
        row if share == 1 else f"{row}/{SHARE}{100 * share:g}" for row in given["rows"] for share in given["shares"]
    ]
    title = "Masks of a share of the training images, image-level labels of all"
    return [
        {"name": "share_of_masks", "title": title, "datasets": given["datasets"], "rows": rows, "baselines": False}
    ]
