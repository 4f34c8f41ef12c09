"""Images that are well-formed and take a decoder for ever."""

import struct
from io import BytesIO

from PIL import Image


def endless_jpeg(scans=4000):
    """A progressive JPEG of 512 x 512 of which the last scan is repeated; each takes a decoder a walk over all blocks."""
    buffer = BytesIO()
    Image.new("L", (512, 512), 99).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def many_pages(count=20_000):
    """A TIFF of as many pages, each a header of its own; a decoder that counts them reads all."""
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(278, 4, 1, 8), (279, 4, 1, 64)]
    size = 2 + 12 * len(entries) + 4
    data = bytearray(struct.pack("<2sHI", b"II", 42, 72) + bytes(64))
    for number in range(count):
        following = 72 + size * (number + 1) if number < count - 1 else 0
        data += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += struct.pack("<I", following)
    return bytes(data)
