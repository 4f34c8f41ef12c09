"""The options that training and evaluation share: how large images are, and how results are scored."""

from dataclasses import dataclass, field


@dataclass
class ScoringOptions:
    """Their fields, as flags."""

    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels that images are squashed to; default the processor's own."}
    )
    auc_classes: list[str] = field(
        default_factory=list, metadata={"help": "Classes whose mean AUC is reported besides that of all classes."}
    )
    bootstrap_samples: int = field(
        default=1000, metadata={"help": "Resamplings behind each interval of the results; 0 for no intervals."}
    )
    group_by: str | None = field(
        default=None,
        metadata={
            "metavar": "COLUMN",
            "help": "Column whose values get scores of their own; default vendor, where the dataset has it.",
        },
    )
    per_case_format: str = field(default="csv", metadata={"help": "Format of the lines per image: csv or parquet."})
