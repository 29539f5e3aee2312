"""Tests of the tests: break one line of `lib` in a copy and see the test run go red.

The unbroken copy is run too, so that red means the breakage and nothing else.
"""

import os
import shutil
import subprocess
import sys

import pytest

from pipeline.chapters import ROOT

#: what is broken -> file, line as it is, line broken, the tests that must notice
BREAKAGES = {
    "trace bound off by one percent": (
        "lib/theory/bounds.py",
        '(np.cos(_angles("total_distance", total_distance, head_dim, base)).mean(-1))',
        '(1.01 * np.cos(_angles("total_distance", total_distance, head_dim, base)).mean(-1))',
        "theory/test_bounds.py",
    ),
    "RoPE rotation with one sign flipped": (
        "lib/encodings.py",
        "self._planes = torch.complex(angles.cos().float(), angles.sin().float())",
        "self._planes = torch.complex(angles.cos().float(), -angles.sin().float())",
        "test_encodings.py",
    ),
    "storage untied from what is stored: values carry their position": (
        "lib/one_layer/model.py",
        "values = self.values(self.split(self.value(value_input)))",
        "values = self.values(self.split(self.value(value_input + 0.01 * torch.arange(x.shape[-2])[:, None])))",
        "one_layer/test_model.py",
    ),
}


def run(folder, name):
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/{name}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module", params=BREAKAGES)
def copies(request, tmp_path_factory):
    """The breakage, a whole copy and a broken copy of lib and its tests."""
    file, whole_line, broken_line, _ = BREAKAGES[request.param]
    folders = [tmp_path_factory.mktemp(name) for name in ("whole", "broken")]
    for folder in folders:
        for name in ("lib", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(ROOT / "pyproject.toml", folder)
    text = (ROOT / file).read_text()
    assert text.count(whole_line) == 1, f"{file} no longer holds the line that this breakage breaks: {whole_line}"
    (folders[1] / file).write_text(text.replace(whole_line, broken_line))
    return request.param, *folders


def test_a_breakage_turns_the_run_red(copies):
    breakage, whole, broken = copies
    name = BREAKAGES[breakage][-1]
    unbroken = run(whole, name)
    assert unbroken.returncode == 0, unbroken.stdout[-2000:]
    red = run(broken, name)
    assert red.returncode == 1 and " failed" in red.stdout, red.stdout[-2000:]
