"""Image and mask files to stored bytes: passed through where nothing changes, else PNG at native bit depth, or BMP."""

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import BadInputError, one_line
from ..limits import DEFAULT_LIMITS, InputLimits
from ..volumes.claims import check_image
from .columns import UNANNOTATED


PASSED_THROUGH = ("JPEG", "PNG", "MPO")  # an MPO file is a JPEG with a second image behind it
PALETTE_MODES = ("P", "PA")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I")
PNG_OPTIONS = {
    "compress_level": 1,
    "compress_type": zlib.Z_RLE,
}  # OCT: 2/3 of the usual time, photographs 1/6, no larger
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class StoredImage:
    """Bytes ready for an `Image` column; sizes are (height, width) as displayed, `raw_size` as stored in the file."""

    data: bytes
    original_size: tuple[int, int]
    raw_size: tuple[int, int]
    orientation: int


def encode_png(image: Image.Image | np.ndarray) -> bytes:
    """Encodes a PIL image, or an array (H, W) or (H, W, C) of uint8, or (H, W) of uint16, without loss."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **PNG_OPTIONS)
    return buffer.getvalue()


def encode_image(image: Image.Image, uncompressed: bool = False) -> bytes:
    """As `encode_png`; where `uncompressed`, 8-bit grey and RGB as BMP: decoded ten times as fast, three times as large."""
    if not (uncompressed and image.mode in ("L", "RGB")):
        return encode_png(image)
    buffer = io.BytesIO()
    image.save(buffer, format="BMP")
    return buffer.getvalue()


def open_stored(path: Path, limits: InputLimits = DEFAULT_LIMITS) -> tuple[bytes, Image.Image, int]:
    """Reads a whole image file and decodes it, so that damage shows now and not in training.

    Args:
        path: image file.
        limits: the largest image.

    Returns:
        The file's bytes, the image as displayed, and the EXIF orientation it was turned by.
    """
    try:
        data = path.read_bytes()
        image = Image.open(io.BytesIO(data))
        check_image(path, image.width, image.height, limits)
        # Not n_frames: to count them Pillow reads them all, of which there may be any number.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise BadInputError(f"{path}: holds several images, expected one; split it into single images")
        orientation = orientation_of(image)
        image.load()
    except (BadInputError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise what they meet: struct, key, index and type errors too
        # Pillow's own line names a memory address.
        reason = "not an image format" if isinstance(error, UnidentifiedImageError) else one_line(error, 160)
        raise BadInputError(f"{path}: no decoder takes it ({reason}); replace the file") from error
    # Pillow turns TIFF by itself while loading.
    turned = image if image.format == "TIFF" else apply_orientation(image, orientation)
    turned.format = image.format
    return data, turned, orientation


def store_image(
    path: Path,
    image_size: tuple[int, int] | None = None,
    limits: InputLimits = DEFAULT_LIMITS,
    uncompressed: bool = False,
) -> StoredImage:
    """Returns an image file as it will be stored.

    Args:
        path: image file that Pillow reads, 8 or 16 bits.
        image_size: (height, width) to squash the image to (bilinear); None keeps it.
        limits: the largest image.
        uncompressed: store what is encoded anew by `encode_image` without compression.

    Raises:
        BadInputError: no decoder takes the file, it holds several images, or its samples are not 8 or 16 bits.
    """
    data, image, orientation = open_stored(path, limits)
    displayed = image.height, image.width
    resized = image_size is not None and displayed != tuple(image_size)
    if resized or image.format not in PASSED_THROUGH:
        image = to_png_mode(image, path)
        data = encode_image(resize_stored(image, image_size) if resized else image, uncompressed)
    elif image.mode == "F":
        raise BadInputError(f"{path}: holds float samples, expected 8 or 16 bits; convert it to PNG")
    return StoredImage(data, displayed, raw_size=turned_size(displayed, orientation), orientation=orientation)


def to_png_mode(image: Image.Image, path: Path) -> Image.Image:
    """Returns the image in a mode that PNG holds, never with fewer bits."""
    if image.mode in SIXTEEN_BIT_MODES:
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise BadInputError(
                f"{path}: samples {samples.min()}..{samples.max()} do not fit 16 bits; rescale to 0..65535"
            )
        return Image.fromarray(samples.astype(np.uint16))
    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        return image
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "PA", "La", "RGBa", "RGBX"):
        return image.convert("RGBA" if image.mode in ("PA", "RGBa") else "RGB")
    raise BadInputError(f"{path}: samples of mode {image.mode!r} are not 8 or 16 bits; convert it to PNG")


def resize_stored(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Squashes to `size` (height, width), bilinear with anti-aliasing, at the image's own bit depth."""
    height, width = size
    if image.mode == "I;16":
        floats = Image.fromarray(np.asarray(image).astype(np.float32))
        resized = np.asarray(floats.resize((width, height), Image.Resampling.BILINEAR))
        return Image.fromarray(np.rint(resized).clip(0, 65535).astype(np.uint16))
    if image.mode in ("1", *PALETTE_MODES):  # indices cannot be mixed, colours can
        transparent = "transparency" in image.info
        image = image.convert("L" if image.mode == "1" else "RGBA" if transparent else "RGB")
    return image.resize((width, height), Image.Resampling.BILINEAR)


