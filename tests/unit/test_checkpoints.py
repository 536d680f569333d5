"""Checkpoints are read as Detectron2 reads them, and never run what they hold."""

import collections
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from scanmill.checkpoints import Checkpoint, match_names, read_checkpoint
from scanmill.errors import UserError

WEIGHTS = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "conv.bias": np.ones(2)}


class Command:
    """What runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def write(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def arrays(checkpoint):
    return {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}


def assert_weights(checkpoint):
    found = arrays(checkpoint)
    assert found.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype


# Read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_detectron2(tmp_path, protocol):
    data = {"model": WEIGHTS, "__author__": "Detectron2 Model Zoo"}
    checkpoint = read_checkpoint(write(tmp_path / "a.pkl", data, protocol))
    assert_weights(checkpoint)
    assert checkpoint[1:] == ("Detectron2 Model Zoo", False)


def test_pickle_whose_names_are_to_be_matched(tmp_path):
    data = {"model": WEIGHTS, "__author__": "torchvision", "matching_heuristics": True}
    assert read_checkpoint(write(tmp_path / "a.pkl", data))[1:] == ("torchvision", True)


@pytest.mark.parametrize("blobs", [True, False])
def test_pickle_of_detectron(tmp_path, blobs):
    """Without an author: the ImageNet models are bare, detectors have `blobs`."""
    bare = {"conv1_w": WEIGHTS["conv.weight"], "conv1_w_momentum": WEIGHTS["conv.weight"]}
    data = {"blobs": bare, "cfg": "TRAIN: ..."} if blobs else bare
    checkpoint = read_checkpoint(write(tmp_path / "a.pkl", data))
    assert set(checkpoint.tensors) == {"conv1_w"}
    assert checkpoint[1:] == ("Caffe2", True)


def test_pickle_of_python_2(tmp_path):
    """Its texts are bytes, and an array's data stands in one of them."""
    array = np.array([1.5, -2.0], np.float32)
    data = b"\x80\x02}q\x00U\x07conv1_wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
    data += b"q\x03K\x00\x85U\x01b\x87Rq\x04(K\x01K\x02\x85"
    data += b"cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06"
    data += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + array.tobytes()
    data += b"tbs."
    (tmp_path / "a.pkl").write_bytes(data)
    checkpoint = read_checkpoint(tmp_path / "a.pkl")
    assert np.array_equal(checkpoint.tensors["conv1_w"].numpy(), array)


