"""The starter in float16, in the graphs that TensorRT compiles, scored beside float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.captioner import Captioner
from altogether_rt.export.from_checkpoint import export_checkpoint
from altogether_rt.export.recipes import find_recipe
from altogether_rt.importing.bundle import checkpoint_folder
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.scenes.dataset import reference_row
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.score import Scores
from altogether_rt.scenes.text import make_sample

SAMPLES = [make_sample(99, index, "test") for index in range(400)]


def scores(bundle: Bundle) -> dict[str, float]:
    config = bundle.config
    tokenizer = PromptTokenizer.from_file(
        bundle.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    # Whatever device the target is for: these are its graphs, on the processor.
    runtime = OnnxRuntime(bundle, num_slots=32)
    found = Scores()
    parts = CaptionerParts(config, runtime, tokenizer, bundle.bundle_id, None)
    with Captioner(parts) as captioner:
        images = (render(sample.scene) for sample in SAMPLES)
        captions = captioner.caption(images, [sample.alts for sample in SAMPLES])
    for caption, sample in zip(captions, SAMPLES, strict=True):
        found.add(caption.text, reference_row("", sample))
    return found.to_dict()


@pytest.mark.slow
def test_float16_scores_as_float32_does(tmp_path: Path) -> None:
    found = {}
    with checkpoint_folder(Path("starter"), lambda message: None) as checkpoint:
        for target in ("cpu-fp32", "tensorrt-fp16"):
            bundle = export_checkpoint(checkpoint, find_recipe(target), tmp_path / target)
            found[target] = scores(bundle)
    exact, half = found["cpu-fp32"], found["tensorrt-fp16"]
    assert exact["visual_facts_right"] > 95
    for name in ("visual_facts_right", "names_kept", "wrong_corrected", "invented_with_empty_alt"):
        assert abs(half[name] - exact[name]) <= 0.5, name
