# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""Image processing for ResFormer with Pillow and NumPy, and what both back ends share.

Images become RGB float32, squashed to `size` (the paper's resize) or fitted into it and padded, divided by the maximum of
their bit depth and normalised; masks are resized to nearest and stay integers. The torchvision back end differs in
resizing only.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.utils import get_session
from PIL import Image, ImageOps
from transformers import BatchFeature, PilBackend
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, logging


if TYPE_CHECKING:
    # Never runs; saving and loading by `trust_remote_code` follow it and take the other back end's file along.
    from .image_processing_resformer import ResFormerImageProcessor  # noqa: F401

logger = logging.get_logger(__name__)

AUTO_MAP = {
    "AutoImageProcessor": {
        "torchvision": "image_processing_resformer.ResFormerImageProcessor",
        "pil": "image_processing_pil_resformer.ResFormerImageProcessorPil",
    }
}
# Every image is brought to this scale first, so that `rescale_factor` means the same at every bit depth.
SCALE_MAXIMUM = 255
EXIF_ORIENTATION = 0x0112
STORED_ORIENTATION = "resformer_stored_orientation"
TIFF_TILE_WIDTH, TIFF_TILE_LENGTH = 322, 323
MOST_ROWS_SKIPPED = 255  # by one code of a run-length encoded BMP
DOWNLOAD_SECONDS = 30
COMPONENT_GRID = 256
MOST_SIDE, MOST_CHANNELS = 1 << 14, 1024
MAX_PIXELS = 100_000_000  # of an image in a file; some twenty bytes of memory each while it is read
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


class ResFormerImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    intensity_range (`list[float]`, *optional*):
        Lowest and highest stored value, mapped to 0 and 1; values outside are clipped. By default the range of the
        stored type: 0..255 or 0..65535 for integers, and 0..255 for floats.
    keep_aspect_ratio (`bool`, *optional*, defaults to `False`):
        Whether to resize images so that they fit into `size` and to pad them to it, instead of squashing them.
    ignore_index (`int`, *optional*, defaults to 255):
        Value of the padding in masks.
    keep_largest_component (`bool`, *optional*, defaults to `False`):
        Whether post-processing leaves of each mask class but the largest connected part.
    """

    intensity_range: list[float | int] | tuple[float | int, ...] | None
    keep_aspect_ratio: bool
    ignore_index: int
    keep_largest_component: bool


# ---------------------------------------------------------------------------------------------------------------------
# Images and masks as arrays
# ---------------------------------------------------------------------------------------------------------------------


def open_image(source: Any, formats: Sequence[str] | None = None, max_pixels: int = MAX_PIXELS) -> Any:
    """Opens a path, a URL or encoded bytes, 16-bit grey at its full depth; images and arrays pass through.

    Args:
        source: What to open.
        formats: Pillow's names of the formats that may be decoded; all by default.
        max_pixels: The largest image that is decoded.

    Raises:
        ValueError: nothing can decode it, it is too large, or a volume of several pages; the message names the file.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        response = get_session().get(source, timeout=DOWNLOAD_SECONDS)
        response.raise_for_status()
        return decoded(BytesIO(response.content), source, formats, max_pixels)
    if isinstance(source, str | Path):
        return decoded(Path(source), str(source), formats, max_pixels)
    if isinstance(source, bytes | bytearray):
        return decoded(BytesIO(source), f"{len(source)} bytes", formats, max_pixels)
    return source


class ImageTooLargeError(ValueError):
    """An image that is not decoded for its size."""


def decoded(
    file: Path | BytesIO, name: str, formats: Sequence[str] | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decodes one image; TIFF's EXIF orientation, which Pillow applies by itself, is noted for the mask."""
    try:
        with Image.open(file, formats=formats) as image:
            for width, height in (image.size, decoding_block(image)):
                if width * height > max_pixels:
                    raise ImageTooLargeError(
                        f"{name}: has {width} x {height} pixels, more than max_pixels={max_pixels}; give a smaller image, "
                        "or allow more."
                    )
            if image.format == "TIFF" and stored_pixels(image) < image.width * image.height:
                raise ValueError(f"holds {stored_pixels(image)} pixels of {image.width} x {image.height}")
            # Not n_frames: to count pages Pillow reads the headers of all, of which there may be any number.
            has_pages = image.format == "TIFF" and getattr(image, "is_animated", False)
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            if not has_pages:
                image.load()
    except (FileNotFoundError, ImageTooLargeError, MemoryError):
        raise
    # Damaged files reach further than Pillow's own errors: its readers raise struct, key, index and type errors too.
    except Exception as error:
        raise ValueError(f"{name}: not an image that can be read ({error or type(error).__name__}).") from error
    if has_pages:
        raise ValueError(f"{name}: holds several pages, a volume; pass them one by one.")
    image.info[STORED_ORIENTATION] = orientation
    return image


def decoding_block(image: Image.Image) -> tuple[int, int]:
    """Width and height of the most that Pillow decodes at once of an image that is opened and not loaded.

    It may be larger than the image: a tile of a TIFF, and in a run-length encoded BMP the 255 rows that one code skips.
    """
    if image.format == "TIFF":
        tags = image.tag_v2
        return int(tags.get(TIFF_TILE_WIDTH, 0)), int(tags.get(TIFF_TILE_LENGTH, 0))
    if any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ())):
        return image.width, max(image.height, MOST_ROWS_SKIPPED)
    return image.size


