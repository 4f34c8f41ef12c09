"""The options of an evaluation, and those of them that training has too, by the standard library alone."""

from dataclasses import dataclass, field

from ..flags import MODEL


@dataclass
class ScoringOptions:
    """How large images are, and how results are scored: what training and evaluation share."""

    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels that images are resized to; default the processor's own."}
    )
    keep_aspect_ratio: bool | None = field(
        default=None,
        metadata={
            "help": "Fit images into that square and pad them, instead of squashing them; default as the checkpoint's "
            "processor does, else squashed."
        },
    )
    keep_largest_component: bool | None = field(
        default=None,
        metadata={
            "help": "Leave of each predicted mask class but the largest connected part, in scores and ever after; default as "
            "the checkpoint's processor does, else everything."
        },
    )
    auc_classes: list[str] = field(
        default_factory=list, metadata={"help": "Classes whose mean AUC is reported besides that of all classes."}
    )
    bootstrap_samples: int = field(
        default=1000, metadata={"help": "Resamplings behind each interval of the results; 0 for no intervals."}
    )
    splits: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "CSV with case_id,split for every case, in place of the splits that --dataset was prepared with.",
        },
    )
    group_by: str | None = field(
        default=None,
        metadata={
            "metavar": "COLUMN",
            "help": "Column whose values get scores of their own; default vendor, where the dataset has it.",
        },
    )
    per_case_format: str = field(default="csv", metadata={"help": "Format of the lines per image: csv or parquet."})


@dataclass
class EvaluationOptions(ScoringOptions):
    """What is evaluated, on what, and where the results go."""

    @property
    def fits(self) -> list[str]:
        """The flags that ask for something to be fitted on the validation split."""
        asked = {
            "--choose_thresholds": self.choose_thresholds,
            "--calibrate": self.calibrate,
            "--label_sets": self.label_sets is not None,
            "--fit_confidence": self.fit_confidence,
        }
        return [flag for flag, given in asked.items() if given]

    model_name_or_path: str | None = field(
        default=None,
        metadata={"aliases": ["--model"], "metavar": MODEL, "help": "Checkpoint folder or Hub id."},
    )
    dataset: str | None = field(
        default=None, metadata={"metavar": "FOLDER", "help": "Folder that scripts/prepare_*.py wrote."}
    )
    output: str | None = field(
        default=None, metadata={"metavar": "FOLDER", "help": "Folder for results.json and per_case.csv."}
    )
    split: str = field(default="test", metadata={"help": "Split of the dataset to evaluate."})
    task: str | None = field(
        default=None,
        metadata={"help": "multi_task, segmentation or classification; default what the checkpoint was trained for."},
    )
    choose_thresholds: bool = field(
        default=False,
        metadata={
            "help": "First choose the decision threshold of each image-level class, by balanced accuracy on the "
            "validation split, and write them to the checkpoint's config."
        },
    )
    sensitivity: float | None = field(
        default=None,
        metadata={
            "metavar": "SHARE",
            "help": "With --choose_thresholds: the highest thresholds that find this share of the validation images with "
            "each class, such as 0.9, instead of balanced accuracy.",
        },
    )
    subgroups: list[str] = field(
        default_factory=list,
        metadata={
            "metavar": "COLUMN",
            "help": "Columns, such as sex and age, by whose values scores are told besides, with the largest gap; numbers "
            "are cut into thirds.",
        },
    )
    robustness: bool = field(
        default=False,
        metadata={
            "help": "Also evaluate with spoilt images (noise, blur, JPEG, gamma, hair, ruler, vignette at five strengths): "
            "36 evaluations, for robustness.json and robustness.png. A run that was stopped goes on."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={
            "help": "First fit the calibration of class scores and masks on the validation split, and write it to the "
            "checkpoint's config."
        },
    )
    label_sets: float | None = field(
        default=None,
        metadata={
            "metavar": "LEVEL",
            "help": "First choose, on the validation split, which scores put a class into an image's label set, so that "
            "a class that is present is in it with this chance, such as 0.9; written to the checkpoint's config.",
        },
    )
    fit_confidence: bool = field(
        default=False,
        metadata={
            "help": "First fit how far images lie from those of the training split, and how often answers are right on "
            "the validation split, and write both to the checkpoint: `confidence`, `flags` and `doubt` of each answer."
        },
    )
    raw_masks: str | None = field(
        default=None,
        metadata={
            "metavar": "FOLDER",
            "help": "Folder of the source's own mask files, named by case; scores are then computed at their size, not "
            "at that of the dataset's masks.",
        },
    )
    raw_mask_values: str | None = field(
        default=None,
        metadata={
            "help": "What the values of --raw_masks mean; default 0=background,255=CLASS for one foreground class, class "
            "indices for several."
        },
    )
    predictions: str | None = field(
        default=None,
        metadata={
            "metavar": "FOLDER",
            "help": "Folder of masks that another program predicted, in place of --model: CASE.png, CASE_SLICE.png, or "
            "CASE.nii.gz and the like for volumes.",
        },
    )
    prediction_values: str | None = field(
        default=None,
        metadata={
            "help": "What the values of --predictions mean; default as --raw_mask_values, and class indices besides."
        },
    )
    scores: str | None = field(
        default=None,
        metadata={
            "metavar": "CSV",
            "help": "Scores in 0..1 that another program gave the image-level classes: case_id, slice_index where a case has "
            "several images, and a column a class by its name. With --predictions or alone.",
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Images a forward pass, on each process."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read images, beside each process."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads of torch on the CPU; default torch's own."}
    )
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU although there is an accelerator."})

    @property
    def is_by_others(self) -> bool:
        """Whether what another program answered is evaluated, and no model."""
        return self.predictions is not None or self.scores is not None
