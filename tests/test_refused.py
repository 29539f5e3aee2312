"""What the workflow refuses before anything runs: settings and edits that do not fit, each by its name and place."""

import json
import os
import shlex
import subprocess
import sys

import pytest

CHAPTERS = "the chapters are index, one, two, ledger"
PARAMETERS = "its parameters are length=4, share=0.5, seeds=[0, 1], word=\"plain\""
BAD_COMMANDS = {
    "book SET=one.lenght=3": f"chapter one has no parameter 'lenght'; {PARAMETERS}",
    "book SET=eleven.length=3": f"no chapter 'eleven'; {CHAPTERS}",
    "book SET=index.length=3": "chapter index has no parameter 'length'; its parameters are none",
    "book SET=length=3": "not of the form chapter.parameter=value",
    "book SET=one.length": "not of the form chapter.parameter=value",
    "book SET=one.=3": "not of the form chapter.parameter=value",
    "book SET=.length=3": "not of the form chapter.parameter=value",
    "book SET==": "not of the form chapter.parameter=value",
    "book SET=one.length=long": "one.length='long': expected int, as in length=4",
    "book SET=one.length=": "one.length=None: expected int, as in length=4",
    "book SET=one.length=2.5": "one.length=2.5: expected int, as in length=4",
    "book SET=one.length=true": "one.length=True: expected int, as in length=4",
    "book SET=one.length=[4]": "one.length=[4]: expected int, as in length=4",
    "book SET=one.length=2020-01-01": "expected int, as in length=4",
    "book SET=one.length=0": "one.length=0: expected a number above 0, as in length=4",
    "book SET=one.length=-1": "one.length=-1: expected a number above 0, as in length=4",
    "book SET=one.length=99999999999999999999": "expected a finite number of at most 2147483647",
    "book SET=one.length=[": "one.length=[: no value can be read from '['",
    "book SET=one.length={": "no value can be read from '{'",
    "book SET=one.length=*x": "no value can be read from '*x'",
    "book SET=one.length=!!python/name:os.system": "no value can be read from",
    "book SET=one.share=.nan": "one.share=nan: expected a finite number",
    "book SET=one.share=.inf": "one.share=inf: expected a finite number",
    "book SET=one.share=-0.1": "one.share=-0.1: expected a number above 0, as in share=0.5",
    "book SET=one.share=half": "one.share='half': expected float, as in share=0.5",
    "book SET=one.seeds=0": "one.seeds=0: expected a list of one or more values, as in seeds=[0, 1]",
    "book SET=one.seeds=[]": "expected a list of one or more values, as in seeds=[0, 1]",
    "book SET=one.seeds=[-1]": "one.seeds=-1: expected a number of at least 0",
    "book SET=one.seeds=[a]": "one.seeds='a': expected int",
    "book SET=one.word=3": "one.word=3: expected str, as in word=\"plain\"",
    "book 'SET=one.length=2 one.length=3'": "one.length is set twice",
    "book 'SET=one.word=\"open'": "no closing quotation",
    "book NAME=one": "takes no NAME: it builds every chapter; `make chapter` builds one",
    "book PROFILE=slow": "no profile 'slow'; the profiles are auto, quick, full",
    "book CORES=0": "CORES=0: expected all or a whole number of at least 1",
    "book CORES=-1": "CORES=-1: expected all or a whole number",
    "book CORES=1.5": "CORES=1.5: expected all or a whole number",
    "book CORES=many": "CORES=many: expected all or a whole number",
    "book CORES=\u0663": "expected all or a whole number",
    "book 'CORES=2 --forceall'": "CORES=2 --forceall: expected all or a whole number",
    "chapter": "needs NAME=chapter, such as NAME=one_layer",
    "chapter NAME=eleven": f"no chapter 'eleven'; {CHAPTERS}",
    "chapter NAME=../one": f"no chapter '../one'; {CHAPTERS}",
    "chapter 'NAME=one two'": f"no chapter 'one two'; {CHAPTERS}",
    "chapter NAME=one SET=two.length=2": "two.length=2 has no effect on chapter one, which is built alone; use",
    "chapter NAME=one SET=lenght=2": f"chapter one has no parameter 'lenght'; {PARAMETERS}",
    "chapter NAME=one CORES=0": "CORES=0: expected all",
    "experiments NAME=eleven": f"no chapter 'eleven'; {CHAPTERS}",
    "experiments CORES=x": "CORES=x: expected all",
    "pages SET=one.length=2": "takes no SET: it executes nothing",
    "pages NAME=one": "takes no NAME: it executes nothing",
    "record SET=one.length=2": "takes no SET: what is recorded has the chapters' own parameters",
    "test SET=one.length=2": "make test takes neither SET nor NAME",
    "test-processor NAME=one": "make test-processor takes neither SET nor NAME",
    "mutants NAME=one": "make mutants takes neither SET nor NAME",
    "lint SET=x": "make lint takes neither SET nor NAME",
    "bench NAME=x": "make bench takes neither SET nor NAME",
    "clean NAME=one": "make clean takes neither SET nor NAME",
    "bok": "No rule to make target 'bok'",
}


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_what_does_not_exist_is_refused_with_what_does(unbuilt, command):
    done = unbuilt.make(*shlex.split(command))
    assert done.returncode == 2 and BAD_COMMANDS[command] in done.stdout and "Traceback" not in done.stdout
    said = [line for line in done.stdout.splitlines() if not line.startswith("make: *** [")]
    assert len(said) == 1, done.stdout
    assert not (unbuilt.folder / "_build").exists()