def stored_pixels(image: Image.Image) -> int:
    """How many pixels the strips or tiles of an opened TIFF are for; Pillow takes the others for black, be they millions."""
    return sum(max(right - left, 0) * max(lower - upper, 0) for _, (left, upper, right, lower), *_ in image.tile)


def upright(image: Any, mask: Any = None) -> tuple[Any, Any]:
    """Applies an image's EXIF orientation to it and to its mask.

    A mask with an orientation of its own keeps to that; one that already has the size of the upright image, and not
    that of the stored one, is upright already.
    """
    if not isinstance(image, Image.Image):
        return image, mask
    try:
        own = image.getexif().get(EXIF_ORIENTATION, 1)
        orientation = image.info.get(STORED_ORIENTATION, own)
        # Of upright images too Pillow makes a copy, whose EXIF data it reads anew: damage in them shows then.
        is_bare = own == 1 and "exif" not in image.info
        upright_image = image if is_bare else ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data: Pillow raises what it meets there
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the image's EXIF data are damaged ({reason}); save it without them.") from error
    if mask is None:
        return upright_image, None
    if isinstance(mask, Image.Image) and mask.getexif().get(EXIF_ORIENTATION, 1) != 1:
        return upright_image, ImageOps.exif_transpose(mask)
    mask = index_map(mask)
    size = upright_image.height, upright_image.width
    if orientation != 1 and mask.shape == (size[::-1] if orientation > 4 else size):
        mask = oriented(mask, orientation)
    return upright_image, mask


