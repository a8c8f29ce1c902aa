"""Alt-texts and captions of real pairs as token ids: JSON with `rows` and `taught`.

python convert/real_pairs.py SOURCE BUNDLE OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pairs import SOURCES, token_pairs

from altogether_rt.artifacts.bundle import Bundle

#: Rows to be measured; those of `scenes` belong to the images of images.py.
NUM_ROWS = 256

#: Pairs after them, from which contestants that are `taught` learn first.
NUM_TAUGHT = 1000

if __name__ == "__main__":
    source, bundle, out = sys.argv[1], Bundle.load(Path(sys.argv[2])), Path(sys.argv[3])
    listed = token_pairs(bundle, SOURCES[source](NUM_ROWS + NUM_TAUGHT))
    out.write_text(json.dumps({"rows": listed[:NUM_ROWS], "taught": listed[NUM_ROWS:]}), "utf-8")