BAD_EDITS = {
    "an emptied chapter": ("book/one.md", None, "", "book/one.md: holds no code cell"),
    "a chapter of prose": ("book/one.md", None, "# One\n\nwords\n", "book/one.md: holds no code cell"),
    "a missing chapter": ("book/one.md", None, None, "there is no"),
    "a chapter in another code": ("book/one.md", None, b"\xff\xfe# One", "book/one.md: cannot be read"),
    "front matter": ("book/one.md", "jupytext:", "jupytext: [", "book/one.md: cannot be read"),
    "a computed parameter": ("book/one.md", "length = 4", "length = 2 + two()", "holds `name = literal` lines only"),
    "parameters cell": ("book/one.md", "length = 4", "length = = 4", "the parameters cell, line 1: invalid syntax"),
    "parameter twice": ("book/one.md", "share = 0.5", "length = 5", "parameter 'length' stands twice"),
    "parameters cell twice": ("book/one.md", "ipython3\nfrom", "ipython3\n:tags: [parameters]\n\nfrom",
                              "2 cells are tagged parameters"),
    "profiles: a profile": ("book/profiles.yml", "full", "ful", "book/profiles.yml: no profile 'ful'; the profiles"),
    "profiles: a chapter": ("book/profiles.yml", "one", "oen", "book/profiles.yml: full: no chapter 'oen'; the chapt"),
    "profiles: a parameter": ("book/profiles.yml", "length", "lenth",
                              f"book/profiles.yml: full: chapter one has no parameter 'lenth'; {PARAMETERS}"),
    "profiles: a value": ("book/profiles.yml", "8", "x", "book/profiles.yml: full: one.length='x': expected int"),
    "profiles: out of range": ("book/profiles.yml", "8", "-8", "full: one.length=-8: expected a number above 0"),
    "profiles: no mapping": ("book/profiles.yml", "{length: 8}", "8", "full: one: expected names"),
    "profiles: a list": ("book/profiles.yml", None, "- full\n", "book/profiles.yml: expected names"),
    "profiles: twice": ("book/profiles.yml", None, "full: {}\nfull: {}\n", "line 2: key 'full' stands twice"),
    "profiles: not YAML": ("book/profiles.yml", "}}", "}", "book/profiles.yml, line"),
    "profiles: missing": ("book/profiles.yml", None, None, "book/profiles.yml: cannot be read: No such file"),
    "experiments: a chapter": ("book/experiments.yml", None, "oen: {}\n", "book/experiments.yml: no chapter 'oen'"),
    "experiments: a field": ("book/experiments.yml", None, "one: {run: {}}\n",
                             "book/experiments.yml: one: no field 'run'; the fields are module, parameters"),
    "experiments: a parameter": ("book/experiments.yml", None, "one: {parameters: [lenth]}\n",
                                 "one: parameters: no parameter 'lenth'; the parameters are length, share"),
    "experiments: parameters": ("book/experiments.yml", None, "one: {parameters: length}\n", "expected a list"),
    "experiments: a module": ("book/experiments.yml", None, "one: {module: lib.no, runs: {a: {}}}\n",
                              "one: runs: a: there is no module 'lib.no' to run"),
    "experiments: no module": ("book/experiments.yml", None, "one: {runs: {a: {}}}\n", "there is no module None"),
    "experiments: a folder": ("book/experiments.yml", None, "one: {reads: [two, nowhere]}\n", "no folder 'two'"),
    "experiments: varied": ("book/experiments.yml", None, "one: {varied: {a: {of: {}}}}\n", "field 'at' is missing"),
    "experiments: runs": ("book/experiments.yml", None, "one: {runs: [a]}\n", "one: runs: expected names"),
    "experiments: not YAML": ("book/experiments.yml", None, "one: {\n", "book/experiments.yml, line"),
    "contents: a chapter twice": ("_toc.yml", "book/two", "book/one", "chapter 'one' stands twice"),
    "contents: no such chapter": ("_toc.yml", "book/two", "book/three", "there is no"),
    "contents: no root": ("_toc.yml", "root", "rot", "_toc.yml: expected a root"),
    "contents: not YAML": ("_toc.yml", "parts:", "parts: [", "_toc.yml, line"),
    "claims: not YAML": ("book/claims.yml", "{id", "{{id", "book/claims.yml"),
    "claims: missing": ("book/claims.yml", None, None, "book/claims.yml"),
}


