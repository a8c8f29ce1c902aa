"""Who is compared: for each its environment, its adapter, what it loads, and how far it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["CONTESTANTS", "ENVIRONMENTS", "HERE", "PAIRS", "REFERENCE", "ROOT", "Contestant"]

Scope = Literal["whole", "decoder"]

#: Sources of real pairs of alt-text and caption.
PAIRS = ("scenes", "coco")

#: One build of torch for all environments that have it.
_TORCH = "torch==2.13.0"

#: pip requirements of each environment.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "ours": ("altogether-rt[cpu]",),
    "public": (_TORCH, "open_clip_torch>=3.3", "transformers>=5.0", "safetensors"),
    "openvino": ("openvino>=2026.4", "numpy"),
    "optimum-onnx": (_TORCH, "optimum-onnx[onnxruntime]>=0.1", "transformers<4.58"),
    "ctranslate2": ("ctranslate2>=4.8", "numpy"),
    # These make the files that the others load.
    "tools": ("altogether-rt[cpu,export]",),
    "tools-older": (
        *(_TORCH, "transformers<4.58", "optimum-intel[openvino]", "nncf", "ctranslate2>=4.8"),
        *("open_clip_torch>=3.3", "pillow", "typing_extensions"),
    ),
}


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    name: str
    label: str
    environment: str
    adapter: str  # module in this folder
    files: tuple[str, ...]  # what it loads, made by preparation.py
    options: dict[str, Any] = field(default_factory=dict)  # the files' paths are added
    scope: Scope = "whole"
    modes: tuple[str, ...] = ("visual",)  # kinds of prompt whose tokens are compared
    needs_pairs: bool = False

    def load_options(self, work: Path, pad_id: int, pairs: str | None = None) -> dict[str, Any]:
        """What the adapter is given; pairs: name of the file with real pairs, if there is one."""
        paths = {name: str(work / name) for name in self.files}
        if self.adapter == "adapters.ours":
            paths = {"bundle": paths[self.files[0]]}
        elif self.adapter != "adapters.huggingface":
            paths = {"folder": paths[self.files[0]]}
        return {
            **paths,
            "pixels": str(work / "pixels.npy"),
            "embeddings": str(work / "huggingface" / "embeddings.npy"),
            "pad_id": pad_id,
            **({"taught": str(work / pairs)} if self.needs_pairs and pairs else {}),
            **self.options,
        }


_TORCH_FILES = ("checkpoint", "huggingface")


def _torch(name: str, label: str, modes: tuple[str, ...], **options: Any) -> Contestant:
    adapter = "adapters.huggingface"
    return Contestant(name, label, "public", adapter, _TORCH_FILES, options, modes=modes)


def _ours(
    target: str, label: str, speculation: str, suffix: str = "", *, taught: bool = False
) -> Contestant:
    modes = ("visual", "attended_left", "stand_in")
    options = {"speculation": speculation}
    name, bundle = f"ours-{target}{suffix}", (f"ours-{target}",)
    return Contestant(
        name,
        label,
        "ours",
        "adapters.ours",
        bundle,
        options,
        modes=() if taught else modes,
        needs_pairs=taught,
    )


CONTESTANTS: tuple[Contestant, ...] = (
    _torch("public-fp32", "public pipeline, fp32", ("attended_left",), dtype="float32"),
    _torch("public-bf16", "public pipeline, bf16", ("attended_left",), dtype="bfloat16"),
    _torch("hf-tuned-bf16", "Hugging Face tuned, bf16", ("visual",), dtype="bfloat16", tuned=True),
    Contestant(
        "openvino-int8",
        "OpenVINO, int8",
        "openvino",
        "adapters.openvino_ir",
        ("openvino",),
        modes=("visual", "stand_in"),
    ),
    Contestant(
        "optimum-onnx-fp32",
        "optimum-onnx, fp32 (decoder)",
        "optimum-onnx",
        "adapters.optimum_onnx",
        ("onnx",),
        scope="decoder",
        modes=("stand_in",),
    ),
    Contestant(
        "ctranslate2-int8",
        "CTranslate2, int8 (decoder)",
        "ctranslate2",
        "adapters.ctranslate",
        ("ctranslate2",),
        {"compute_type": "int8"},
        scope="decoder",
        modes=("stand_in",),
    ),
    _ours("fp32", "altogether-rt, fp32", "off"),
    _ours("int8", "altogether-rt, int8", "off"),
    _ours("int8", "altogether-rt, int8, speculation*", "auto", "-spec"),
    _ours("int8", "altogether-rt, int8, taught†", "auto", "-taught", taught=True),
)

#: Writes the tokens that the others' are compared with, in float32, a row at a time.
REFERENCE = _torch(
    "reference", "reference", ("visual", "attended_left", "stand_in"), dtype="float32"
)

#: Where the scripts of this folder are.
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
