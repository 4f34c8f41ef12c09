"""A model that finds every class in a sample image, what it must answer, and images as they are sent."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor


NAMES = ["background", "IRF", "SRF", "PED"]


def sample_image() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((70, 60), Image.Resampling.BICUBIC)


def save_model(folder: Path, image: Image.Image | None = None, size: tuple[int, int] = (48, 64)) -> Path:
    """A random multi-task model, set to find every mask class in the sample image, or in another."""
    torch.manual_seed(0)
    model = ResFormerForMultiTask(tiny_config(classification_labels=["a", "b", "c"])).eval()
    processor = ResFormerImageProcessor(size={"height": size[0], "width": size[1]})
    head = model.segmentation_head.classifier
    with torch.no_grad():
        given = processor(image or sample_image(), return_tensors="pt")
        head.bias -= model(**given).segmentation_logits.mean((0, 2, 3))
        head.weight *= 80
        head.bias *= 80
        model.classification_head.classifier.weight *= 80
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def claiming_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def reference(folder: Path, image: Image.Image) -> tuple[np.ndarray, dict[str, float]]:
    """Class index per pixel and sigmoid per class, by torch from the model's own output."""
    model = ResFormerForMultiTask.from_pretrained(folder)
    with torch.no_grad():
        output = model(**ResFormerImageProcessor.from_pretrained(folder)(image, return_tensors="pt"))
    size = image.size[::-1]
    mask = F.interpolate(output.segmentation_logits, size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    return mask, dict(zip("abc", output.classification_logits[0].sigmoid().tolist(), strict=True))


def foreground(mask: np.ndarray) -> list[str]:
    """Names of the classes a mask holds, background left out."""
    return [NAMES[index] for index in np.unique(mask[mask > 0])]
