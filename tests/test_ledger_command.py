"""`python -m pipeline.ledger`: two ledgers side by side, and what is refused by file or option."""

import json

import pytest

from pipeline import ledger


def written(path, **rows):
    content = {"rows": [{"id": name, "status": status, "checks": []} for name, status in rows.items()],
               "counts": {}, "established": 0}
    path.write_text(json.dumps(content))
    return str(path)


def called(monkeypatch, *words):
    """Exit status of the command."""
    monkeypatch.setattr("sys.argv", ["ledger", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        ledger.main()
    return ended.value.code


def test_two_ledgers_are_compared(tmp_path, monkeypatch, capsys):
    old, new = written(tmp_path / "old.json", a="proved"), written(tmp_path / "new.json", a="deviates")
    assert called(monkeypatch, "--compare", old, old) == 0
    assert "agree in every status" in capsys.readouterr().out
    assert called(monkeypatch, "--compare", old, new) == 1
    assert capsys.readouterr().out == "a: proved -> deviates\n"


@pytest.mark.parametrize("option", ["--compare", "--summary"])
@pytest.mark.parametrize(("content", "said"), [
    (None, "wrong.json: no such result"), ("{", "wrong.json: not a whole JSON file"),
    ('{"a": 1}', "wrong.json: holds no ledger"), ("[]", "wrong.json: holds no ledger"),
    ('{"counts": {}, "rows": [{"id": "a"}]}', "holds no ledger, which has counts and rows, each with id, status and")])
def test_a_missing_or_wrong_file_is_named(tmp_path, monkeypatch, capsys, option, content, said):
    sound, wrong = written(tmp_path / "sound.json", a="proved"), tmp_path / "wrong.json"
    if content is not None:
        wrong.write_text(content)
    files = (sound, wrong) if option == "--compare" else (wrong,)
    assert called(monkeypatch, option, *files) in (1, 2)
    shown = capsys.readouterr()
    assert said in shown.err and len(shown.err.splitlines()) == 1 and not shown.out


@pytest.mark.parametrize("words", [(), ("out.json",)])
def test_a_command_without_files_says_what_it_wants(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert called(monkeypatch, *words) == 2
    assert "OUTPUT.json and one NOTEBOOK.ipynb or more, --summary LEDGER.json, or --compare" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
