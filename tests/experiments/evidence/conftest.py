"""A zip file of small images in folders by class."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images():
    """Write a data set: this many images per class, with pixels around 24 times the class's number."""

    def make(path, count, classes=10, side=32):
        generator = np.random.default_rng(0)
        with zipfile.ZipFile(path, "w") as archive:
            for part in ("train", "test"):
                for label in range(classes):
                    for place in range(count):
                        pixels = generator.integers(0, 255, (side, side, 3)) // 8 + 24 * label
                        own = io.BytesIO()
                        Image.fromarray(pixels.astype(np.uint8)).save(own, "JPEG")
                        archive.writestr(f"{part}/class{label}/{place:04}.jpg", own.getvalue())
        return path

    return make
