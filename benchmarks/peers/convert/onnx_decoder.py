"""The decoder as optimum-onnx exports it.

python convert/onnx_decoder.py HF_FOLDER OUT
"""

from __future__ import annotations

import sys

from optimum.exporters.onnx import main_export

if __name__ == "__main__":
    main_export(
        sys.argv[1],
        sys.argv[2],
        task="text-generation-with-past",
        do_validation=False,
        library_name="transformers",
    )
