"""A PyTorch file becomes safetensors with the same names and values, or one line says why not. Most of it needs torch."""

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
    return pytest.importorskip("torch", reason="reads and writes PyTorch's files, and torch is not installed")


def fails(capsys, *arguments):
    """Return the one line that the command ends with."""
    assert convert.main(list(map(str, arguments))) == 1
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


def test_bare_parameters_stay_as_they_are():
    assert convert.find_parameters({"a.weight": A, "b": B}, np.ndarray) == ({"a.weight": A, "b": B}, [])


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model"])
def test_nested_parameters_are_found_and_what_is_left_out_is_said(nest):
    loaded = {"epoch": 3, nest: {"module.a": A, "module.b": B}, "optimizer": {}, "args": 1, "loss": A}
    tensors, notes = convert.find_parameters(loaded, np.ndarray)
    assert tensors == {"a": A, "b": B}
    assert notes[0] == f"taken from {nest!r}; left out: epoch, optimizer, args (and 1 more)"
    assert notes[1:] == ["'module.' is left out before all 2 names"]


def test_a_nest_in_a_nest_is_opened():
    tensors, notes = convert.find_parameters({"model": {"state_dict": {"a": A}}}, np.ndarray)
    assert tensors == {"a": A} and notes == ["taken from 'model'", "taken from 'state_dict'"]


def test_a_prefix_that_some_names_lack_stays():
    loaded = {"module.a": A, "b": B}
    assert convert.find_parameters(loaded, np.ndarray) == (loaded, [])


def test_what_is_no_parameter_is_left_out_and_said():
    loaded = {"bn.weight": B, "bn.num_batches_tracked": A, "x.num_batches_tracked": A, "version": 2, 7: A}
    tensors, notes = convert.find_parameters(loaded, np.ndarray)
    assert tensors == {"bn.weight": B}
    assert notes == ["left out, for they are no tensors with a name: version, 7", "left out: 2 of num_batches_tracked"]


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        (A, "holds one ndarray, not parameters by name"),
        ({}, "holds no tensor with a name, but nothing"),
        ({"epoch": 1, "lr": 0.1}, "holds no tensor with a name, but epoch, lr"),
        ({"model": {}}, "holds no tensor with a name, but nothing"),
        ({"num_batches_tracked": A}, "holds no tensor with a name, but num_batches_tracked"),
    ],
)
def test_what_holds_no_parameters_is_refused(loaded, text):
    with pytest.raises(UserError, match=text):
        convert.find_parameters(loaded, np.ndarray)


def test_without_torch_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"any")
    text = fails(capsys, tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert "pip install torch" in text and not (tmp_path / "a.safetensors").exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    assert "a.safetensors exists" in fails(capsys, tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("new", [True, False])
def test_a_checkpoint_is_converted(tmp_path, capsys, torch, new):
    """Of both of PyTorch's formats; of every type, of views, of numbers without axes."""
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
        "'module.' is left out before all 8 names",
        "left out: 1 of num_batches_tracked",
        "2 arrays of 16 bits are float32 now",
        f"{target}: 8 arrays, {4 * 3 * 5 + 6 + 3 + 1} parameters (batch statistics included)",
        f"sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}",
    ):
        assert text in printed.splitlines()
    assert not list(target.parent.glob("*.tmp"))


class Harmful:
    def __reduce__(self):
        return sys.exit, ("run",)


def test_bad_files_are_one_line(tmp_path, capsys, torch):
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
        assert f"is not loaded: it holds objects of {name}" in text and "state_dict() alone" in text
    torch.save([torch.zeros(2)], place)
    assert "holds one list, not parameters by name" in fails(capsys, place, target)
    torch.save({"a": torch.zeros(2, dtype=torch.complex128)}, place)
    assert 'cannot be safetensors: Unknown dtype "complex128"' in fails(capsys, place, target)
    torch.save({"a": torch.eye(3).to_sparse()}, place)
    assert "a cannot become an array" in fails(capsys, place, target)
    assert not target.exists()
