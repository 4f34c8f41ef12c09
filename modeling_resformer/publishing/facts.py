"""What a run recorded of itself; the one place that knows where in its files a fact stands."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..configuration_resformer import ResFormerConfig
from ..data.fold_folders import FOLDS_NAME, read_fold_folders
from ..data.splits import totals
from ..data.transforms import Augmentation
from ..errors import BadInputError
from ..metrics.scores import figure
from .card_text import CARD_TEXT_NAME, CardText, read_card_text
from .known_datasets import SYNTHETIC, UNKNOWN, Source, source_named
from .repository_checks import RESULTS_NAME, RUN_NAME, read_config, read_json


logger = logging.getLogger(__name__)

NOT_RECORDED = "not recorded"
# Runs record every field; those of before left out what had these values, the defaults of that time for any data.
FORMER_AUGMENTATION = {
    "rotation_degrees": 180.0,
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "scale_jitter": 0.0,
    "color_jitter": 0.0,
    "shift": 0.0,
    "border": "mean",
}
TASKS = {
    "ResFormerForMultiTask": "multi_task",
    "ResFormerForSemanticSegmentation": "segmentation",
    "ResFormerForImageClassification": "classification",
}


def needs_timm(config: ResFormerConfig) -> bool:
    """Whether a model's backbone is one of timm's."""
    return config.backbone_config is not None and config.backbone_config.model_type == "timm_backbone"


@dataclass(frozen=True)
class Interval:
    """A score with the ends of its interval, None where there is none, and the number it was computed from."""

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return figure(self.value)
        return f"{figure(self.value)} ({figure(self.low)} to {figure(self.high)})"


@dataclass(frozen=True)
class Facts:
    """A run's own record.

    Attributes:
        config: of the model.
        preprocessor: `preprocessor_config.json`.
        results: `results.json`.
        record: `run.json`; empty where the run left none.
        text: what the owner says of it in `card.yaml`.
        synthetic: the data are made up in the layout of those recorded; the card then speaks of made-up data.
        folds: `folds.json` of a cross-validation on the same data, with `weights_of_fold` (None for weights that are of no
            fold) and `differing` (settings in which the folds are unlike the run); empty where there was none.
    """

    config: ResFormerConfig
    preprocessor: Mapping[str, Any]
    results: Mapping[str, Any]
    record: Mapping[str, Any]
    text: CardText = field(default_factory=CardText)
    synthetic: bool = False
    folds: Mapping[str, Any] = field(default_factory=dict)

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
    def known_source(self) -> Source:
        """What this project knows of the dataset, whatever the owner says: by this it is decided what may be shown."""
        return source_named(self.recorded("dataset", "source"))

    @property
    def source(self) -> Source:
        """What is known of the dataset, in the owner's words where there are any."""
        known, text = self.known_source, self.text
        if self.synthetic:
            known = replace(SYNTHETIC, weights_licence=known.weights_licence)
        return replace(
            known,
            modality=text.modality or known.modality,
            limits=text.limits or known.limits,
            unseen=text.fails_on or known.unseen,
            citation=text.citation or known.citation,
            tags=(*known.tags, *text.tags),
            weights_licence=text.weights_licence or known.weights_licence,
        )

    @property
    def provenance_is_known(self) -> bool:
        """Whether the run recorded a dataset that this project knows."""
        return self.known_source is not UNKNOWN

    @property
    def dataset_name(self) -> str | None:
        """What the dataset is called, by its owner where they say so; None where that is not recorded."""
        if self.synthetic:
            return self.text.dataset_name or SYNTHETIC.title
        known = self.known_source.title if self.provenance_is_known else self.recorded("dataset", "name")
        return self.text.dataset_name or known

    @property
    def dataset_title(self) -> str:
        """The dataset in words."""
        if self.dataset_name is None:
            return f"a dataset that is {NOT_RECORDED}"
        named = self.synthetic or self.provenance_is_known or self.text.dataset_name is not None
        return self.dataset_name if named else f"`{self.dataset_name}`, a dataset of its owner's"

    @property
    def dataset_identifier(self) -> str:
        """A name for the dataset where it is not on the Hub: lower-case, in one word."""
        name = self.recorded("dataset", "source") if self.provenance_is_known else self.dataset_name
        return re.sub(r"[^a-z0-9._]+", "-", (name or "").lower()).strip("-") or "unknown"

    @property
    def data_licence(self) -> str:
        """Licence of the data, in words."""
        if self.synthetic:
            return self.text.data_licence or SYNTHETIC.licence
        known = self.known_source.licence if self.provenance_is_known else self.recorded("dataset", "licence")
        return self.text.data_licence or known or NOT_RECORDED

    @property
    def volumes(self) -> bool:
        """Whether its images are slices of volumes."""
        return self.recorded("dataset", "source") == "retouch" or self.recorded("dataset", "modality") == "oct"

    @property
    def kept_apart(self) -> str:
        """How the images that were tested stood to training, as far as that is known."""
        split, rows = (
            self.results.get("split"),
            self.recorded("dataset", "splits", str(self.results.get("split")), "rows"),
        )
        if split in ("train", "validation"):
            return "which took part in training or selection, so that these figures **flatter**"
        tested = self.results.get("images", 0) + self.results.get("unannotated", 0)
        if split == "test" and rows is not None and rows == tested:
            return f"which took no part in training or selection{self._near_duplicates}"
        return f"of which it is {NOT_RECORDED} whether they took part in training or selection"

    @property
    def _near_duplicates(self) -> str:
        """What is known of near-duplicates of the tested images, to go on after "took no part in training"."""
        found = self.recorded("dataset", "near_duplicates", "pictures", str(self.results.get("split")))
        if found is None and None not in (self.folds.get("weights_of_fold"), self.folds.get("near_duplicates")):
            found = 0  # folds keep them together
        if found is None:
            return " (near-duplicates: not checked)"
        return (
            f", though {found} of them have near-duplicates that did" if found else ", nor did near-duplicates of them"
        )

    @property
    def augmentation(self) -> Augmentation | None:
        """What happened to training images; None where there is no record."""
        settings = self.recorded("settings")
        if settings is None:
            return None
        return Augmentation(**{name: settings.get(name, former) for name, former in FORMER_AUGMENTATION.items()})

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that images are resized to."""
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


def read_facts(run: Path, card_text: Path | None = None, folds: Path | None = None) -> Facts:
    """Reads what a run left behind, and what its owner says of it.

    Args:
        run: the folder.
        card_text: the owner's text; by default `card.yaml` of the run, where there is one.
        folds: folder of a cross-validation; by default what an earlier push left of one beside the model.

    Raises:
        BadInputError: a file is broken.
    """
    record = read_json(run / RUN_NAME) if (run / RUN_NAME).is_file() else {}
    text = find_card_text(run, card_text)
    return Facts(
        config=read_config(run),
        preprocessor=read_json(run / "preprocessor_config.json"),
        results=read_json(run / RESULTS_NAME),
        record=record,
        text=text,
        folds=read_folds(run, record, folds),
    )


def read_folds(run: Path, record: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """What a cross-validation found, and how the run stands to it; empty where there is none.

    Raises:
        BadInputError: it is not finished, or was of other data than the run.
    """
    path = (folder or run) / FOLDS_NAME
    found = read_json(path) if path.is_file() else {}
    if folder is None and (not found or "weights_of_fold" in found):
        return found
    folder = folder or run
    if found.get("pooled") is None:
        raise BadInputError(f"--folds {folder}: holds no finished folds; run scripts/train_folds.py to its end")
    check_same_data(f"--folds {folder}", found.get("dataset") or {}, str(run), record.get("dataset") or {})
    members = [one.resolve() for one in read_fold_folders(folder)]
    return found | {
        "weights_of_fold": members.index(run.resolve()) if run.resolve() in members else None,
        "differing": differences(found["settings"], record.get("settings") or {}),
    }


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Settings that are not the same, but seed and log, with both values where these are numbers or words."""
    told = []
    for name in sorted({*theirs, *ours} - {"seed"}):
        values = theirs.get(name), ours.get(name)
        if values[0] != values[1] and not name.startswith("logging_"):
            shown = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
            is_short = all(isinstance(one, int | float | str) for one in values)
            told.append(f"{name} ({shown[0]} in place of {shown[1]})" if is_short else name)
    return told


