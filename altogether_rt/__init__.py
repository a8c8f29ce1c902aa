"""Image captions re-aligned from alt-text: train with PyTorch, export once, caption anywhere."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # not from `typing`: its import takes longer than all else that is done here
if TYPE_CHECKING:
    from typing import Any

    from altogether_rt.captioner import Captioner as Captioner
    from altogether_rt.captions import Caption as Caption
    from altogether_rt.captions import CaptionParams as CaptionParams
    from altogether_rt.captions import CaptionRequest as CaptionRequest
    from altogether_rt.config import CaptionerConfig as CaptionerConfig
    from altogether_rt.errors import AltogetherError as AltogetherError
    from altogether_rt.errors import BundleError as BundleError
    from altogether_rt.errors import ConfigError as ConfigError
    from altogether_rt.errors import ImageError as ImageError
    from altogether_rt.errors import MissingDependencyError as MissingDependencyError

__version__ = "0.1.0"

#: Where each public name lives. They load on first use, so that `import altogether_rt`, and with
#: it `altogether-rt --help`, costs nothing.
_HOMES = {
    "AltogetherError": "altogether_rt.errors",
    "BundleError": "altogether_rt.errors",
    "Caption": "altogether_rt.captions",
    "CaptionParams": "altogether_rt.captions",
    "CaptionRequest": "altogether_rt.captions",
    "Captioner": "altogether_rt.captioner",
    "CaptionerConfig": "altogether_rt.config",
    "ConfigError": "altogether_rt.errors",
    "ImageError": "altogether_rt.errors",
    "MissingDependencyError": "altogether_rt.errors",
}

__all__ = [
    "AltogetherError",
    "BundleError",
    "Caption",
    "CaptionParams",
    "CaptionRequest",
    "Captioner",
    "CaptionerConfig",
    "ConfigError",
    "ImageError",
    "MissingDependencyError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
