"""Prints the SHA-256 of the upright RGB pixels of each image file named on standard input."""

import hashlib
import sys

from PIL import Image, ImageOps, features

assert features.check("libjpeg_turbo"), "this Pillow reads JPEG with another library"
for line in sys.stdin:
    with Image.open(line.rstrip("\n")) as image:
        pixels = ImageOps.exif_transpose(image.convert("RGB")).tobytes()
    print(hashlib.sha256(pixels).hexdigest())
