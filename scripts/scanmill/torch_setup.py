"""Imports torch, torchvision and Detectron2's layers: after what torch reads once, before what it should
not say, and without what nobody here uses.

Every module that uses torch or Detectron2 imports this one first.
"""

import contextlib
import logging
import os
import sys
import warnings
from types import ModuleType
from typing import Any

# Threads that wait give way to the loaders and to other jobs; OpenMP's default is that they spin, which
# took twice the time on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

# What torch says of Detectron2's code at every start, and nobody can act on.
warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def _is_compile_supported(device_type: Any) -> Any:  # noqa: ANN401
    """The function of that name, of the module that is imported with it."""
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


def _spare_compiler() -> None:
    """Import torchvision and Detectron2's layers, and torch's compiler only once it is asked for.

    It takes as long to import as torch does, and nothing here is compiled. torchvision wants one of its
    functions, and Detectron2 asks before each convolution whether it is at work.
    """
    name = "torch._dynamo.utils"
    if name not in sys.modules:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].is_compile_supported = _is_compile_supported
        # Another torchvision may want more of it, and is imported as usual.
        with contextlib.suppress(ImportError):
            import torchvision.ops  # noqa: F401
        del sys.modules[name]

    from detectron2.layers import wrappers

    wrappers.check_if_dynamo_compiling = torch.compiler.is_compiling


_spare_compiler()