def test_checkpoint_of_a_trainer(tmp_path):
    """With what it holds beside the model: an optimizer, and numbers of numpy."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    data = {
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": 99,
        "best": np.float64(0.5),
        "counts": np.ones(3),
    }
    for old in (False, True):
        torch.save(data, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        tensors = read_checkpoint(tmp_path / "a.pth").tensors
        assert set(tensors) == {"weight", "bias"}
        assert torch.equal(tensors["weight"], layer.weight)


def test_bare_and_parallel_weights(tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    torch.save(tensors, tmp_path / "a.pth")
    assert_weights(read_checkpoint(tmp_path / "a.pth"))
    torch.save({f"module.{name}": each for name, each in tensors.items()}, tmp_path / "b.pth")
    assert_weights(read_checkpoint(tmp_path / "b.pth"))
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")
    assert_weights(read_checkpoint(tmp_path / "c.safetensors"))


def test_file_of_torch_is_known_by_its_content(tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    for old in (False, True):
        torch.save(tensors, tmp_path / "a.pkl", _use_new_zipfile_serialization=not old)
        assert_weights(read_checkpoint(tmp_path / "a.pkl"))


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_would_run_a_command_does_not(tmp_path, protocol):
    marker = tmp_path / "ran"
    for data in (
        {"model": {"conv.weight": Command(marker)}, "__author__": "me"},
        {"model": WEIGHTS, "__author__": "me", "extra": Command(marker)},
        {"conv1_w": WEIGHTS["conv.weight"], "zz": [Command(marker)]},
    ):
        path = write(tmp_path / "a.pkl", data, protocol)
        with pytest.raises(
            UserError, match=r"a\.pkl is not opened: it asks for posix\.system when"
        ):
            read_checkpoint(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # It would have.


@pytest.mark.parametrize("old", [False, True])
def test_checkpoint_that_would_run_a_command_does_not(tmp_path, monkeypatch, old):
    marker, path = tmp_path / "ran", tmp_path / "a.pth"
    data = {"model": {"conv.weight": torch.ones(2)}, "trainer": Command(marker)}
    torch.save(data, path, _use_new_zipfile_serialization=not old)
    # With which users of older checkpoints turn torch's own guard off.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(UserError, match=r"a\.pth is not opened: it asks for posix\.system when"):
        read_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=None)
    assert marker.exists()


def test_pickles_of_other_kinds_are_refused(tmp_path):
    """Ways to a command that go by names which look harmless."""
    unpackers = [
        b"c_codecs\ndecode\n(Vx\nVzip\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\n(I0\ntVb\ntR.",
        b"cbuiltins\neval\n(V1\ntR.",
        b"cnumpy\nload\n(Vx\ntR.",
        b"cnumpy.ndarray\ntofile\n.",
        b"ccollections\nOrderedDict.__init__\n.",
    ]
    for data in unpackers:
        (tmp_path / "a.pkl").write_bytes(data)
        with pytest.raises(UserError, match="is not opened: it asks for"):
            read_checkpoint(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(b"c_codecs\nencode\n(Vx\nVzip\ntR.")
    with pytest.raises(UserError, match="the codec zip"):
        read_checkpoint(tmp_path / "a.pkl")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1], "holds a list"),
        ({}, "holds no weights"),
        ({"model": 3, "__author__": "me"}, "holds no weights"),
        ({"a": "text"}, "'a' is a str"),
        ({"a": np.float32(1)}, "'a' is a float32"),
        ({3: np.ones(2)}, "'3' is a Tensor"),
        ({"a": np.array(["text"])}, "'a' is a ndarray"),
    ],
)
def test_what_is_no_weights_is_named(tmp_path, value, says):
    with pytest.raises(UserError, match=says):
        read_checkpoint(write(tmp_path / "a.pkl", value))


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors"])
def test_damaged_file_is_named(tmp_path, name):
    path = tmp_path / name
    torch.save({"a": torch.ones(1000)}, tmp_path / "b.pth")
    for data in (b"", b"<html>", b"\x80\x02", (tmp_path / "b.pth").read_bytes()[:3000]):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=rf"{name} is no checkpoint, or is damaged .*again"
        ) as raised:
            read_checkpoint(path)
        assert "weights_only" not in str(raised.value)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        read_checkpoint(path)


# Names --------------------------------------------------------------------------------------------


def test_names_that_fit_stay(tmp_path):
    tensors = {"a.weight": torch.ones(2), "pixel_mean": torch.ones(3)}
    tensors["proposal_generator.anchor_generator.cell_anchors.0"] = torch.ones(3, 4)
    assert set(match_names(Checkpoint(tensors, "", False), {})) == {"a.weight"}


def test_names_are_completed_as_detectron2_does():
    model = {
        "backbone.bottom_up.stem.conv1.weight": torch.zeros(2),
        "rpn.conv.weight": torch.zeros(2),
    }
    tensors = {"stem.conv1.weight": torch.ones(2), "fc.weight": torch.ones(3)}
    matched = match_names(Checkpoint(tensors, "torchvision", True), model)
    assert set(matched) == {"backbone.bottom_up.stem.conv1.weight", "fc.weight"}


def test_names_of_caffe_are_translated():
    model = {
        "backbone.bottom_up.stem.conv1.norm.running_mean": torch.zeros(2),
        "backbone.bottom_up.res2.0.conv1.weight": torch.zeros(2),
        "roi_heads.box_predictor.cls_score.bias": torch.zeros(3),
    }
    tensors = {
        "res_conv1_bn_running_mean": torch.ones(2),
        "res2_0_branch2a_w": torch.ones(2),
        "cls_score_b": torch.tensor([9.0, 1.0, 2.0]),
    }
    matched = match_names(Checkpoint(tensors, "Caffe2", True), model)
    assert matched.keys() == model.keys()
    # The background goes last.
    assert matched["roi_heads.box_predictor.cls_score.bias"].tolist() == [1.0, 2.0, 9.0]


def test_names_that_fit_twice_are_refused():
    model = {"a.conv.weight": torch.zeros(2), "b.conv.weight": torch.zeros(2)}
    with pytest.raises(UserError, match="do not tell its tensors apart"):
        match_names(Checkpoint({"conv.weight": torch.ones(2)}, "x", True), model)


def test_order_of_weights_is_kept(tmp_path):
    names = ["b", "a", "c"]
    ordered = collections.OrderedDict((name, np.ones(1)) for name in names)
    path = write(tmp_path / "a.pkl", {"model": ordered, "__author__": "me"})
    assert list(read_checkpoint(path).tensors) == names
