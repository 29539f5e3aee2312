"""Run tests on a mutant of one module of `lib`, in a process of its own, without changing a file.

Everything that tests need is imported once. For a mutant the process is forked; the child forgets the module and all
that imports it, finds the mutant's source in its place when it is imported again, and runs pytest until a test fails:
first the test files that import the module themselves, then the chapters' checks that use it, then the other test files
that reach it.

The processor time of a test is limited, by what it took on the module as it is. A mutant on which one takes longer
counts as killed, and is told apart. Chapters' checks that take more than `SLOW` seconds are left out, and so are those
that fail on the module as it is when types are checked, as they are in tests and not in chapters.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import importlib
import importlib.machinery
import inspect
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from lib.record import provenance
from pipeline import imports

TESTS = imports.ROOT / "tests" / "theory"
KEPT = imports.ROOT / "_build" / "mutants" / "outcomes.jsonl"
CHECKS = TESTS / "chapter_checks.py"
SLACK, TIMES = 10, 4  # processor time of a test: so many seconds, and so many times what it took without the mutation
COLLECTION = 60  # seconds
SLOW = 4  # seconds of a chapter's check
_PYTEST = ("-q", "-o", "addopts=", "--import-mode=importlib", "--strict-markers", "-p", "no:cacheprovider",
           "-p", "_hypothesis_pytestplugin", "--rootdir", str(imports.ROOT))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one mutant ended."""

    fate: str  # one of `survivors.FATES`
    test: str  # the first that failed, if one did
    seconds: float  # of the clock
    kept: bool = False  # from an earlier run


class Watch:
    """A pytest plugin: which tests run and in what order, how much processor time each may take, which fail.

    Quick tests run first, after those whose text names the function that the mutant changes. Of the chapters' checks
    only those run that use the module.
    """

    def __init__(self, known: Mapping[str, float] | None = None, module: str = "", function: str = "") -> None:
        self.known, self.module, self.function = known, module, function.rpartition(".")[2]
        self.seconds, self.failed = dict[str, float](), list[str]()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        known = self.known
        if known is not None:
            items[:] = [item for item in items if item.nodeid in known and self._uses_module(item)]
            items.sort(key=lambda item: (self.function not in _text(item), known[item.nodeid]))

    def _uses_module(self, item: Any) -> bool:
        check = _check(item)
        return check is None or self.module in check.modules

    def pytest_runtest_setup(self, item: Any) -> None:
        limit(SLACK + TIMES * (self.known or {}).get(item.nodeid, 60.0))
        self.seconds[item.nodeid] = -time.process_time()

    def pytest_runtest_teardown(self, item: Any) -> None:
        self.seconds[item.nodeid] += time.process_time()

    def pytest_collectreport(self, report: Any) -> None:
        self.failed += [report.nodeid] if report.failed else []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed += [report.nodeid] if report.failed else []


def _check(item: Any) -> Any:
    """The chapter's check that an item of pytest runs, if it runs one."""
    return item.callspec.params["check"] if item.path == CHECKS else None


def _text(item: Any) -> str:
    """The source of a test, or of a chapter's check."""
    check = _check(item)
    return inspect.getsource(item.function) if check is None else check.text


class Suite:
    """The tests of the theory, and the outcomes that are known already.

    :raises RuntimeError: if a test fails on the modules as they are
    """

    def __init__(self) -> None:
        prepare()
        self.files = sorted(TESTS.glob("test_*.py"))
        self.code = digest()
        self.kept = dict(kept_outcomes(self.code))
        self.seconds = self._unchanged()

    def _unchanged(self) -> dict[str, float]:
        """Processor seconds of every test that is run on mutants, kept from an earlier run of the same code."""
        kept = KEPT.with_name(f"seconds_{self.code[:12]}.json")
        if not kept.exists():
            print(f"the tests without a mutation: {len(self.files)} files and the chapters' checks", flush=True)
            found = in_child(lambda: tested([[*self.files, CHECKS]], Watch()))
            failed = found["failed"] if found else ["out of time"]
            if not found or not all(CHECKS.name in test for test in failed):
                raise RuntimeError(f"tests fail without any mutation: {', '.join(failed)}")
            slow = {test for test, taken in found["seconds"].items() if CHECKS.name in test and taken > SLOW}
            provenance.write_json(kept, {test: taken for test, taken in found["seconds"].items()
                                         if test not in slow.union(failed)})
        return json.loads(kept.read_text(encoding="utf-8"))

    def outcome(self, module: str, function: str, source: str, identity: str) -> Outcome:
        """Run the tests of a module on a mutant of it.

        :param module: dotted name
        :param function: that the mutation stands in
        :raises RuntimeError: if `lib` or a test has changed since the first mutant
        """
        if identity in self.kept:
            return self.kept[identity]
        started, watch = time.perf_counter(), Watch(self.seconds, module, function)

        def run() -> dict[str, Any]:
            put_in_place(module, source)
            return tested(self.stages(module), watch)

        found = in_child(run)
        if digest() != self.code:
            raise RuntimeError("lib or its tests were changed while mutants ran; start again")
        fate = "timeout" if found is None else "killed" if found["failed"] else "survived"
        test = found["failed"][0] if found and found["failed"] else ""
        outcome = Outcome(fate, test, round(time.perf_counter() - started, 2))
        keep(self.code, identity, outcome)
        return outcome

    def stages(self, module: str) -> list[list[Path]]:
        """The test files that import the module themselves, the chapters' checks, and the files that reach it."""
        near = [file for file in self.files if module in named(file)]
        far = [file for file in self.files if file not in near and reaches(file, module)]
        return [stage for stage in (near, [CHECKS], far) if stage]


