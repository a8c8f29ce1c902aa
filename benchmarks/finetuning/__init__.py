"""The parts of `finetune_miniature.py`."""
