"""Who is compared on a CPU, and the environments that they need."""

from __future__ import annotations

from typing import Any

from harness.contestant import Contestant

__all__ = ["CONTESTANTS", "ENVIRONMENTS", "PAIRS", "REFERENCE"]

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

_TORCH_FILES = {"checkpoint": "checkpoint", "huggingface": "huggingface"}


def _torch(name: str, label: str, modes: tuple[str, ...], **options: Any) -> Contestant:
    adapter = "harness.adapters.huggingface:HuggingFace"
    return Contestant(name, label, "public", adapter, _TORCH_FILES, options, modes=modes)


def _ours(
    target: str, label: str, speculation: str, suffix: str = "", *, taught: bool = False
) -> Contestant:
    return Contestant(
        f"ours-{target}{suffix}",
        label,
        "ours",
        "harness.adapters.ours:Ours",
        {"bundle": f"ours-{target}"},
        {"speculation": speculation},
        modes=() if taught else ("visual", "attended_left", "stand_in"),
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
        "harness.adapters.openvino_ir:OpenVino",
        {"folder": "openvino"},
        modes=("visual", "stand_in"),
    ),
    Contestant(
        "optimum-onnx-fp32",
        "optimum-onnx, fp32 (decoder)",
        "optimum-onnx",
        "harness.adapters.optimum_onnx:OptimumOnnx",
        {"folder": "onnx"},
        scope="decoder",
        modes=("stand_in",),
    ),
    Contestant(
        "ctranslate2-int8",
        "CTranslate2, int8 (decoder)",
        "ctranslate2",
        "harness.adapters.ctranslate:CTranslate",
        {"folder": "ctranslate2"},
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
