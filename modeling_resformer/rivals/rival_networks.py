"""One small adapter a library: its network, and how masks and classes come out of it.

Each takes (B, 3, H, W) with H and W multiples of its `multiple`, and gives mask logits (B, S, H, W), or None, and class logits
(B, K), or None. What is computed is the library's own network, whose weights start as the library leaves them.
"""

import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import BadInputError, one_line
from .rival_names import FLAG, RivalName


INSTALL = "pip install 'modeling-resformer[benchmark]'"
HEADS_CHANNELS = 48  # of MONAI's SwinUNETR, as its authors' models have
DYN_FILTERS = (32, 64, 128, 256, 512, 512)  # nnU-Net's, in two dimensions
SEGFORMERS = {
    "segformer-b0": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "segformer-b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
}
UPERNET = "upernet-swin-tiny"

Logits = tuple[torch.Tensor | None, torch.Tensor | None]


class RivalNetwork(nn.Module):
    """What every adapter is: `network` is the library's own.

    Attributes:
        multiple: of which height and width have to be; images are padded to it on the right and bottom.
    """

    multiple = 32
    network: nn.Module

    def forward(self, pixel_values: torch.Tensor) -> Logits:
        raise NotImplementedError

    def pretrained_part(self) -> nn.Module:
        """The part that ImageNet weights are for, with timm's names where it is one of timm's."""
        raise NotImplementedError


class SmpNetwork(RivalNetwork):
    """segmentation_models_pytorch: the image-level head is the library's own, on the encoder's deepest map."""

    def __init__(self, name: RivalName, mask_classes: int | None, image_classes: int | None) -> None:
        super().__init__()
        library = _imported("segmentation_models_pytorch", name)
        architecture = getattr(library, name.network, None)
        if not isinstance(architecture, type) or not issubclass(architecture, nn.Module):
            raise BadInputError(
                f"{FLAG} {name}: segmentation_models_pytorch has no {name.network}; expected one, as Unet."
            )
        encoder = name.encoder if name.lite_start is None else f"tu-{_lite(name.encoder)}"
        head = None if image_classes is None else {"classes": image_classes, "pooling": "avg"}
        with _named(name):
            self.network = architecture(encoder, encoder_weights=None, classes=mask_classes, aux_params=head)

    def forward(self, pixel_values: torch.Tensor) -> Logits:
        found = self.network(pixel_values)
        return found if isinstance(found, tuple) else (found, None)

    def pretrained_part(self) -> nn.Module:
        return getattr(self.network.encoder, "model", self.network.encoder)