def read_mask(path: Path, image: StoredImage, limits: InputLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Returns the mask file's own values, (H, W), in the displayed orientation of its image.

    Raises:
        BadInputError: unreadable, in colour, or of another size than the image.
    """
    _, mask, own = open_stored(path, limits)
    if mask.mode == "1":
        mask = mask.convert("L")  # 0 and 255, as any viewer shows it
    if own == 1 and (mask.height, mask.width) == image.raw_size:
        mask = apply_orientation(mask, image.orientation)
    if (mask.height, mask.width) != image.original_size:
        (height, width) = image.original_size
        raise BadInputError(
            f"{path}: mask is {mask.width} x {mask.height}, its image {width} x {height} (width x height); "
            "export the mask at the image's size"
        )
    return _single_channel(np.asarray(mask), path)


def index_mask(values: np.ndarray, mask_values: Mapping[int, int], path: Path) -> np.ndarray:
    """Maps pixel values (H, W) to class indices, (H, W) uint8; an unlisted value is an error."""
    found, inverse = np.unique(values, return_inverse=True)
    unknown = [value.item() for value in found if value.item() not in mask_values]
    if unknown:
        listed = ", ".join(str(value) for value in mask_values)
        raise BadInputError(
            f"{path}: mask values {_shorten(unknown)} are unknown, expected only {listed}; correct the mask or the list"
        )
    table = np.array([mask_values[value.item()] for value in found], dtype=np.uint8)
    return table[inverse].reshape(values.shape)


def merge_masks(masks: Mapping[Path, np.ndarray]) -> np.ndarray:
    """Unites masks of one image: a class wins over 255 (not annotated), and that over background.

    Args:
        masks: file -> class indices and 255, (H, W) uint8, all of one shape.

    Raises:
        BadInputError: two files give a pixel different classes.
    """
    (first, merged), *others = masks.items()
    for path, mask in others:
        drawn = (mask != 0) & (mask != UNANNOTATED)
        clash = drawn & (merged != 0) & (merged != UNANNOTATED) & (merged != mask)
        if clash.any():
            raise BadInputError(
                f"{path}: {int(clash.sum())} pixels have another class than in {first.name} or a mask merged with it; a "
                "pixel has one class, so correct the masks"
            )
        merged = np.where(drawn | ((merged == 0) & (mask == UNANNOTATED)), mask, merged)
    return merged


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Squashes class indices (H, W) uint8 to `size`: each new pixel takes the class that covers most of it."""
    height, width = size
    classes = np.unique(mask)
    covers = [
        np.asarray(Image.fromarray((mask == index).astype(np.float32)).resize((width, height), Image.Resampling.BOX))
        for index in classes
    ]
    return classes[np.argmax(covers, axis=0)].astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (as stored) when there is none."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in TRANSPOSES else 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Turns a stored image to how EXIF says it is displayed."""
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Returns (height, width) as displayed from that as stored, and the other way round."""
    return size[::-1] if orientation >= 5 else size


def _single_channel(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim == 2:
        return values
    grey = values[..., 0]
    opaque = values.shape[-1] not in (2, 4) or (values[..., -1] == 255).all()
    colours = values[..., :3] if values.shape[-1] >= 3 else values[..., :1]
    if not opaque or (colours != grey[..., None]).any():
        raise BadInputError(f"{path}: mask is in colour, expected one grey or palette channel of class values")
    return grey


def _shorten(values: list[float]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"