def oriented(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a (H, W) array by an EXIF orientation of 2..8, as Pillow turns images."""
    steps = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a),
    }
    return steps[orientation](mask) if orientation in steps else mask


def image_to_array(
    image: Any,
    input_data_format: str | ChannelDimension | None = None,
    convert_rgb: bool = True,
    intensity_range: Sequence[float] | None = None,
) -> np.ndarray:
    """Turns an image of any kind into (C, H, W), uint8 or else float32 on the scale 0..255.

    Args:
        image: A Pillow image of any mode, or an array or tensor H,W or H,W,C or C,H,W with 1, 3 or 4 channels.
        input_data_format: Where the channels of an array are; found by their number if not given.
        convert_rgb: Whether to repeat grey to three channels and to lay transparent images on white.
        intensity_range: Lowest and highest stored value; that of the stored type if not given.

    Raises:
        ValueError: a volume, an unknown layout, NaN, or integers whose range is unknown.
    """
    if isinstance(image, Image.Image):
        array, input_data_format = pillow_to_array(image, convert_rgb), ChannelDimension.LAST
    else:
        array = as_numpy(image)
    array = channels_first(array, input_data_format)
    array = to_common_scale(array, intensity_range)
    return as_rgb(array) if convert_rgb else array


def pillow_to_array(image: Image.Image, convert_rgb: bool) -> np.ndarray:
    """(H, W, C) at the image's own bit depth."""
    if image.mode in SIXTEEN_BIT_MODES:
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode == "I":
        # Pillow's 32-bit mode is how 16-bit files arrive from several decoders.
        array = np.asarray(image)
        is_sixteen_bit = array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max
        return (array.astype(np.uint16) if is_sixteen_bit else array)[..., None]
    if image.mode == "F":
        return np.asarray(image)[..., None]
    if image.mode == "La":
        image = image.convert("LA")
    if convert_rgb:
        has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info
        mode = "RGBA" if has_alpha else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    elif image.mode in ("1", "P", "LA", "PA"):
        image = image.convert("L")
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def as_numpy(image: Any) -> np.ndarray:
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if isinstance(image, np.ndarray):
        return image
    raise ValueError(f"Got a {type(image).__name__}; expected a Pillow image, an array, a tensor, a path or bytes.")


def channels_first(array: np.ndarray, input_data_format: str | ChannelDimension | None = None) -> np.ndarray:
    """H,W or H,W,C or C,H,W -> C,H,W."""
    if array.ndim == 2:
        return array[None]
    layouts = (1, 3, 4)
    if array.ndim != 3 or (array.shape[0] not in layouts and array.shape[-1] not in layouts):
        raise ValueError(
            f"An array of the shape {array.shape} is not an image; expected H,W or H,W,C or C,H,W with 1, 3 or 4 "
            "channels. Pass the slices of a volume as a list."
        )
    if input_data_format is None:
        # Where both ends could be channels, three at the front or else three or four at the end.
        first = array.shape[0] in layouts and (array.shape[0] == 3 or array.shape[-1] not in (3, 4))
    else:
        first = ChannelDimension(input_data_format) == ChannelDimension.FIRST
    return array if first else np.moveaxis(array, -1, 0)


def to_common_scale(array: np.ndarray, intensity_range: Sequence[float] | None = None) -> np.ndarray:
    """uint8 as it is; anything else as float32 with the maximum of its type, or of `intensity_range`, at 255."""
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ValueError(f"A {array.dtype} image holds NaN or infinite values; mend or leave it out.")
    if intensity_range is not None:
        low, high = intensity_range
        if not high > low:
            raise ValueError(f"intensity_range={list(intensity_range)} must be (low, high) with low < high.")
        scaled = (array.astype(np.float32) - low) / (high - low)
        return scaled.clip(0, 1) * np.float32(SCALE_MAXIMUM)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * SCALE_MAXIMUM
    if array.dtype == np.uint16:
        return array.astype(np.float32) * np.float32(SCALE_MAXIMUM / np.iinfo(np.uint16).max)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    if array.size and array.min() >= 0 and array.max() <= SCALE_MAXIMUM:
        return array.astype(np.uint8)
    raise ValueError(
        f"{array.dtype} has no fixed range of intensities and this image reaches from {array.min()} to "
        f"{array.max()}; pass intensity_range=(low, high) or convert to uint8 or uint16."
    )


def as_rgb(array: np.ndarray) -> np.ndarray:
    """(1|3|4, H, W) on the scale 0..255 -> (3, H, W): grey repeated, transparent images on white."""
    if array.shape[0] == 1:
        return array.repeat(3, axis=0)
    if array.shape[0] == 3:
        return array
    alpha = array[3:].astype(np.float32) / SCALE_MAXIMUM
    blended = array[:3] * alpha + SCALE_MAXIMUM * (1 - alpha)
    return blended.round().astype(np.uint8) if array.dtype == np.uint8 else blended


def index_map(mask: Any) -> np.ndarray:
    """A mask of one class index per pixel as (H, W) of its own type; floats become int64.

    Raises:
        ValueError: it has several channels, several slices, or values that are no integers.
    """
    if isinstance(mask, Image.Image):
        if mask.mode not in ("1", "L", "P", "I", *SIXTEEN_BIT_MODES):
            raise ValueError(f"A mask of mode {mask.mode} is no index map; expected one class index per pixel.")
        return np.asarray(mask)
    array = as_numpy(mask)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2:
        raise ValueError(f"A mask of the shape {array.shape} is no index map; expected H,W.")
    if not np.issubdtype(array.dtype, np.floating):
        return array
    if not (array == np.round(array)).all():
        raise ValueError("A mask holds fractions or NaN; expected one integer class index per pixel.")
    return array.astype(np.int64)


def resize_nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) -> (height, width) by the nearest pixel centre, the rule of Pillow and of torch's "nearest-exact"."""
    if mask.shape == (height, width):
        return mask
    rows = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (mask.shape[1] / width)).astype(np.int64)
    return mask[rows][:, columns]


class ContentBox(NamedTuple):
    """Where an image lies within its padding, in pixels."""

    top: int
    left: int
    height: int
    width: int


