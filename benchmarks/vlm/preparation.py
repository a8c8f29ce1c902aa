"""What the speed comparison asks, and other software's files of the same weights."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path

from tokenizers import Tokenizer

__all__ = ["TILES", "llama_cpp_folder", "openvino_folder", "write_question"]

_ROOT = Path(__file__).resolve().parents[2]
#: optimum-cli, beside a torchvision that was built for another torch.
_CONVERT = (
    "from altogether_rt.model._torchvision import make_torchvision_importable as make; make(); "
    "from optimum.commands.optimum_cli import main; main()"
)
#: Tiles that llama.cpp reads of a square image, and the longest edge, in sides of a tile, with
#: which it reads so many.
TILES = {2: 1, 5: 2}
#: What llama.cpp itself puts around an image.
_IMAGE_START, _IMAGE_END = "<fake_token_around_image><global-img>", "<fake_token_around_image>"


def write_question(work: Path) -> Path:
    """The first photograph with its alt-text, as `published_vlm.py` asked it."""
    about = json.loads((work / "published" / "config.json").read_text("utf-8"))
    asked = pickle.loads((work / "found").read_bytes())[0][0]
    image = about.get("image_token_id")
    visual = [] if image is None else [*asked.before_ids, *[image] * asked.num_visual]
    tokenizer = Tokenizer.from_file(str(work / "published" / "tokenizer.json"))
    before, after = (
        tokenizer.decode(list(ids), skip_special_tokens=False)
        for ids in (asked.before_ids, asked.prompt_ids)
    )
    question = {
        "pixels": asked.pixels,
        "ids": [*visual, *asked.prompt_ids],
        "around": (before.removesuffix(_IMAGE_START), after.removeprefix(_IMAGE_END)),
        "alt": asked.alts[0],
    }
    path = work / "question"
    path.write_bytes(pickle.dumps(question))
    return path


def openvino_folder(environment: Path, work: Path) -> Path | None:
    """The model as optimum-intel converts it; None for a model that it does not know."""
    folder = work / "openvino"
    if not _is_smolvlm(work):
        return None
    if not folder.exists():
        command = [environment / "bin" / "python", "-c", _CONVERT, "export", "openvino", "--model"]
        command += [work / "published", "--task", "image-text-to-text", "--weight-format", "int8"]
        variables = {**os.environ, "PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1"}
        subprocess.run([*map(str, command), str(folder)], check=True, env=variables)
    return folder


def llama_cpp_folder(environment: Path, work: Path, kind: str) -> Path | None:
    """The model as GGUF with matrices of `kind`, and a folder for each of `TILES`; None for a
    model that llama.cpp does not know."""
    folder = work / f"llama.cpp-{kind}"
    if not _is_smolvlm(work):
        return None
    if not folder.exists():
        command = [environment / "bin" / "python", "-m", "vlm.gguf_files", work / "published"]
        edges = [f"{tiles}={sides}" for tiles, sides in TILES.items()]
        variables = {**os.environ, "PYTHONPATH": str(_ROOT / "benchmarks")}
        command += [folder, kind, *edges]
        subprocess.run([*map(str, command)], check=True, env=variables)
    return folder


def _is_smolvlm(work: Path) -> bool:
    about = json.loads((work / "published" / "config.json").read_text("utf-8"))
    return about["model_type"] in ("idefics3", "smolvlm")
