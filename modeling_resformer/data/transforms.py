"""Random augmentation of an image together with its mask. Resizing and normalising are the processor's.

Rotation, flips, scale and shift are one affine map, so every image is interpolated once; brightness, contrast and
saturation are one linear map of its colours. Pillow does both: rotation and flips at 256 x 256 on one core measured 660 pairs a
second, torchvision v2 on tensors 370 and on Pillow images 650, and Pillow is there in any case.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageStat


# What red, green and blue add to the grey of an image (ITU-R BT.601), as torchvision and Pillow weigh them.
GREY_WEIGHTS = (0.299, 0.587, 0.114)
BORDERS = ("mean", "reflect")


class Change(NamedTuple):
    """What happens to one image: angle counter-clockwise in degrees, flips, factors where 1 changes nothing, and shifts
    to the right and down as shares of its width and height.
    """

    angle: float = 0.0
    horizontal: bool = False
    vertical: bool = False
    scale: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    right: float = 0.0
    down: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image; by default nothing.

    Args:
        rotation_degrees: the angle is uniform in [-rotation_degrees, rotation_degrees]; 0 turns it off.
        horizontal_flip: probability of a left-right flip.
        vertical_flip: probability of an upside-down flip.
        scale_jitter: the image is magnified by a factor between 1 / (1 + scale_jitter) and 1 + scale_jitter.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor uniform in
            [1 - color_jitter, 1 + color_jitter], as torchvision's `ColorJitter` defines them.
        shift: the image moves by a share of its width and height, each uniform in [-shift, shift].
        border: what lies beyond an image's edge. "mean": its mean colour, which nobody annotated; "reflect": the image and
            its mask, mirrored at the edge.
    """

    rotation_degrees: float = 0.0
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    scale_jitter: float = 0.0
    color_jitter: float = 0.0
    shift: float = 0.0
    border: str = "mean"

    def __post_init__(self) -> None:
        if self.border not in BORDERS:
            raise ValueError(f"border is {self.border!r}; expected {' or '.join(BORDERS)}.")
        limits = {
            "rotation_degrees": 180,
            "horizontal_flip": 1,
            "vertical_flip": 1,
            "scale_jitter": 1,
            "color_jitter": 1,
            "shift": 0.5,
        }
        for name, highest in limits.items():
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number from 0 to {highest}.")

    def __str__(self) -> str:
        parts = {
            f"rotation by up to {self.rotation_degrees:g} degrees": self.rotation_degrees,
            f"left-right flip with probability {self.horizontal_flip:g}": self.horizontal_flip,
            f"upside-down flip with probability {self.vertical_flip:g}": self.vertical_flip,
            f"scale by up to {1 + self.scale_jitter:g}": self.scale_jitter,
            f"shift by up to {self.shift:.0%}": self.shift,
            f"brightness, contrast and saturation by up to {self.color_jitter:.0%}": self.color_jitter,
            "reflected borders": self.border == "reflect" and self._moves,
        }
        return ", ".join(words for words, strength in parts.items() if strength) or "none"

    @property
    def _moves(self) -> bool:
        return bool(self.rotation_degrees or self.scale_jitter or self.shift)

    def draw(self, seed: int, epoch: int, row_index: int) -> Change:
        """What happens to a row: a pure function of the three numbers.

        No generator is carried from row to row, so that neither workers nor a resumed run change what a row looks like.
        """
        draws = np.random.default_rng((seed, epoch, row_index)).random(9)
        angle, horizontal, vertical, scale, *colors, right, down = draws.tolist()
        return Change(
            (2 * angle - 1) * self.rotation_degrees,
            horizontal < self.horizontal_flip,
            vertical < self.vertical_flip,
            (1 + self.scale_jitter) ** (2 * scale - 1),
            *(1 + (2 * color - 1) * self.color_jitter for color in colors),
            (2 * right - 1) * self.shift,
            (2 * down - 1) * self.shift,
        )


# What leaves an image of its kind: the defaults of a training. Of any other kind nothing is known, so nothing is done.
AUGMENTATIONS: Mapping[str, Augmentation] = {
    # The dermatoscope is put on the skin at any angle, and a lesion has no left or right.
    "dermoscopy": Augmentation(rotation_degrees=180, horizontal_flip=0.5, vertical_flip=0.5),
    # The mirror image is the other eye; the retina tilts with the beam, but the vitreous stays above it.
    "oct": Augmentation(rotation_degrees=15, horizontal_flip=0.5),
    # The mirror image is the other eye; a head tilts a little, and cameras are upright.
    "fundus": Augmentation(rotation_degrees=15, horizontal_flip=0.5),
    # The probe can be held the other way round; shadows fall straight away from it, so that a turned image is none.
    "ultrasound": Augmentation(horizontal_flip=0.5),
    # A section lies on the slide as it fell.
    "histology": Augmentation(rotation_degrees=180, horizontal_flip=0.5, vertical_flip=0.5),
}


def default_augmentation(modality: str | None) -> Augmentation:
    """What a training does to images of a kind unless told otherwise; nothing where the kind is not in the table."""
    return AUGMENTATIONS.get(modality or "", Augmentation())


