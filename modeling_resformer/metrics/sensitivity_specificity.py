"""`counts.py` and `scores.py` for image-level classes as an `evaluate.Metric`, for code that speaks that library."""

import tempfile
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from .scores import classification_scores


_DESCRIPTION = "Accuracy, sensitivity, specificity (micro), AUC and calibration error of image-level classes."
_INPUTS = """
Args:
    predictions: (N, K) probabilities in [0, 1].
    references: (N, K) 1 present, 0 absent, negative where unknown.
    thresholds: for compute() only; a class is decided present at or above it, one number or K, default 0.5;
        None for classes that exclude each other, of which the highest probability decides.
    auc_classes: for compute() only; classes whose mean AUC is wanted besides that of all classes.
Returns:
    The score of every name in scores.py as a float, and under `n` the number of entries behind each: those with
    the class for sensitivity, those without it for specificity.
"""


class SensitivitySpecificity(evaluate.Metric):
    """`SensitivitySpecificity(["melanoma", "nevus"]).compute(predictions=p, references=y)["sensitivity"]`.

    Args:
        class_names: K names.
        cache_dir: where the probabilities wait for compute(); a private temporary folder by default.
    """

    def __init__(self, class_names: Sequence[str], cache_dir: str | None = None) -> None:
        self.class_names = list(class_names)
        self._temporary = tempfile.TemporaryDirectory() if cache_dir is None else None
        super().__init__(cache_dir=cache_dir or self._temporary.name)

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        thresholds: Sequence[float] | float | None = 0.5,
        auc_classes: Sequence[str] = (),
    ) -> dict[str, float | dict[str, int]]:
        rows = np.arange(len(predictions))
        scores = classification_scores(
            np.array(predictions), np.array(references), rows, self.class_names, thresholds, auc_classes
        )
        return {
            **{name: score.value for name, score in scores.items()},
            "n": {name: score.n for name, score in scores.items()},
        }
