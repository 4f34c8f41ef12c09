"""Images as cameras and clinics spoil them, at five strengths: noise, blur, JPEG, gamma, hair, ruler and vignette.

After the common corruptions of Hendrycks and Dietterich (2019), with two of dermoscopy. Each is drawn by a seed, and keeps the
size, mode and mask of its image.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


STRENGTHS = (1, 2, 3, 4, 5)


def corrupted(image: Image.Image, kind: str, strength: int, seed: tuple[int, ...]) -> Image.Image:
    """An image spoilt in one way.

    Args:
        image: 8-bit RGB or grey; others are turned into RGB.
        kind: a key of `CORRUPTIONS`.
        strength: 1 to 5.
        seed: of what is drawn by chance.
    """
    mode = image.mode if image.mode in ("L", "RGB") else "RGB"
    return CORRUPTIONS[kind](image.convert(mode), strength, np.random.default_rng(seed)).convert(mode)


def _from_shares(shares: np.ndarray) -> Image.Image:
    """An image from numbers of which 1 is white."""
    return Image.fromarray((np.clip(shares, 0, 1) * 255).round().astype(np.uint8))


def _noise(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    """Gaussian noise, of standard deviation 0.02 to 0.2."""
    deviation = (0.02, 0.05, 0.08, 0.13, 0.2)[strength - 1]
    pixels = np.asarray(image, np.float64) / 255
    return _from_shares(pixels + rng.normal(scale=deviation, size=pixels.shape))


def _blur(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    """Gaussian blur, of a standard deviation of 0.5 to 4 % of the shorter side."""
    radius = (0.005, 0.01, 0.016, 0.025, 0.04)[strength - 1] * min(image.size)
    return image.filter(ImageFilter.GaussianBlur(radius))


def _jpeg(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    """JPEG of quality 40 to 4."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=(40, 25, 15, 8, 4)[strength - 1])
    return Image.open(buffer)


def _gamma(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    """Brighter or darker by chance, with an exponent of 1.2 to 3 or its inverse."""
    exponent = (1.2, 1.5, 1.9, 2.4, 3.0)[strength - 1]
    return _from_shares((np.asarray(image, np.float64) / 255) ** (exponent if rng.random() < 0.5 else 1 / exponent))


def _hair(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    """4 to 60 dark, bent hairs across the image."""
    spoilt, (width, height) = image.copy(), image.size
    draw, thick = ImageDraw.Draw(spoilt), max(1, round(min(image.size) / 150))
    for _ in range((4, 10, 20, 35, 60)[strength - 1]):
        start, middle, end = rng.random((3, 2)) * [width, height]
        t = np.linspace(0, 1, 24)[:, None]
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        dark = int(rng.integers(15, 60))
        colour = dark if image.mode == "L" else (dark, dark * 4 // 5, dark * 3 // 5)
        draw.line([tuple(point) for point in points.tolist()], fill=colour, width=thick)
    return spoilt


def _ruler(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    """A pale ruler with ticks along the lower edge, 5 to 30 % of the height."""
    spoilt, (width, height) = image.copy(), image.size
    draw, grey = ImageDraw.Draw(spoilt), image.mode == "L"
    tall = max(2, round((0.05, 0.1, 0.15, 0.22, 0.3)[strength - 1] * height))
    draw.rectangle([0, height - tall, width, height], fill=235 if grey else (235, 235, 230))
    for number, x in enumerate(range(0, width, max(2, width // 40))):
        long = tall * (6 if number % 5 == 0 else 3) // 10
        draw.line([x, height - tall, x, height - tall + long], fill=20 if grey else (20, 20, 20))
    return spoilt


def _vignette(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    """Dark corners, as of a dermatoscope's tube; from 20 to 100 % of the light is lost there."""
    lost = (0.2, 0.4, 0.6, 0.8, 1.0)[strength - 1]
    pixels = np.asarray(image, np.float64) / 255
    rows, columns = (np.linspace(-1, 1, side) for side in pixels.shape[:2])
    away = np.sqrt((rows[:, None] ** 2 + columns[None] ** 2) / 2)
    light = 1 - lost * np.clip((away - 0.4) / 0.6, 0, 1) ** 1.5
    return _from_shares(pixels * (light if image.mode == "L" else light[..., None]))


CORRUPTIONS: dict[str, Callable[[Image.Image, int, np.random.Generator], Image.Image]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
    "gamma": _gamma,
    "hair": _hair,
    "ruler": _ruler,
    "vignette": _vignette,
}
