"""Files: what is written can be read by whoever knows the format, and writing needs little."""

import json
import subprocess
import sys

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from batchnorm.files import to_json, to_safetensors


def test_tensors_of_any_layout_are_written_in_full(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tied = nn.Parameter(torch.ones(2))
    tensors = {"turned": whole.t(), "part": whole[1:, ::2], "tied": tied, "again": tied}
    tensors |= {"number": torch.tensor(7), "none": torch.empty(0, 3), "half": whole.bfloat16()}
    (tmp_path / "file").write_bytes(to_safetensors(tensors, {"what": "a test"}))
    loaded = safetensors.torch.load_file(tmp_path / "file")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.detach())
    with safetensors.safe_open(tmp_path / "file", framework="pt") as file:
        assert file.metadata() == {"what": "a test"}


@pytest.mark.parametrize("metadata", [None, {"state": "{}"}])
def test_equal_tensors_are_equal_files(metadata):
    tensors = {"b": torch.ones(3), "a": torch.zeros(2)}
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    assert to_safetensors(tensors, metadata) == to_safetensors(copies, metadata)


def test_the_ground_needs_nothing_but_the_standard_library():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # what the interpreter itself loads at its start
        "import batchnorm.files\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - {'batchnorm', *sys.stdlib_module_names}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_file_has_numbers_that_json_lacks(value):
    with pytest.raises(ValueError, match="JSON"):
        to_json({"loss": [value]})


def test_a_path_of_any_bytes_is_json():
    assert json.loads(to_json({"data": "a\udcffé"})) == {"data": "a\udcffé"}