def check_same_data(folds_name: str, of_folds: Mapping[str, Any], run_name: str, of_run: Mapping[str, Any]) -> None:
    """Refuses folds of other data than a run's.

    The fingerprint of a source goes by the dates of its files, so that of copies all that was counted must agree.

    Raises:
        BadInputError: naming what differs.
    """
    theirs, ours = of_folds.get("fingerprint"), of_run.get("fingerprint")
    if theirs == ours:
        return
    counted, here = of_folds.get("totals"), totals(of_run.get("splits") or {})
    if not counted or counted != here:
        names = sorted(name for name in {*(counted or {}), *here} if (counted or {}).get(name) != here.get(name))
        raise BadInputError(
            f"{folds_name}: was of other data (fingerprint {theirs}, other {', '.join(names)}) than {run_name} ({ours}); "
            "expected folds of the same"
        )
    logger.warning(
        "%s: the files of its data have other dates than those of %s; taken for copies, since all counts of images, cases "
        "and classes agree.",
        *(folds_name, run_name),
    )


def find_card_text(run: Path, given: Path | None = None) -> CardText:
    """The owner's text of `given`, else of the run's `card.yaml`; an empty one where there is none."""
    path = given or run / CARD_TEXT_NAME
    return read_card_text(path) if given or path.exists() else CardText()
