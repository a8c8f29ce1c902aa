"""The decoder as CTranslate2's own converter makes it, in int8.

python convert/ctranslate.py HF_FOLDER OUT
"""

from __future__ import annotations

import sys

from altogether_rt.model._torchvision import make_torchvision_importable

if __name__ == "__main__":
    make_torchvision_importable()
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(sys.argv[1]).convert(sys.argv[2], quantization="int8")