@pytest.mark.parametrize("edit", BAD_EDITS)
def test_an_edit_that_does_not_fit_is_refused_by_file_and_place(unbuilt, tmp_path, edit):
    book = unbuilt.copy(tmp_path / "edited")
    file, old, new, said = BAD_EDITS[edit]
    if new is None:
        (book.folder / file).unlink()
    elif isinstance(new, bytes):
        (book.folder / file).write_bytes(new)
    else:
        book.write(file, new if old is None else book.read(file).replace(old, new, 1))
    done = book.make("book")
    assert done.returncode == 2 and said in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert not (book.folder / "_build" / "results").exists()


@pytest.mark.parametrize(("values", "profile"), [
    ({"length": 4}, "quick"), ({"length": 6, "seeds": [3, 1], "share": 1e-9}, "quick"), ({"length": 4}, "full"),
    ({"word": "it's \"so\" $(date) `date` \\ #"}, "quick"), ({"word": "none"}, "full"),
    ({"word": "two words"}, "quick"),
])
def test_the_command_that_runs_a_chapter_again_gives_its_parameters(unbuilt, values, profile):
    code = ("import json, shlex, sys\nfrom pipeline import chapters as c\nvalues, profile = json.loads(sys.argv[1])\n"
            "values = c.parameters('one', profile, values)\nline = c.rerun_command('one', values, profile)\n"
            "words = dict(word.partition('=')[::2] for word in shlex.split(line)[2:])\n"
            "asked = c.parse(words.get('SET', ''), words['NAME']).get('one', {})\n"
            "again = c.parameters('one', words['PROFILE'], asked)\n"
            "assert again == values, line\nprint(line)")
    done = subprocess.run([sys.executable, "-c", code, json.dumps([values, profile])], cwd=unbuilt.folder,
                          env={**os.environ, "PYTHONPATH": str(unbuilt.folder)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"make chapter NAME=one PROFILE={profile}"), done.stderr
    assert ("SET=" in done.stdout) == ((values, profile) != ({"length": 4}, "quick"))
