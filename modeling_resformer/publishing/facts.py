"""What a run recorded of itself; the one place that knows where in its files a fact stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configuration_resformer import ResFormerConfig
from ..data.transforms import Augmentation
from .checks import RESULTS_NAME, RUN_NAME, read_json
from .sources import UNKNOWN, Source, source_named


NOT_RECORDED = "not recorded"
# Runs record all five; those of before left out what had these values, the defaults of that time for any data.
FORMER_AUGMENTATION = {
    "rotation_degrees": 180.0,
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "scale_jitter": 0.0,
    "color_jitter": 0.0,
}
TASKS = {
    "ResFormerForMultiTask": "multi_task",
    "ResFormerForSemanticSegmentation": "segmentation",
    "ResFormerForImageClassification": "classification",
}


@dataclass(frozen=True)
class Interval:
    """A score with the ends of its interval, None where there is none, and the number it was computed from."""

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Facts:
    """A run's own record.

    Attributes:
        config: of the model.
        preprocessor: `preprocessor_config.json`.
        results: `results.json`.
        record: `run.json`; empty where the run left none.
    """

    config: ResFormerConfig
    preprocessor: Mapping[str, Any]
    results: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def task(self) -> str:
        """`multi_task`, `segmentation` or `classification`."""
        return TASKS[self.config.architectures[0]]

    @property
    def segments(self) -> bool:
        return self.task != "classification"

    @property
    def classifies(self) -> bool:
        return self.task != "segmentation"

    @property
    def source(self) -> Source:
        """What is known of the dataset."""
        return source_named(self.recorded("dataset", "source"))

    @property
    def provenance_is_known(self) -> bool:
        """Whether the run recorded a dataset that this project knows."""
        return self.source is not UNKNOWN

    @property
    def dataset_title(self) -> str:
        """The dataset in words."""
        if self.provenance_is_known:
            return self.source.title
        name = self.recorded("dataset", "name")
        return f"a dataset that is {NOT_RECORDED}" if name is None else f"`{name}`, a dataset of its owner's"

    @property
    def kept_apart(self) -> str:
        """How the pictures that were tested stood to training, as far as that is known."""
        split, rows = (
            self.results.get("split"),
            self.recorded("dataset", "splits", str(self.results.get("split")), "rows"),
        )
        if split in ("train", "validation"):
            return "which took part in training or selection, so that these figures **flatter**"
        if split == "test" and rows is not None and rows == self.results.get("images"):
            return f"which took no part in training or selection{self._near_duplicates}"
        return f"of which it is {NOT_RECORDED} whether they took part in training or selection"

    @property
    def _near_duplicates(self) -> str:
        """What is known of near-duplicates of the tested pictures, to go on after "took no part in training"."""
        found = self.recorded("dataset", "near_duplicates", "pictures", str(self.results.get("split")))
        if found is None:
            return " (near-duplicates: not checked)"
        return (
            f", though {found} of them have near-duplicates that did" if found else ", nor did near-duplicates of them"
        )

    @property
    def augmentation(self) -> Augmentation | None:
        """What happened to training pictures; None where there is no record."""
        settings = self.recorded("settings")
        if settings is None:
            return None
        return Augmentation(**{name: settings.get(name, former) for name, former in FORMER_AUGMENTATION.items()})

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that pictures are squashed to."""
        size = self.preprocessor["size"]
        return size["height"], size["width"]

    def recorded(self, *keys: str) -> Any:
        """A value of `run.json`, or None."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def score(self, name: str, scores: Mapping[str, Any] | None = None) -> Interval | None:
        """A score of the model, or of what `scores` holds; None where the data do not define it."""
        found = (self.results["model"] if scores is None else scores).get(name)
        if not found or not found.get("n") or found.get("value") is None:
            return None
        return Interval(found["value"], found.get("low"), found.get("high"), found["n"])

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]:
        """`images`, `cases`, `model` and `baselines` by vendor or other group; empty where there are none."""
        return self.results.get("groups") or {}


def read_facts(run: Path) -> Facts:
    """Reads what a run left behind.

    Raises:
        BadInputError: a file is broken.
    """
    record = read_json(run / RUN_NAME) if (run / RUN_NAME).is_file() else {}
    return Facts(
        config=ResFormerConfig.from_pretrained(run),
        preprocessor=read_json(run / "preprocessor_config.json"),
        results=read_json(run / RESULTS_NAME),
        record=record,
    )
