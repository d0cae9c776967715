"""The examples of the adapters run, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("package", "script", "epochs", "accuracies"), [
    ("torch", "torch_accelerate/train.py", 2, 2), ("sklearn", "sklearn_digits/search.py", 3, 1)])
def test_example(package, script, epochs, accuracies):
    pytest.importorskip(package)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run([sys.executable, ROOT / "examples" / script, "--epochs", str(epochs)], text=True,
                            capture_output=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert result.returncode == 0, result.stderr
    found = [float(text) for text in re.findall(r"accuracy (\d\.\d+)", result.stdout)]
    assert len(found) == accuracies
    assert min(found) > 0.8
