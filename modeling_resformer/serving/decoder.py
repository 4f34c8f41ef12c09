"""Decodes images that strangers send, in a process that may be ended at any moment. Run by its path; needs Pillow alone.

On stdin and stdout, once it has said that it is ready, for one image after the other, a line of JSON and then so many bytes:

    {"bytes": 1234, "max_pixels": 40000000, "formats": ["PNG", ...]}        an encoded image
    {"mode": "RGB", "size": [width, height], "bytes": 3702}                 its pixels, upright
    {"error": "...", "status": 400}                                         or why there are none
"""

import json
import sys
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps


try:
    import resource
except ImportError:  # Windows, where a decoder's memory has no limit of its own
    resource = None

BYTES_PER_PIXEL, SPARE_BYTES = 32, 1 << 30  # of address space, for decoders and their buffers
READY = b"ready\n"
PLAIN_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I", "F")


class Refusal(ValueError):
    """Why an image is not decoded; `status` is the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def decode(data: bytes, max_pixels: int, formats: list[str]) -> Image.Image:
    """The image upright, in a mode that raw bytes tell all of: what its palette or its transparency means is worked in.

    Raises:
        Refusal: it is too large, a volume, or no image.
    """
    try:
        with Image.open(BytesIO(data), formats=formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                most = f"{max_pixels / 1e6:g} million pixels"
                raise Refusal(f"The image has {width} x {height} pixels, more than {most}; send a smaller one.", 413)
            if image.format == "TIFF" and getattr(image, "is_animated", False):
                raise Refusal("A TIFF of several pages is a volume; send its pages one by one.")
            image.load()
            return in_plain_mode(ImageOps.exif_transpose(image))
    except Refusal:
        raise
    except Image.DecompressionBombError as error:
        raise Refusal(f"The image is too large ({error}).", 413) from error
    except MemoryError as error:
        raise Refusal("The image takes more memory than its size allows.", 413) from error
    # Damaged files reach further than Pillow's own errors: decoders raise struct, zlib and index errors too.
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        # Pillow names the in-memory file by its address, which tells the sender nothing.
        reason = "no known image format" if "cannot identify" in reason else reason
        raise Refusal(f"{len(data)} bytes that are not a readable image ({reason}).") from error


def in_plain_mode(image: Image.Image) -> Image.Image:
    """In one of the plain modes."""
    if image.mode in PLAIN_MODES and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits of another byte order
        return image.convert("I")
    if image.mode == "La":
        return image.convert("LA")
    has_alpha = image.mode in ("PA", "RGBa", "LA", "RGBA") or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "L" if image.mode == "1" else "RGB")


def main() -> None:
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    Image.init()
    stdout.write(READY)
    stdout.flush()
    while line := stdin.readline():
        asked = json.loads(line)
        if resource is not None:
            most = BYTES_PER_PIXEL * asked["max_pixels"] + SPARE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        answer: dict[str, Any]
        pixels = b""
        try:
            image = decode(stdin.read(asked["bytes"]), asked["max_pixels"], asked["formats"])
            pixels = image.tobytes()
            answer = {"mode": image.mode, "size": image.size, "bytes": len(pixels)}
        except Refusal as error:
            answer = {"error": str(error), "status": error.status}
        except MemoryError:
            pixels, answer = b"", {"error": "The image takes more memory than its size allows.", "status": 413}
        stdout.write(json.dumps(answer).encode() + b"\n" + pixels)
        stdout.flush()


if __name__ == "__main__":
    main()
