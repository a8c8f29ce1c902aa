"""256 images of scenes, preprocessed: uint8 (256, 224, 224, 3).

python convert/images.py OUT.npy
"""

from __future__ import annotations

import sys

import numpy as np

from altogether_rt.config import named_config
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample

NUM, SEED = 256, 2026

if __name__ == "__main__":
    preprocessor = Preprocessor(named_config("altogether-opt-1.3b").encoder)
    images = (render(make_sample(SEED, index, "test").scene) for index in range(NUM))
    with open(sys.argv[1], "wb") as file:  # np.save would add .npy to a temporary name
        np.save(file, np.stack([preprocessor.pixels(image) for image in images]))
