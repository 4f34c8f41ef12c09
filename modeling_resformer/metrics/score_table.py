"""The names of the scores, what they are called where, and which way is better: the one list that every table is made from.

What they mean and how they are computed stands in `scores.py`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScoreEntry:
    """One score.

    Attributes:
        name: in results; with `_` and a class behind it, that class alone.
        of: what it scores, masks or image-level classes.
        better: which way.
        title: in the model card's table of all scores.
        column: above the tables over seeds; None keeps it out of them.
        index: in the model card's index of results; None keeps it out of it.
        curve: in the learning curves; None keeps it out of them.
        by_class: whether the model card has it in its tables by class.
        main: whether it stands in headlines, and first among its like.
        where_present: whether it looks only where the truth holds the class.
        over_occurring: whether its mean runs over the classes that occur in the truth alone.
        in_mm3: whether it is no share but a volume.
        of_calibration: whether it says how true probabilities come.
    """

    name: str
    of: Literal["masks", "classes"]
    better: Literal["higher", "lower"]
    title: str
    column: str | None = None
    index: str | None = None
    curve: str | None = None
    by_class: bool = True
    main: bool = False
    where_present: bool = False
    over_occurring: bool = False
    in_mm3: bool = False
    of_calibration: bool = False

    @property
    def card_title(self) -> str:
        """The title with the name behind it."""
        return f"{self.title} (`{self.name}`)"


# fmt: off
SCORES = (
    ScoreEntry("dice", "masks", "higher", "Dice", main=True, over_occurring=True,
               column="Dice", index="Dice, per image, empty/empty = 1", curve="Dice"),
    ScoreEntry("jaccard", "masks", "higher", "Jaccard", main=True, over_occurring=True,
               column="Jaccard", index="Jaccard, per image, empty/empty = 1", curve="Jaccard"),
    ScoreEntry("dice_present", "masks", "higher", "Dice where the class occurs", where_present=True, over_occurring=True,
               column="Dice (present)", index="Dice where the class occurs", curve="Dice, class present"),
    ScoreEntry("jaccard_present", "masks", "higher", "Jaccard where the class occurs", where_present=True,
               over_occurring=True, column="Jaccard (present)"),
    ScoreEntry("dice_volume", "masks", "higher", "Dice by volume", over_occurring=True,
               column="Dice (volume)", index="Dice by volume"),
    ScoreEntry("volume_difference", "masks", "lower", "volume difference in mm³", by_class=False, in_mm3=True,
               column="Volume difference (mm3)"),
    ScoreEntry("false_positive_rate_empty", "masks", "lower", "predicted although absent"),
    ScoreEntry("mask_calibration_error", "masks", "lower", "expected calibration error of pixels",
               of_calibration=True),
    ScoreEntry("accuracy", "classes", "higher", "accuracy, micro",
               column="Accuracy", index="accuracy, micro", curve="accuracy"),
    ScoreEntry("sensitivity", "classes", "higher", "sensitivity, micro",
               column="Sensitivity", index="sensitivity, micro", curve="sensitivity"),
    ScoreEntry("specificity", "classes", "higher", "specificity, micro",
               column="Specificity", index="specificity, micro", curve="specificity"),
    ScoreEntry("balanced_accuracy", "classes", "higher", "balanced accuracy", by_class=False,
               column="Balanced accuracy", index="balanced accuracy", curve="balanced accuracy"),
    ScoreEntry("auc", "classes", "higher", "area under the ROC curve, mean", main=True,
               column="AUC", index="mean area under the ROC curve", curve="AUC, mean"),
    ScoreEntry("calibration_error", "classes", "lower", "expected calibration error",
               column="Calibration error", of_calibration=True),
    ScoreEntry("brier", "classes", "lower", "Brier score", column="Brier score", of_calibration=True),
)
# fmt: on
CALIBRATION_SCORES = tuple(score.name for score in SCORES if score.of_calibration)
MAIN_SCORES = tuple(score.name for score in SCORES if score.main)


def main_first(of: Literal["masks", "classes"]) -> list[ScoreEntry]:
    """The scores of masks or of image-level classes, the main ones before the others."""
    return sorted((score for score in SCORES if score.of == of), key=lambda score: not score.main)


def is_better_lower(name: str) -> bool:
    """Whether less is better of a score, by its name with or without a class; not of a loss or a name that is none."""
    lower = [score.name for score in SCORES if score.better == "lower"]
    return any(name == low or name.startswith(f"{low}_") for low in lower)
