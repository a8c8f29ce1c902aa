"""The decoder in int8, made by CTranslate2's own converter.

python convert/ctranslate.py HF_FOLDER OUT
"""

from __future__ import annotations

import sys

from altogether_rt.model._torchvision import make_torchvision_importable

if __name__ == "__main__":
    make_torchvision_importable()
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(sys.argv[1]).convert(sys.argv[2], quantization="int8")
