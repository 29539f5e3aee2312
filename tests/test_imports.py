"""What a chapter depends on: the files that its imports lead to, and no others."""

import os
import subprocess
import sys

import pytest

from pipeline import chapters, imports


def test_a_closure_follows_every_kind_of_import(monkeypatch, tmp_path):
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    for name, text in {
        "lib/__init__.py": "", "lib/a.py": "import numpy\nfrom lib.pack import inner\n",
        "lib/pack/__init__.py": "from .eager import thing\n", "lib/pack/eager.py": "thing = 1\n",
        "lib/pack/inner.py": "def late():\n    from lib import b\n    from .. import c\n",
        "lib/b.py": "import lib.d as e\n", "lib/c.py": "from lib.f import Name\n", "lib/d.py": "",
        "lib/f.py": "from lib.a import x\n", "lib/unused.py": "",
        "lib/templates/x.html": "", "lib/other/__init__.py": "", "lib/other/y.html": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {str(path.relative_to(tmp_path)) for path in imports.closure(["lib.a", "numpy", "lib.missing"])}
    assert found == {"lib/__init__.py", "lib/templates/x.html", "lib/a.py", "lib/pack/__init__.py",
                     "lib/pack/eager.py", "lib/pack/inner.py", "lib/b.py", "lib/c.py", "lib/d.py", "lib/f.py"}


@pytest.mark.parametrize(("chapter", "uses", "not_"), [
    ("routing", "lib/encodings.py", "lib/language_models/decoding.py"),
    ("storage", "lib/record/claims.py", "lib/one_layer/training.py"),
    ("language_models", "lib/language_models/decoding.py", "lib/theory/storage.py"),
])
def test_a_chapter_depends_on_what_it_imports_alone(chapter, uses, not_):
    found = imports.closure(chapters.imported(chapter))
    assert chapters.ROOT / uses in found and chapters.ROOT / not_ not in found


def test_every_module_of_lib_that_was_loaded_by_an_import_is_in_its_closure():
    modules = ["lib.theory.routing", "lib.one_layer.training", "lib.language_models.reversal_run", "lib.record.claims"]
    for module in modules:
        code = (f"import sys, {module}\nprint(*(m.__file__ for n, m in sys.modules.items()"
                " if n.split('.')[0] == 'lib' and getattr(m, '__file__', None)))")
        done = subprocess.run([sys.executable, "-c", code], cwd=chapters.ROOT, capture_output=True, text=True,
                              check=True, env={**os.environ, "PYTHONPATH": str(chapters.ROOT)})
        assert set(done.stdout.split()) <= {str(path) for path in imports.closure([module])}


def test_what_draws_recorded_results_waits_for_no_model_class():
    """transformers takes seconds to bring its models along; only what builds or reads a model should wait."""
    modules = ("lib.language_models.figures", "lib.language_models.figures_pretrained", "lib.language_models.tables",
               "lib.language_models.pretrained_run", "lib.stores.edit_figures")
    code = f"import sys, {', '.join(modules)}\nprint('transformers.modeling_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=chapters.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