# What imports what -----------------------------------------------------------------------------------------------


@functools.cache
def named(file: Path) -> frozenset[str]:
    """What a file imports itself, dotted."""
    return frozenset(imports.imports(file.read_text(encoding="utf-8")))


@functools.cache
def reaches(file: Path, module: str) -> bool:
    """Whether a test file imports the module, directly or through others."""
    return imports.module_file(module) in imports.closure(sorted(named(file)))


def digest() -> str:
    """SHA-256 of all that outcomes depend on: `lib`, the tests of the theory, the packages and this runner."""
    files = sorted({*(imports.ROOT / "lib").rglob("*.py"), *TESTS.glob("*.py"), Path(__file__),
                    *(imports.ROOT / name for name in ("conftest.py", "tests/conftest.py", "tests/plain_numerics.py",
                                                       "requirements.lock")),
                    *(imports.ROOT / "book").glob("*.md"), imports.ROOT / "book" / "claims.yml",
                    imports.ROOT / "results" / "ledger.json"} - {imports.ROOT / "book" / "ledger.md"})
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def kept_outcomes(code: str) -> Iterator[tuple[str, Outcome]]:
    """Outcomes of earlier runs of the same code, by the mutant's identity."""
    if KEPT.exists():
        for line in KEPT.read_text(encoding="utf-8").splitlines():
            each = json.loads(line)
            if each["code"] == code:
                yield each["mutant"], Outcome(each["fate"], each["test"], each["seconds"], kept=True)


def keep(code: str, identity: str, outcome: Outcome) -> None:
    """Add one outcome to those that a later run finds."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    line = {"code": code, "mutant": identity, **dataclasses.asdict(outcome)}
    with KEPT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


# One process a mutant --------------------------------------------------------------------------------------------


def prepare() -> None:
    """Import all that the tests import, `lib` with its types checked as pytest has them checked."""
    import hypothesis
    import jaxtyping
    import torch

    torch.set_num_threads(1)
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutants")
    jaxtyping.install_import_hook("lib", "beartype.beartype")
    files = [*TESTS.glob("*.py"), imports.ROOT / "tests" / "conftest.py"]
    for name in sorted(set().union(*map(named, files)) | {"pytest", "_pytest.assertion", "matplotlib.pyplot"}):
        try:
            importlib.import_module(name)
        except ImportError:  # a name within a module, or a file beside the tests
            continue
    gc.collect()
    gc.freeze()  # no child looks through all of this again


def put_in_place(module: str, source: str) -> None:
    """Have the next import of a module find this source, and forget the module and all that imports it."""
    sys.dont_write_bytecode = True
    path = str(imports.module_file(module))
    read = importlib.machinery.SourceFileLoader.get_data

    def get_data(loader: Any, file: str) -> bytes:
        if loader.path != path:
            return read(loader, file)
        if file != path:  # compiled, of the module as it is
            raise OSError(file)
        return source.encode()

    importlib.machinery.SourceFileLoader.get_data = get_data  # type: ignore[method-assign,assignment]
    for name in [name for name in sys.modules if name.startswith("lib.") and _depends(name, path)]:
        del sys.modules[name]
        package, _, own = name.rpartition(".")
        if hasattr(sys.modules.get(package), own):
            delattr(sys.modules[package], own)


@functools.cache
def _depends(name: str, path: str) -> bool:
    return Path(path) in imports.closure([name])


def tested(stages: list[list[Path]], watch: Watch) -> dict[str, Any]:
    """Run the files of each stage until a test fails: the first that failed, and seconds by test."""
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # seconds of imports
    once = ("-x",) if watch.known is not None else ()
    for files in stages:
        limit(COLLECTION)
        status = pytest.main([*_PYTEST, *once, *map(str, files)], plugins=[watch])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            watch.failed = watch.failed or [f"pytest ended with {status!r}"]
            break
    return {"failed": watch.failed, "seconds": watch.seconds}


def limit(seconds: float) -> None:
    """Let this process end after so much more processor time, or sixty times as much on the clock."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, most))
    signal.alarm(int(60 * seconds))


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a function returns in a forked process; nothing if `limit` ends the process.

    :raises RuntimeError: if the function raises
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(work, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if text:
        return json.loads(text)
    if status >= 0:
        raise RuntimeError(f"the process of a mutant ended with {status}")
    return None if status in (-signal.SIGXCPU, -signal.SIGALRM) else {"failed": [f"signal {-status}"], "seconds": {}}


def _child(work: Callable[[], dict[str, Any]], writing: int) -> NoReturn:
    """Write what the function returns, and end the process."""
    try:
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for end in (signal.SIGXCPU, signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(end, signal.SIG_DFL)
        found = json.dumps(work()).encode()
        while found:
            found = found[os.write(writing, found):]
        os._exit(0)
    finally:
        os._exit(1)
