"""The conversion of PyTorch files to safetensors with the same names and values. Most tests need torch."""

import argparse
import hashlib
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from errors import UserError
from experiments import convert

A, B = np.arange(6.0).reshape(2, 3), np.ones(4)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed; it reads and writes PyTorch's files")


def fails(capsys, *arguments):
    """Run the command. Return its error, which must be one line."""
    assert convert.main(list(map(str, arguments))) == 1
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


def test_bare_parameters_are_unchanged():
    assert convert.find_parameters({"a.weight": A, "b": B}, np.ndarray) == ({"a.weight": A, "b": B}, [])


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model"])
def test_nested_parameters_are_found_and_omissions_are_reported(nest):
    loaded = {"epoch": 3, nest: {"module.a": A, "module.b": B}, "optimizer": {}, "args": 1, "loss": A}
    tensors, notes = convert.find_parameters(loaded, np.ndarray)
    assert tensors == {"a": A, "b": B}
    assert notes[0] == f"taken from {nest!r}; left out: epoch, optimizer, args (and 1 more)"
    assert notes[1:] == ["removed 'module.' before all 2 names"]


def test_doubly_nested_parameters_are_found():
    tensors, notes = convert.find_parameters({"model": {"state_dict": {"a": A}}}, np.ndarray)
    assert tensors == {"a": A} and notes == ["taken from 'model'", "taken from 'state_dict'"]


def test_a_prefix_of_only_some_names_stays():
    loaded = {"module.a": A, "b": B}
    assert convert.find_parameters(loaded, np.ndarray) == (loaded, [])


def test_other_values_are_left_out_and_reported():
    loaded = {"bn.weight": B, "bn.num_batches_tracked": A, "x.num_batches_tracked": A, "version": 2, 7: A}
    tensors, notes = convert.find_parameters(loaded, np.ndarray)
    assert tensors == {"bn.weight": B}
    assert notes == ["left out, not tensors with a name: version, 7", "left out: 2 of num_batches_tracked"]


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        (A, "contains a ndarray, not parameters by name"),
        ({}, "contains no tensor with a name; save"),
        ({"epoch": 1, "lr": 0.1}, "contains no tensor with a name, only epoch, lr"),
        ({"model": {}}, "contains no tensor with a name; save"),
        ({"num_batches_tracked": A}, "contains no tensor with a name, only num_batches_tracked"),
    ],
)
def test_a_file_without_parameters_is_refused(loaded, text):
    with pytest.raises(UserError, match=text):
        convert.find_parameters(loaded, np.ndarray)


def test_the_error_without_torch_names_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"any")
    text = fails(capsys, tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert "pip install torch" in text and not (tmp_path / "a.safetensors").exists()


def test_an_existing_file_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    assert "a.safetensors already exists" in fails(capsys, tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("new", [True, False])
def test_a_checkpoint_is_converted(tmp_path, capsys, torch, new):
    """The checkpoint has all types, views and scalars, in both formats of PyTorch."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator)
    tensors = {
        "module.weight": torch.nn.Parameter(weight),
        "module.turned": weight.T,
        "module.row": weight[1].expand(2, 3),
        "module.half": weight.half(),
        "module.brain": weight.bfloat16(),
        "module.double": weight.double(),
        "module.ids": torch.arange(3),
        "module.one": torch.tensor(2.5),
        "module.bn.num_batches_tracked": torch.tensor(9),
    }
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    target = tmp_path / "new" / "a.safetensors"
    assert convert.main([str(tmp_path / "a.pth"), str(target)]) == 0
    printed, arrays = capsys.readouterr().out, load_file(target)
    del tensors["module.bn.num_batches_tracked"]
    assert arrays.keys() == {name.removeprefix("module.") for name in tensors}
    for name, tensor in tensors.items():
        array = arrays[name.removeprefix("module.")]
        wanted = (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).detach().numpy()
        assert array.dtype == wanted.dtype and array.shape == wanted.shape
        np.testing.assert_array_equal(array, wanted)
    for text in (
        "taken from 'model'; left out: epoch",
        "removed 'module.' before all 8 names",
        "left out: 1 of num_batches_tracked",
        "converted 2 arrays of 16 bits to float32",
        f"{target}: 8 arrays, {4 * 3 * 5 + 6 + 3 + 1} parameters (batch statistics included)",
        f"sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}",
    ):
        assert text in printed.splitlines()
    assert not list(target.parent.glob("*.tmp"))


class Harmful:
    def __reduce__(self):
        return sys.exit, ("run",)


def test_invalid_files_print_a_one_line_error(tmp_path, capsys, torch):
    place, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    assert "cannot be read: No such file" in fails(capsys, place, target)
    assert "cannot be read: Is a directory" in fails(capsys, tmp_path, target)
    for content in (b"", b"hello world", b'{"a": 1}', b"PK\x03\x04abc", b"\x89PNG\r\n\x1a\n" + bytes(99)):
        place.write_bytes(content)
        assert "cannot be read as a PyTorch file: " in fails(capsys, place, target)
    torch.save({"a": torch.zeros(1000)}, place)
    place.write_bytes(place.read_bytes()[:2000])
    assert "cannot be read as a PyTorch file: " in fails(capsys, place, target)
    for held, name in ((Harmful(), "sys.exit"), (argparse.Namespace(lr=1), "argparse.Namespace")):
        torch.save({"model": {"a": torch.zeros(2)}, "args": held}, place)
        text = fails(capsys, place, target)
        assert f"is not loaded: it contains objects of {name}" in text and "only its state_dict()" in text
    torch.save([torch.zeros(2)], place)
    assert "contains a list, not parameters by name" in fails(capsys, place, target)
    torch.save({"a": torch.zeros(2, dtype=torch.complex128)}, place)
    assert 'cannot become safetensors: Unknown dtype "complex128"' in fails(capsys, place, target)
    torch.save({"a": torch.eye(3).to_sparse()}, place)
    assert "a cannot become an array" in fails(capsys, place, target)
    assert not target.exists()
