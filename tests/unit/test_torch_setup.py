"""What torch brings along that nothing here needs stays away, until someone asks for it."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "models/scanmill-layout"

DETECTS = f"""
import sys
from scanmill import detector
model = detector.load({str(FOLDER)!r})
assert model.detect({str(FOLDER / "pages.jpg")!r}).num_rows > 5
assert "torch._dynamo" not in sys.modules
"""

ASKS = """
import sys
import scanmill.torch_setup
import torch
from torchvision.ops import roi_align
page, box = torch.rand(1, 1, 8, 8), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
expected = roi_align(page, box, 2)
function = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert "torch._dynamo" not in sys.modules
from torch._dynamo.utils import is_compile_supported
assert function is not is_compile_supported
assert function("cpu") == is_compile_supported("cpu")
assert torch.equal(torch.compile(roi_align, backend="eager")(page, box, 2), expected)
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_detecting_does_not_import_the_compiler():
    run(DETECTS)


def test_the_compiler_is_there_for_who_asks():
    run(ASKS)
