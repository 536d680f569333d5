"""Imports torch, after what it reads once, and before what it should not say.

Every module that uses torch or Detectron2 imports this one first.
"""

import logging
import os
import warnings

# Threads that wait give way to the loaders and to other jobs; OpenMP's default is that they spin, which
# took twice the time on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: F401

# What torch says of Detectron2's code at every start, and nobody can act on.
warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