def content_box(image_size: Sequence[int], size: Sequence[int]) -> ContentBox:
    """The place of an image that is fitted into `size` with its aspect ratio kept; a pure function of both sizes.

    The image fills one side; the other is rounded to whole pixels, of which there is at least one. It is centred, an odd
    pixel of padding going to the bottom or right, so that a flipped batch is padded where an upright one is.

    Args:
        image_size: (height, width) of the image; only their ratio counts.
        size: (height, width) to fill.
    """
    (image_height, image_width), (height, width) = map(tuple, (image_size, size))
    if image_height * width >= image_width * height:
        box_height, box_width = height, max(1, (2 * image_width * height + image_height) // (2 * image_height))
    else:
        box_height, box_width = max(1, (2 * image_height * width + image_width) // (2 * image_width)), width
    return ContentBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def padded(content: Any, box: ContentBox, size: Sequence[int], value: float) -> Any:
    """Puts an array or tensor (..., box.height, box.width) into its place in (..., height, width), `value` around it."""
    shape = (*content.shape[:-2], *size)
    canvas = (
        content.new_full(shape, value)
        if isinstance(content, torch.Tensor)
        else np.full(shape, value, dtype=content.dtype)
    )
    canvas[..., box.top : box.top + box.height, box.left : box.left + box.width] = content
    return canvas


def flat_list(images: Any, single_ndim: int) -> list[Any]:
    """Images, nested lists of them, and arrays of several, as one flat list."""
    if isinstance(images, list | tuple):
        return [image for item in images for image in flat_list(item, single_ndim)]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == single_ndim + 1:
        return list(images)
    return [images]


# ---------------------------------------------------------------------------------------------------------------------
# The processors
# ---------------------------------------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


class ResFormerImageProcessing:
    """What both back ends share; one object serves training and inference.

    Args:
        size: `{"height": 224, "width": 224}`; images and masks are squashed to it, as in the paper.
        keep_aspect_ratio: Images and masks are fitted into `size` instead, centred and padded to it. The padding is 0
            after normalisation, the mean colour, which is what the network's own convolutions pad with; post-processing
            crops it off again.
        ignore_index: Value of the padding in masks, which no loss counts; 255 by default.
        keep_largest_component: Post-processing leaves of each mask class but its largest connected part, the rest being
            background: for what an image holds once, such as one skin lesion. Off by default.
        do_resize, do_rescale, do_normalize: Steps that can be left out; masks are only ever resized.
        resample: Filter for images, bilinear by default (anti-aliased when shrinking).
        rescale_factor: Factor on the scale 0..255, which images of every bit depth are brought to first.
        image_mean, image_std: ImageNet's by default.
        do_convert_rgb: Grey to three channels, transparent images on white.
        intensity_range: (low, high) of the stored values where they do not fill the range of their type.
    """

    # Saving copies the code of registered classes, in time for an upload.
    _auto_class = "AutoImageProcessor"
    valid_kwargs = ResFormerImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    default_to_square = True
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    intensity_range = None
    keep_aspect_ratio = False
    ignore_index = 255
    keep_largest_component = False

    def __init__(self, **kwargs: Unpack[ResFormerImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Refuses settings by which no image can be prepared, such as a file that was tampered with may hold.

        Raises:
            ValueError: naming the setting, its value and what would do.
        """
        size = self.size
        if size is not None and not all(
            side is None or (type(side) is int and 1 <= side <= MOST_SIDE)
            for side in (size.get("height"), size.get("width"))
        ):
            raise ValueError(f"size={size!r:.100} must give height and width of 1 to {MOST_SIDE} pixels.")
        for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "keep_aspect_ratio"):
            if not isinstance(value := getattr(self, name), bool | None):
                raise ValueError(f"{name}={value!r:.60} must be true or false.")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            numbers = values if isinstance(values, list | tuple) else [] if values is None else [values]
            is_rgb = self.do_convert_rgb and values is not None
            if (
                not all(map(is_number, numbers))
                or len(numbers) > MOST_CHANNELS
                or (is_rgb and len(numbers) not in (1, 3))
            ):
                raise ValueError(f"{name}={values!r:.60} must be numbers, one for each channel.")
            if name == "image_std" and not all(one > 0 for one in numbers):
                raise ValueError(f"{name}={values!r:.60} must be numbers above 0.")
        if not (is_number(self.rescale_factor) and self.rescale_factor > 0):
            raise ValueError(f"rescale_factor={self.rescale_factor!r:.60} must be a number above 0.")
        if type(self.ignore_index) is not int:
            raise ValueError(f"ignore_index={self.ignore_index!r:.60} must be an integer.")
        if self.resample is not None and self.resample not in [*PILImageResampling]:
            raise ValueError(f"resample={self.resample!r:.60} must be one of Pillow's filters, 0 to 5.")
        if self.intensity_range is not None:
            bounds = self.intensity_range
            if not (isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(is_number, bounds))):
                raise ValueError(f"intensity_range={bounds!r:.60} must be (low, high), two numbers.")

    def open_upright(self, source: Any, formats: Sequence[str] | None = None) -> Any:
        """The image of a path, a URL or encoded bytes as it is meant to be seen, at its own bit depth.

        The one way in for pipeline, handler and server. Arguments and errors are those of `open_image`; Pillow
        images are turned by their EXIF orientation, arrays pass through.
        """
        return upright(open_image(source, formats))[0]

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[ResFormerImageProcessorKwargs],
    ) -> BatchFeature:
        """Prepares images, and masks with them.

        Args:
            images: One or many: Pillow, array, tensor, path, URL or encoded bytes.
            segmentation_maps: As many masks of class indices, each of its image's size.
            **kwargs: Overrides of the processor's settings, and `return_tensors`.

        Returns:
            `pixel_values` (B, C, height, width) float32 and, with masks, `labels` (B, height, width) int64.

        Raises:
            ValueError: An input cannot be used; the message says which and why.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None,
        do_convert_rgb: bool,
        input_data_format: str | ChannelDimension | None,
        return_tensors: str | TensorType | None,
        intensity_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        for step in ("do_center_crop", "do_pad"):
            if kwargs.get(step):
                raise ValueError(
                    f"{step}=True is not supported: post-processing could not undo it. Use size or "
                    "keep_aspect_ratio instead."
                )
        images, masks = self._paired(images, segmentation_maps)
        device = kwargs.pop("device", None) or image_device(images)
        upright_pairs = [upright(open_image(image), mask) for image, mask in zip(images, masks, strict=True)]
        arrays = [
            image_to_array(image, input_data_format, bool(do_convert_rgb), intensity_range)
            for image, _ in upright_pairs
        ]
        self._warn_if_scaled(arrays, kwargs["do_rescale"], intensity_range)
        pixel_values = self._finish(arrays, device=device, **kwargs)
        data = {"pixel_values": list(pixel_values) if return_tensors is None else pixel_values}
        if segmentation_maps is not None:
            labels = self._finish_masks(
                arrays,
                [mask for _, mask in upright_pairs],
                kwargs["size"] if kwargs["do_resize"] else None,
                kwargs["keep_aspect_ratio"],
                kwargs["ignore_index"],
            )
            data["labels"] = list(labels) if return_tensors is None else labels
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _paired(self, images: ImageInput, segmentation_maps: ImageInput | None) -> tuple[list[Any], list[Any]]:
        images = flat_list(images, single_ndim=3)
        if not images:
            raise ValueError("Got an empty list of images; expected one or more.")
        if segmentation_maps is None:
            return images, [None] * len(images)
        has_channel = isinstance(segmentation_maps, np.ndarray | torch.Tensor) and segmentation_maps.ndim == 4
        masks = flat_list(segmentation_maps, single_ndim=3 if has_channel or len(images) == 1 else 2)
        if len(masks) != len(images):
            raise ValueError(f"Got {len(masks)} masks for {len(images)} images; expected one for each.")
        return images, [open_image(mask) for mask in masks]

    def _finish(self, arrays: list[np.ndarray], **kwargs: Any) -> Any:
        """Resizes, rescales and normalises by the back end, after what would not fit a batch has been refused."""
        size, do_resize = kwargs["size"], kwargs["do_resize"]
        sizes = sorted({array.shape[-2:] for array in arrays})
        if not do_resize and len(sizes) > 1:
            raise ValueError(
                f"Images of the sizes {', '.join(f'{h} x {w}' for h, w in sizes)} (height x width) do not fit one "
                "batch and do_resize=False; resize them or pass them one by one."
            )
        if do_resize and not (size and size.height and size.width):
            raise ValueError(f"size={size} must give height and width: images are resized to it.")
        if not (do_resize and kwargs["keep_aspect_ratio"]):
            return self._preprocess(arrays, **kwargs)
        finished, whole = [], (size.height, size.width)
        for array in arrays:
            box = content_box(array.shape[-2:], whole)
            (content,) = self._preprocess([array], **kwargs | {"size": SizeDict(height=box.height, width=box.width)})
            finished.append(padded(content, box, whole, 0))
        return finished

    def _finish_masks(
        self,
        arrays: list[np.ndarray],
        masks: list[Any],
        size: SizeDict | None,
        keep_aspect_ratio: bool,
        ignore_index: int,
    ) -> np.ndarray:
        labels = []
        for index, (array, mask) in enumerate(zip(arrays, map(index_map, masks), strict=True)):
            if mask.shape != array.shape[-2:]:
                raise ValueError(
                    f"Mask {index} is {mask.shape[0]} x {mask.shape[1]} and its image {array.shape[-2]} x "
                    f"{array.shape[-1]} (height x width); they must be of one size."
                )
            if size is None:
                labels.append(mask)
            elif keep_aspect_ratio:
                box = content_box(mask.shape, (size.height, size.width))
                content = resize_nearest(mask, box.height, box.width).astype(np.int64)  # which holds any ignore_index
                labels.append(padded(content, box, (size.height, size.width), ignore_index))
            else:
                labels.append(resize_nearest(mask, size.height, size.width))
        return np.stack(labels).astype(np.int64)

    def _warn_if_scaled(
        self, arrays: list[np.ndarray], do_rescale: bool, intensity_range: Sequence[float] | None
    ) -> None:
        if not do_rescale or intensity_range is not None:
            return
        if any(array.dtype == np.float32 and 0 < array.max(initial=0) <= 1 for array in arrays):
            logger.warning_once(
                "A float image has no value above 1 although floats are taken to be on the scale 0..255; if it is "
                "on the scale 0..1, pass intensity_range=(0, 1)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Serialises the settings, naming both back ends for `trust_remote_code`."""
        output = super().to_dict()
        output["image_processor_type"] = "ResFormerImageProcessor"
        output["auto_map"] = copy.deepcopy(AUTO_MAP)
        return output

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Iterable[Sequence[int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
        keep_aspect_ratio: bool | None = None,
    ) -> list[torch.Tensor] | list[BatchFeature]:
        """Turns mask logits into class indices.

        Args:
            outputs: Output of the segmentation or of the multi-task model.
            target_sizes: (height, width) of each image; the logits' own size, padding included, if not given.
            return_segmentation_scores: Whether to return the resized logits as well.
            keep_aspect_ratio: How the images were resized; by default as this processor is set.

        Returns:
            One (height, width) int64 map per image; with scores, an object with `segmentation` and
            `segmentation_scores` (S, height, width).
        """
        logits = outputs["segmentation_logits"] if "segmentation_logits" in outputs else outputs["logits"]
        resized = self._resized_logits(logits, target_sizes, keep_aspect_ratio)
        if not return_segmentation_scores:
            return [class_indices(scores) for scores in resized]
        return [
            BatchFeature(data={"segmentation": class_indices(scores), "segmentation_scores": scores})
            for scores in resized
        ]

    def post_process_multitask(
        self,
        outputs: Any,
        config: Any,
        target_sizes: Iterable[Sequence[int]] | torch.Tensor | None = None,
        threshold: float | Sequence[float] | None = None,
        keep_aspect_ratio: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Turns the multi-task model's output into masks, scores and decisions with their names.

        Args:
            outputs: Output of `ResFormerForMultiTask`; where `segmentation_logits` or `classification_logits` is
                missing, so is its half of the answers.
            config: The model's config, for names and default thresholds.
            target_sizes: (height, width) of each image; the logits' own size, padding included, if not given.
            threshold: Decision threshold on the class scores, one for all or one per class; by default the config's
                `classification_thresholds`, else 0.5. Of classes that exclude each other the highest score decides.
            keep_aspect_ratio: How the images were resized; by default as this processor is set.

        Returns:
            One dict per image: `segmentation` (height, width) int64; `class_scores` {name: sigmoid, or softmax of classes
            that exclude each other}; `predicted_labels` [name] of the scores at or above their threshold, or of the
            highest; `label_set` [name] of the classes that are not ruled out, where the config has thresholds for that;
            `distance`, `confidence`, `flags` [code] and `doubt`, a sentence, where the checkpoint was fitted for them;
            `mask_classes` {name: {"area_fraction": share of pixels,
            "mean_probability": mean softmax over the pixels of that class, or None without any}}.

        Raises:
            ValueError: The config has another number of classes than the logits, or the threshold does not fit.
        """
        mask_logits, class_logits = outputs.get("segmentation_logits"), outputs.get("classification_logits")
        mask_names, class_names = config.mask_class_names, config.image_class_names
        for kind, names, logits in (("mask", mask_names, mask_logits), ("image-level", class_names, class_logits)):
            if logits is not None and len(names) != logits.shape[1]:
                raise ValueError(
                    f"The config names {len(names)} {kind} classes {names}, the logits have {logits.shape[1]}."
                )
        config.decision_thresholds(threshold)  # refused even where there is nothing to decide
        halves = []
        if mask_logits is not None:
            resized = self._resized_logits(mask_logits, target_sizes, keep_aspect_ratio)
            halves.append(describe_mask(logits, mask_names) for logits in resized)
        if class_logits is not None:
            scores = config.class_scores(class_logits).tolist()
            halves.append(describe_classes(row, config, threshold) for row in scores)
        if outputs.get("distance") is not None:
            told = [outputs[name] for name in ("distance", "confidence") if outputs.get(name) is not None]
            halves.append(config.trust(*values) for values in zip(*(one.tolist() for one in told), strict=True))
        return [{key: value for half in answer for key, value in half.items()} for answer in zip(*halves, strict=True)]

    def _resized_logits(
        self,
        logits: torch.Tensor,
        target_sizes: Iterable[Sequence[int]] | torch.Tensor | None,
        keep_aspect_ratio: bool | None,
    ) -> Iterator[torch.Tensor]:
        """As `resized_logits`, by this processor's settings where none are given."""
        if self.keep_largest_component:
            logits = torch.stack([only_largest_components(scores) for scores in logits.float()])
        keeps_aspect_ratio = self.keep_aspect_ratio if keep_aspect_ratio is None else keep_aspect_ratio
        return resized_logits(logits, target_sizes, keeps_aspect_ratio)


def image_device(images: list[Any]) -> torch.device | None:
    return next((image.device for image in images if isinstance(image, torch.Tensor)), None)


def resized_logits(
    logits: torch.Tensor, target_sizes: Iterable[Sequence[int]] | torch.Tensor | None, keep_aspect_ratio: bool = False
) -> Iterator[torch.Tensor]:
    """Yields the (S, height, width) float logits of each image, bilinearly resized where a size is asked for.

    Where the aspect ratio was kept, the padding is cropped off first; where it lies follows from the target size and the
    logits' own.
    """
    sizes = [None] * len(logits) if target_sizes is None else [tuple(int(n) for n in size) for size in target_sizes]
    if len(sizes) != len(logits):
        raise ValueError(f"Got {len(sizes)} target sizes for {len(logits)} images; expected one for each.")
    for scores, size in zip(logits.float(), sizes, strict=True):
        if size is not None and keep_aspect_ratio:
            box = content_box(size, scores.shape[-2:])
            scores = scores[:, box.top : box.top + box.height, box.left : box.left + box.width]
        if size is None or size == tuple(scores.shape[-2:]):
            yield scores
        else:
            yield F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def only_largest_components(logits: torch.Tensor) -> torch.Tensor:
    """(S, height, width) logits of which no class but the background wins outside the largest connected part of each.

    There the logits of the others are brought down to the background's, which is the first of equals.
    """
    chosen = class_indices(logits)
    dropped = torch.zeros_like(chosen, dtype=torch.bool)
    for index in range(1, len(logits)):
        mask = chosen == index
        dropped |= mask & ~largest_component(mask)
    return torch.where(dropped, logits.minimum(logits[:1]), logits)


def largest_component(mask: torch.Tensor) -> torch.Tensor:
    """(height, width) booleans: the connected part of most pixels, corners connecting; of equals the last.

    A mask of more than 256 pixels a side is joined on a coarser grid, where gaps of less than one of its squares close.
    """
    factor = max(1, math.ceil(max(mask.shape) / COMPONENT_GRID))
    coarse = F.max_pool2d(mask[None].float(), factor, ceil_mode=True)[0] > 0
    height, width = mask.shape
    labels = component_labels(coarse).repeat_interleave(factor, 0).repeat_interleave(factor, 1)[:height, :width] * mask
    pixels = torch.bincount(labels.flatten())
    pixels[0] = 0
    return mask & (labels == len(pixels) - 1 - pixels.flip(0).argmax())


def component_labels(mask: torch.Tensor) -> torch.Tensor:
    """(height, width) int64: one number for each connected part of a mask, corners connecting; 0 where it is False.

    The number is that of the part's last pixel, counted by rows from 1.
    """
    inside = mask.cpu().numpy()
    framed = np.pad(inside, 1)  # so that no run of pixels goes on in the next row
    step = framed.shape[1]
    (edges,) = np.nonzero(np.diff(framed.ravel()))
    starts, ends = edges[::2] + 1, edges[1::2] + 1
    # Of the row below, the first run that ends no further left than a run begins, and the last that begins no further right.
    first, last = np.searchsorted(ends, starts + step), np.searchsorted(starts, ends + step, side="right")
    counts = last - first
    upper = np.repeat(np.arange(len(starts)), counts)
    lower = np.arange(len(upper)) + np.repeat(first - counts.cumsum() + counts, counts)
    row, column = np.divmod(ends[highest_joined(upper, lower, len(starts))] - 1, step)
    labels = np.zeros(inside.shape, np.int64)
    labels[inside] = np.repeat((row - 1) * inside.shape[1] + column, ends - starts)
    return torch.from_numpy(labels).to(mask.device)


def highest_joined(upper: np.ndarray, lower: np.ndarray, count: int) -> np.ndarray:
    """(count,) the highest number that each of 0..count-1 is joined with by pairs of them, be it through others.

    Every number takes the highest of its pairs, then that which this one has come to, until none changes: a few rounds,
    since numbers leap.
    """
    joined = np.arange(count)
    while True:
        highest = joined.copy()
        np.maximum.at(highest, upper, joined[lower])
        np.maximum.at(highest, lower, joined[upper])
        highest = highest[highest]
        if np.array_equal(highest, joined):
            return joined
        joined = highest


def class_indices(logits: torch.Tensor) -> torch.Tensor:
    """(S, height, width) -> (height, width) int64, the first of equals; seven times faster on a CPU than argmax."""
    return logits.max(dim=0).indices


def describe_mask(logits: torch.Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Class indices, and share and mean probability of every mask class, from (S, height, width) logits."""
    segmentation = class_indices(logits)
    probability = logits.softmax(dim=0).amax(dim=0)
    counts = torch.bincount(segmentation.flatten(), minlength=len(names))
    sums = torch.bincount(segmentation.flatten(), weights=probability.double().flatten(), minlength=len(names))
    mask_classes = {
        name: {"area_fraction": count / segmentation.numel(), "mean_probability": total / count if count else None}
        for name, count, total in zip(names, counts.tolist(), sums.tolist(), strict=True)
    }
    return {"segmentation": segmentation, "mask_classes": mask_classes}


def describe_classes(
    scores: Sequence[float], config: Any, threshold: float | Sequence[float] | None
) -> dict[str, Any]:
    """Scores by name, and the names of the classes that they decide for."""
    named = dict(zip(config.image_class_names, scores, strict=True))
    answer = {"class_scores": named, "predicted_labels": config.predicted_classes(scores, threshold)}
    labels = config.label_set(scores)
    return answer if labels is None else {**answer, "label_set": labels}


class ResFormerImageProcessorPil(ResFormerImageProcessing, PilBackend):
    """ResFormer's image processor without torchvision."""

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | int | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float] | None,
        image_std: float | Sequence[float] | None,
        **_: Any,
    ) -> list[np.ndarray]:
        finished = []
        for array in images:
            if do_resize:
                array = resize_image(array, size.height, size.width, PILImageResampling(int(resample)))
            array = array.astype(np.float32)
            if do_rescale:
                array = array * np.float32(rescale_factor)
            if do_normalize:
                mean, std = (np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (image_mean, image_std))
                array = (array - mean) / std
            finished.append(array)
        return finished


def resize_image(array: np.ndarray, height: int, width: int, resample: PILImageResampling) -> np.ndarray:
    """(C, H, W) -> (C, height, width) of the same type, uint8 or float32."""
    if array.shape[-2:] == (height, width):
        return array
    if array.dtype == np.uint8 and array.shape[0] == 3:
        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, -1)))
        return np.moveaxis(np.asarray(image.resize((width, height), resample)), -1, 0)
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in array]
    return np.stack([np.asarray(channel.resize((width, height), resample)) for channel in channels])


__all__ = ["ResFormerImageProcessorPil"]
