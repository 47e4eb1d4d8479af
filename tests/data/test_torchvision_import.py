"""The compatibility module, each case in a fresh process: the trouble it mends exists at import time only."""

import subprocess
import sys

FAKE_FAILING = """
import torch
from torchvision.datasets import marker  # imported before the failure; must be an attribute after it too
import torchvision
torchvision.datasets.marker
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold): ...
@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold): ...
"""
ASK = "import torch\nfrom testbed.data import torchvision_import\nprint(hasattr(torch.ops.torchvision, 'nms'))"


def run(code, *, fake=None, tmp_path=None):
    """Runs ``code`` with, if given, a fake torchvision package of which ``fake`` is the __init__."""
    prefix = ""
    if fake is not None:
        package = tmp_path / "torchvision"
        (package / "transforms").mkdir(parents=True)
        (package / "__init__.py").write_text(fake)
        for name in ("datasets.py", "transforms/__init__.py", "transforms/v2.py"):
            (package / name).write_text("marker = 1\n")
        prefix = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    return subprocess.run([sys.executable, "-W", "error", "-c", prefix + code], capture_output=True, text=True)


def test_this_installation_s_torchvision_imports():
    code = (
        "from testbed.data.torchvision_import import datasets, transforms\nprint(datasets.MNIST, transforms.RandomCrop)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "MNIST" in done.stdout


def test_missing_schemas_are_declared(tmp_path):
    without_help = "try:\n    import torchvision\nexcept RuntimeError as error:\n    print(error)\n"
    done = run(without_help + ASK, fake=FAKE_FAILING, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["operator torchvision::nms does not exist", "True"]


def test_inert_where_the_import_works(tmp_path):
    done = run(ASK, fake="", tmp_path=tmp_path)
    assert done.stdout.split() == ["False"], done.stderr


def test_other_failures_pass_through(tmp_path):
    ask = "try:\n    from testbed.data import torchvision_import\nexcept RuntimeError as error:\n    print(error)\n"
    ask += "import torch\nprint(hasattr(torch.ops.torchvision, 'nms'))"
    done = run(ask, fake="raise RuntimeError('something else')", tmp_path=tmp_path)
    assert done.stdout.splitlines() == ["something else", "False"], done.stderr


def test_nothing_else_imports_torchvision():
    from pathlib import Path

    import testbed

    sources = Path(testbed.__file__).parent.rglob("*.py")
    importing = [
        p.name for p in sources if "import torchvision" in p.read_text() or "from torchvision" in p.read_text()
    ]
    assert importing == ["torchvision_import.py"]