def augment(
    image: Image.Image,
    mask: Image.Image | None,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    row_index: int,
    ignore_index: int = 255,
) -> tuple[Image.Image, Image.Image | None]:
    """Rotate, flip, scale and shift an image and its mask alike, about the centre, keeping the size; change its colours.

    What that uncovers beyond the edge is the image and its mask mirrored there, or has the image's mean colour and, in
    the mask, `ignore_index`: nobody annotated what lies there, and "background" would teach a straight false border
    wherever a lesion reaches the edge.

    Args:
        image: image (H, W) of any mode, 16-bit grey included.
        mask: index mask (H, W), or None where unlabelled; nearest neighbour, so no new values but `ignore_index`.
        augmentation: what may happen.
        seed: of the run.
        epoch: from 0.
        row_index: position of the row in the training split.
        ignore_index: value of pixels that nobody annotated.

    Returns:
        The new image and mask; palettes come back as RGB(A), 16-bit grey as 32-bit integers with the same values.

    Raises:
        ValueError: image and mask differ in size.
    """
    if mask is not None and mask.size != image.size:
        raise ValueError(f"The image is {image.size}, its mask {mask.size} (width, height); both must be equal.")
    change = augmentation.draw(seed, epoch, row_index)
    image = _recolored(_interpolable(image), change)
    fill = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    size, matrix = image.size, _inverse_matrix(change, *image.size)
    if augmentation.border == "reflect":
        margins = _margins(matrix, *size)
        matrix = _moved(matrix, *margins)
        image = _mirrored(image, *margins)
        mask = None if mask is None else _mirrored(mask, *margins)
    affine = Image.Transform.AFFINE
    image = image.transform(size, affine, matrix, Image.Resampling.BILINEAR, fillcolor=fill)
    if mask is not None:
        mask = mask.transform(size, affine, matrix, Image.Resampling.NEAREST, fillcolor=ignore_index)
    return image, mask


def _inverse_matrix(change: Change, width: int, height: int) -> tuple[float, float, float, float, float, float]:
    """The six numbers Pillow wants: from a place in the new image to the place in the old one."""
    cos, sin = math.cos(math.radians(change.angle)), -math.sin(math.radians(change.angle))
    x_step, y_step = (1 - 2 * change.horizontal) / change.scale, (1 - 2 * change.vertical) / change.scale
    a, b, d, e = x_step * cos, x_step * sin, -y_step * sin, y_step * cos
    x, y = width / 2, height / 2
    right, down = x + change.right * width, y + change.down * height
    return a, b, x - a * right - b * down, d, e, y - d * right - e * down


def _margins(matrix: tuple[float, ...], width: int, height: int) -> tuple[int, int]:
    """How far the new image looks beyond the old one, in pixels beside and above or below it."""
    a, b, c, d, e, f = matrix
    corners = [(x, y) for x in (0, width) for y in (0, height)]
    beside = max(max(-column, column - width) for column in (a * x + b * y + c for x, y in corners))
    above = max(max(-row, row - height) for row in (d * x + e * y + f for x, y in corners))
    # One pixel more for what the interpolation takes in.
    return max(0, math.ceil(beside) + 1), max(0, math.ceil(above) + 1)


def _moved(matrix: tuple[float, ...], beside: int, above: int) -> tuple[float, ...]:
    """The map into an image that has grown by margins."""
    a, b, c, d, e, f = matrix
    return a, b, c + beside, d, e, f + above


def _mirrored(image: Image.Image, beside: int, above: int) -> Image.Image:
    """An image with margins that mirror it, as often as it takes."""
    values = np.asarray(image)
    margins = ((above, above), (beside, beside), (0, 0))[: values.ndim]
    return Image.fromarray(np.pad(values, margins, mode="symmetric"))


def _recolored(image: Image.Image, change: Change) -> Image.Image:
    """Brightness, then contrast about the mean grey, then saturation, all linear and so one map of the colours."""
    brightness, contrast, saturation = change.brightness, change.contrast, change.saturation
    if brightness == contrast == saturation == 1:
        return image
    if image.mode in ("RGBA", "LA"):
        recolored = _recolored(image.convert(image.mode[:-1]), change)
        recolored.putalpha(image.getchannel("A"))
        return recolored
    gain, offset = brightness * contrast, brightness * (1 - contrast)
    if image.mode in ("L", "I"):
        values = np.asarray(image).astype(np.float32)
        highest = np.iinfo(np.uint8 if image.mode == "L" else np.uint16).max
        changed = np.clip(values * gain + offset * values.mean(), 0, highest).round()
        return Image.fromarray(changed.astype(np.uint8 if image.mode == "L" else np.int32))
    image = image.convert("RGB")
    mean = ImageStat.Stat(image.convert("L")).mean[0]
    mixing = saturation * np.eye(3) + (1 - saturation) * np.array(GREY_WEIGHTS)
    return image.convert("RGB", np.column_stack([gain * mixing, np.full(3, offset * mean)]).ravel().tolist())


def _interpolable(image: Image.Image) -> Image.Image:
    """Modes that Pillow can interpolate: its bilinear result is wrong for 16-bit grey and undefined for palettes."""
    if image.mode.startswith("I;16"):
        return image.convert("I")
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image.convert("L") if image.mode == "1" else image