class MonaiNetwork(RivalNetwork):
    """MONAI's networks for masks, in two dimensions; `UNETR` is made for one size of image."""

    def __init__(self, name: RivalName, mask_classes: int, size: int) -> None:
        super().__init__()
        nets = _imported("monai.networks.nets", name)
        with _named(name):
            if name.network == "SwinUNETR":
                self.network = nets.SwinUNETR(3, mask_classes, feature_size=HEADS_CHANNELS, spatial_dims=2)
            elif name.network == "UNETR":
                side = -(-size // self.multiple) * self.multiple
                self.network = nets.UNETR(3, mask_classes, side, spatial_dims=2)
            elif name.network == "DynUNet":
                down = [1, *[2] * (len(DYN_FILTERS) - 1)]
                self.network = nets.DynUNet(2, 3, mask_classes, [3] * len(down), down, down[1:], DYN_FILTERS)
            else:
                raise ValueError("MONAI's is none of SwinUNETR, UNETR, DynUNet")

    def forward(self, pixel_values: torch.Tensor) -> Logits:
        return self.network(pixel_values), None

    def pretrained_part(self) -> nn.Module:
        raise BadInputError(f"{FLAG} monai: there are no ImageNet weights for it; leave --pretrained out.")


class TransformersNetwork(RivalNetwork):
    """SegFormer and UPerNet with Swin-T of transformers; classes by a linear layer on the mean of the deepest map."""

    def __init__(self, name: RivalName, mask_classes: int, image_classes: int | None) -> None:
        super().__init__()
        import transformers

        if name.network in SEGFORMERS:
            config = transformers.SegformerConfig(**SEGFORMERS[name.network], num_labels=mask_classes)
            self.network, width = transformers.SegformerForSemanticSegmentation(config), config.hidden_sizes[-1]
        elif name.network == UPERNET:
            stages = ["stage1", "stage2", "stage3", "stage4"]
            swin = transformers.SwinConfig(out_features=stages)
            config = transformers.UperNetConfig(
                backbone_config=swin, use_auxiliary_head=False, num_labels=mask_classes
            )
            self.network, width = transformers.UperNetForSemanticSegmentation(config), swin.embed_dim * 8
        else:
            raise BadInputError(f"{FLAG} {name}: expected one of transformers/{', '.join([*SEGFORMERS, UPERNET])}.")
        self.classifier = None if image_classes is None else nn.Linear(width, image_classes)
        self._deepest: list[torch.Tensor] = []
        inner = self.network.segformer if name.network in SEGFORMERS else self.network.backbone
        inner.register_forward_hook(self._keep_deepest)

    def _keep_deepest(self, module: nn.Module, given: tuple, output: object) -> None:
        maps = getattr(output, "feature_maps", None)
        self._deepest = [output[0] if maps is None else maps[-1]]

    def forward(self, pixel_values: torch.Tensor) -> Logits:
        logits = self.network(pixel_values).logits
        masks = F.interpolate(logits, pixel_values.shape[-2:], mode="bilinear", align_corners=False)
        deepest = self._deepest.pop()
        return masks, None if self.classifier is None else self.classifier(deepest.mean((2, 3)))

    def pretrained_part(self) -> nn.Module:
        raise BadInputError(f"{FLAG} transformers: starts from random weights here; leave --pretrained out.")


class TimmNetwork(RivalNetwork):
    """A classifier of timm as it is, at any size of image that it takes."""

    def __init__(self, name: RivalName, image_classes: int, size: int) -> None:
        super().__init__()
        timm = _imported("timm", name)
        network = name.network if name.lite_start is None else _lite(name.network)
        if not timm.is_model(network.partition(".")[0]):
            raise BadInputError(f"{FLAG} {name}: timm has no such network; expected one of its classifiers.")
        side = -(-size // self.multiple) * self.multiple
        sized = {"img_size": side} if network.startswith(("swin", "vit", "deit")) else {}
        with _named(name):
            self.network = timm.create_model(network, num_classes=image_classes, **sized)

    def forward(self, pixel_values: torch.Tensor) -> Logits:
        logits = self.network(pixel_values)
        return None, logits[0] if isinstance(logits, tuple) else logits

    def pretrained_part(self) -> nn.Module:
        return self.network


def build_network(name: RivalName, mask_classes: int | None, image_classes: int | None, size: int) -> RivalNetwork:
    """A rival's network from random weights.

    Args:
        name: of the rival.
        mask_classes: S, None without masks.
        image_classes: K, None without image-level classes.
        size: side in pixels of the images, which some networks are made for.

    Raises:
        BadInputError: there is no such network, or its library is not installed.
    """
    if name.library == "smp":
        return SmpNetwork(name, mask_classes, image_classes)
    if name.library == "monai":
        return MonaiNetwork(name, mask_classes, size)
    if name.library == "transformers":
        return TransformersNetwork(name, mask_classes, image_classes)
    return TimmNetwork(name, image_classes, size)


def _lite(name: str) -> str:
    return f"tf_efficientnet_lite{name[-1]}"


def _imported(module: str, name: RivalName) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadInputError(f"{FLAG} {name}: {module} is not installed; run: {INSTALL}") from error


class _named:
    """A library's own complaint as one line."""

    def __init__(self, name: RivalName) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | ValueError | RuntimeError | AssertionError) and not isinstance(
            error, BadInputError
        ):
            raise BadInputError(f"{FLAG} {self.name}: {one_line(error, 200)}.") from error
