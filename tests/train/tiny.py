"""A captioner and a recipe small enough to train in a test."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
[encoder]
name = "tiny"
embed_dim = 16
image_size = 32
[encoder.model]
embed_dim = 16
vision_cfg = { image_size = 32, layers = 1, width = 16, patch_size = 16, head_width = 8 }
[encoder.model.text_cfg]
context_length = 16
vocab_size = 300
width = 16
heads = 2
layers = 1
pool_type = "last"
[mapper]
prefix_length = 2
clip_length = 2
layers = 1
heads = 2
[decoder]
vocab_size = 300
layers = 1
width = 16
heads = 2
ffn_width = 32
max_positions = 200
position_offset = 2
eos_id = 2
pad_id = 1
[generation]
max_new_tokens = 60
temperature = 0.0
"""

RECIPE = """
config = "starter"
seed = 3
vocab_size = 300
save_every_steps = 4
log_every_steps = 2
sample_every_steps = 6
[data]
num_scenes = 40
[encoder.optimization]
num_steps = 6
batch_size = 8
warmup_steps = 2
[pretrain.optimization]
num_steps = 6
batch_size = 8
accumulation = 2
warmup_steps = 2
[finetune.optimization]
num_steps = 12
batch_size = 8
warmup_steps = 2
"""


def write_recipe(folder: Path, *, steps: int = 12) -> Path:
    """The recipe as a file."""
    config = folder / "config.toml"
    config.write_text(CONFIG)
    path = folder / "recipe.toml"
    recipe = RECIPE.replace("num_steps = 12", f"num_steps = {steps}")
    path.write_text(recipe.replace('"starter"', f'"{config}"'))
    return path
