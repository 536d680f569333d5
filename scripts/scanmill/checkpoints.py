"""Checkpoints of others, read without running what they hold.

A pickle is a program. `.pth` files are read by torch's unpickler of weights alone, `.pkl` files (those
of Detectron2's and Detectron's model zoos) by one that knows arrays and plain containers.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import scanmill.torch_setup  # noqa: F401

# isort: split
import safetensors.torch
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

from scanmill.errors import UserError

#: What old checkpoints hold and a config decides: Detectron2 does not load them either.
NOT_WEIGHTS = ("pixel_mean", "pixel_std", "anchor_generator.cell_anchors")


class Checkpoint(NamedTuple):
    """The weights of a file, under the names that stand there."""

    tensors: dict[str, torch.Tensor]
    author: str
    """`Caffe2` for those of Detectron, whatever the file says of itself, or empty."""
    matched: bool
    """Whether names are only parts of the model's, to be matched as Detectron2 does."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights of a `.pth`, `.pkl` or `.safetensors` file.

    Raises UserError where the file holds anything but tensors, arrays and plain containers; nothing of
    it is called then.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if path.suffix == ".safetensors":
            return Checkpoint(safetensors.torch.load_file(path), "", False)
        if path.suffix == ".pkl" and not _is_torch(head):
            return _of_pickle(_unpickle(path), path)
        loaded = _load_torch(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None
    except (safetensors.SafetensorError, MemoryError, OverflowError) as error:
        raise _damaged(path, error) from None
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a model's weights by name.")
    return _checkpoint(loaded.get("model", loaded), loaded, path)


def _damaged(path: Path, why: Exception | str) -> UserError:
    if isinstance(why, Exception):
        why = f"{type(why).__name__}: {str(why)[:200]}"
    return UserError(f"{path} is no checkpoint, or is damaged ({why}). Fetch it again.")


def _refused(path: Path, name: str) -> UserError:
    return UserError(
        f"{path} is not opened: it asks for {name} when it is read, and weights need no such "
        "thing. A file like that can run any command on this machine. Ask its author for the bare "
        "weights: torch.save(model.state_dict(), ...)."
    )


# torch --------------------------------------------------------------------------------------------

#: What torch.save began with before it wrote zip files (torch.serialization.MAGIC_NUMBER, pickled).
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def _is_torch(head: bytes) -> bool:
    return head.startswith(b"PK") or head[2:].startswith(_OLD_TORCH)


def _load_torch(path: Path) -> object:
    # Numbers of numpy among a trainer's states, under the names of both numpy 1 and 2.
    core = np._core.multiarray
    names = ("_reconstruct", "scalar")
    parts = [
        (getattr(core, n), f"numpy.{c}.multiarray.{n}") for n in names for c in ("core", "_core")
    ]
    parts += [np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]
    try:
        with torch.serialization.safe_globals(parts):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"type (\S+)", str(error))
        if asked:
            raise _refused(path, asked[1]) from None
        raise _damaged(path, "torch.save has not written it") from None
    except RuntimeError as error:
        raise _damaged(path, error) from None


# Plain pickles ------------------------------------------------------------------------------------


class _NotPlain(Exception):
    """A pickle asks for something that weights do not need."""


def _array(kind: object, shape: tuple, code: object) -> np.ndarray:
    """As numpy's _reconstruct: an empty array, which is filled by its own __setstate__."""
    if kind is not np.ndarray or shape != (0,):
        raise _NotPlain(f"an array of {kind}")
    return np.ndarray((0,), np.int8)


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """As codecs.encode, as which Python 3 writes bytes into old pickles; other codecs unpack."""
    if encoding != "latin1":
        raise _NotPlain(f"the codec {encoding}")
    return text.encode("latin1")


def _from_buffer(buffer: bytes, code: np.dtype, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(buffer, code).reshape(shape, order=order)


_PLAIN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encoded,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{
        (f"numpy.{core}.multiarray", "scalar"): np._core.multiarray.scalar
        for core in ("core", "_core")
    },
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy's arrays and plain containers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> object:
        """One of _PLAIN."""
        try:
            return _PLAIN[module, name]
        except KeyError:
            raise _NotPlain(f"{module}.{name}") from None


def _unpickle(path: Path) -> object:
    try:
        # latin1: as Detectron2 reads what Python 2 wrote.
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except _NotPlain as error:
        raise _refused(path, str(error)) from None
    except pickle.UnpicklingError as error:
        raise _damaged(path, error) from None


def _of_pickle(data: object, path: Path) -> Checkpoint:
    """As DetectionCheckpointer._load_file tells Detectron2's pickles from those of Detectron."""
    if not isinstance(data, Mapping):
        raise UserError(f"{path} holds a {type(data).__name__}, not a model's weights by name.")
    if "model" in data and "__author__" in data:
        return _checkpoint(data["model"], data, path)
    blobs = data.get("blobs", data)
    if isinstance(blobs, Mapping):
        blobs = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return _checkpoint(blobs, {"__author__": "Caffe2", "matching_heuristics": True}, path)


def _checkpoint(weights: object, about: Mapping[str, Any], path: Path) -> Checkpoint:
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(f"{path} holds no weights by name.")
    tensors = {}
    for name, value in weights.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))  # A copy: it may be read-only.
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            raise UserError(
                f"{path} holds no weights by name: {str(name)!r:.80} is a {type(value).__name__}."
            )
        # As fvcore's: what torch's DataParallel puts before each name.
        tensors[name] = value
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    author, matched = str(about.get("__author__", "")), about.get("matching_heuristics") is True
    return Checkpoint(tensors, author, matched)


# Names --------------------------------------------------------------------------------------------


def match_names(
    checkpoint: Checkpoint, model: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint under the names of `model`, a state dict, as far as they match.

    As Detectron2 does: names of Detectron (Caffe2) are translated, with the background's class moved to
    the end; names that are only the ends of the model's are completed. What no name matches stays as it
    is.
    """
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not any(part in name for part in NOT_WEIGHTS)
    }
    if not checkpoint.matched:
        return tensors
    try:
        return align_and_update_state_dicts(model, tensors, checkpoint.author == "Caffe2")
    except (ValueError, AssertionError) as error:
        raise UserError(f"The checkpoint's names do not tell its tensors apart: {error}") from None
