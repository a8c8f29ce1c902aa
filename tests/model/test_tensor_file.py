"""What is written tensor by tensor is what the safetensors library reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from altogether_rt.model.tensor_file import write_tensors

_NUM_TENSORS, _SIDE = 24, 1024  # 100 MB as float32


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tensors = {
        "π": torch.tensor(3.25, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).t(),
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "parameter": torch.nn.Parameter(torch.tensor([0.1])),
        "steps": torch.tensor([1 << 40]),
        "ids": torch.tensor([-7], dtype=torch.int32),
        "bytes": torch.tensor([255], dtype=torch.uint8),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "last": torch.tensor([9.0]),
    }
    write_tensors(path, tensors)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        wanted = tensor.detach()
        wanted = wanted.float() if wanted.is_floating_point() else wanted
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted), name
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_memory_is_that_of_a_tensor(tmp_path: Path) -> None:
    """Half precision on disk becomes 100 MB of float32, a tensor at a time."""
    halves = {str(i): torch.rand(_SIDE, _SIDE).bfloat16() for i in range(_NUM_TENSORS)}
    save_file(halves, tmp_path / "halves")
    script = (
        "import resource, sys; from safetensors import safe_open; from pathlib import Path\n"
        "from altogether_rt.model.tensor_file import write_tensors\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "file = safe_open(sys.argv[1], framework='pt')\n"
        "tensors = {name: file.get_tensor(name) for name in file.keys()}\n"
        "for tensor in tensors.values(): tensor.sum()\n"
        "before = peak(); write_tensors(Path(sys.argv[2]), tensors); print(peak() - before)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "halves"), str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    assert int(run.stdout) * unit < 4 * _SIDE * _SIDE * _NUM_TENSORS // 4
    assert (tmp_path / "out").stat().st_size > 4 * _SIDE * _SIDE * _NUM_TENSORS
