"""How large an input may be: the defaults of `--max-pixels` and `--max-voxels`. By the standard library alone."""

from dataclasses import dataclass


MOST_PIXELS = 178_000_000  # Pillow refuses more by itself


@dataclass(frozen=True)
class InputLimits:
    """The largest input.

    Attributes:
        pixels: of an image, or of a slice of a volume; some twenty bytes of memory each while it is read.
        voxels: of a volume; up to eight bytes each.
    """

    pixels: int = 100_000_000
    voxels: int = 1 << 29


DEFAULT_LIMITS = InputLimits()
