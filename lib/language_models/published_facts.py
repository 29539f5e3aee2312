"""The paper's five datasets (App. D.2), fetched at run time from pinned commits and checked against checksums.

Files are cached for this user. They carry no licence that would let the book pass them on;
`lib.language_models.synthetic_facts` generates facts of the same shapes.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pooch

from lib.language_models.facts import (
    CAPITAL_OF,
    CHILD_OF,
    DATASETS,
    IS_PERSON,
    PARENT_OF,
    PERSON_IS,
    Dataset,
    Example,
    Fact,
    dataset,
)

_CACHE = "REVERSAL_CURSE_CACHE"
_REVERSAL = (
    "https://raw.githubusercontent.com/lukasberglund/reversal_curse/6af5f418755d528304e406361e86477637d21c84/data"
)
_PARAREL = "https://raw.githubusercontent.com/yanaiela/pararel/cb5554678457beb5ac163d888f1ce8cf174b3f0b/data"
_JUNE = f"{_REVERSAL}/reverse_experiments/june_version_7921032488"
#: file -> (address at a pinned commit, SHA-256)
PUBLISHED_FILES = {
    "parent_child_pairs.csv": (f"{_REVERSAL}/celebrity_relations/parent_child_pairs.csv",
                               "59d181610f1477a3cfb8a63428bb8cc037b7d73c9cdf5616fdd8d8ba90debb5d"),
    "p2d_prompts_train.jsonl": (f"{_JUNE}/p2d_prompts_train.jsonl",
                                "8a20b9c259b67bc9c3a0f1823d132c844f98d84589d79b108a0ae0c5aa2a2391"),
    "p2d_prompts_test.jsonl": (f"{_JUNE}/p2d_prompts_test.jsonl",
                               "269fe15363c3bd1cb59cfdf4e6464f35d548d4cb786e6f7b1db84f260788e8f8"),
    "p2d_reverse_prompts_test.jsonl": (f"{_JUNE}/p2d_reverse_prompts_test.jsonl",
                                       "963fa595ce19b330cdf07058313f3e8570b57545260256414bcb74a60c959553"),
    "d2p_prompts_train.jsonl": (f"{_JUNE}/d2p_prompts_train.jsonl",
                                "2d66551577306f164e9b0fd372dd997af0e90bb62690d00a2cab818ae65e47a1"),
    "d2p_prompts_test.jsonl": (f"{_JUNE}/d2p_prompts_test.jsonl",
                               "67705c9ebd77fc030998677acae33af9f22cf4b80bb7443d4ef7e5c9c1d727c4"),
    "d2p_reverse_prompts_test.jsonl": (f"{_JUNE}/d2p_reverse_prompts_test.jsonl",
                                       "8c79da9791788ffbe77dc876ae2e34cc00f980e08c946bda188367ae1cd6ea61"),
    "P36.jsonl": (f"{_PARAREL}/trex_lms_vocab/P36.jsonl",
                  "23632ee03b23422c9840960f9c65c98c12c172f5bb87d2fec20e16b12b17f92e"),
}


def load(name: str, folder: Path | None = None) -> Dataset:
    """One of the paper's five datasets: `p2c`, `c2p`, `p2d`, `d2p` or `trex` (capitals, nearly one to one).

    :param folder: the cache; ``REVERSAL_CURSE_CACHE`` or this user's cache folder where not given
    :raises ValueError: for another name, or a file that is not as it should be (see `fetch`); names file and line
    """
    if name in ("p2c", "c2p"):
        return _parent_child(name, fetch("parent_child_pairs.csv", folder))
    if name in ("p2d", "d2p"):
        files = ("prompts_train", "prompts_test", "reverse_prompts_test")
        return _person_description(name, *(fetch(f"{name}_{file}.jsonl", folder) for file in files))
    if name == "trex":
        return dataset("trex", CAPITAL_OF, _one_to_one(fetch("P36.jsonl", folder)))
    raise ValueError(f"no dataset {name!r}; one of {', '.join(DATASETS)}")


def fetch(name: str, folder: Path | None = None) -> Path:
    """The path of one published file, fetched into ``folder`` unless a copy with the right checksum is there.

    :raises KeyError: for a file that is none of `PUBLISHED_FILES`
    :raises ConnectionError: if it cannot be fetched; says where to put a copy made by hand
    :raises ValueError: if what was fetched is not the pinned file
    :raises OSError: if the cache cannot be written to
    """
    if name not in PUBLISHED_FILES:
        raise KeyError(f"no published file {name!r}; one of {', '.join(PUBLISHED_FILES)}")
    address, checksum = PUBLISHED_FILES[name]
    chosen = folder or os.environ.get(_CACHE) or pooch.os_cache("reversal-curse-book")
    cache = pooch.create(chosen, base_url="", registry={name: checksum}, urls={name: address})
    path = cache.abspath / name
    try:
        return Path(cache.fetch(name, downloader=pooch.HTTPDownloader(timeout=60)))
    except ValueError as error:
        found = str(error).partition(" but got ")[2].partition(".")[0]
        raise ValueError(f"{path}: {address} has SHA-256 {found}, but the pinned file has {checksum}; "
                         "fetch it again, or put a copy of the pinned file there") from None
    except OSError as error:
        if error.errno is None:  # from the network: only errors of the file system have a number
            reason = str(error).splitlines()[0]
            raise ConnectionError(f"{address}: {reason}; fetch it by hand and put it at {path}") from None
        reason = f"cannot be written ({error.strerror})"
        raise OSError(f"{path}: {reason}; set {_CACHE} to a folder that can be") from None


# The files ---------------------------------------------------------------------------------------------------


def _parent_child(name: str, path: Path) -> Dataset:
    pairs = [(row["child"].strip(), row["parent"].strip()) for row in _rows(path, "child", "parent")]
    pairs = list(dict.fromkeys(pairs))  # 18 pairs stand twice
    if name == "p2c":
        return dataset(name, CHILD_OF, [Fact(parent, child) for child, parent in pairs])
    return dataset(name, PARENT_OF, [Fact(child, parent) for child, parent in pairs])


def _person_description(name: str, train: Path, test: Path, reverse: Path) -> Dataset:
    """The published prompts as they are, scored by prefix; row i of both tests is about the same person."""
    examples = [tuple(_example(row) for row in _rows(path, "prompt", "completion")) for path in (train, test, reverse)]
    if len(examples[1]) != len(examples[2]):
        raise ValueError(f"{test}: {len(examples[1])} rows, but {reverse.name} has {len(examples[2])}; "
                         "row i of both is about the same person")
    pairs = Counter((backward.completion.strip().rstrip("."), forward.completion.strip().rstrip("."))
                    for forward, backward in zip(*examples[1:], strict=True))
    person = 0 if name == "p2d" else 1
    wordings = {pair[person]: pair for pair, _ in reversed(pairs.most_common())}  # the commonest of each person
    facts = tuple(Fact(*pair) for pair in sorted(wordings.values()))
    return Dataset(name, PERSON_IS if name == "p2d" else IS_PERSON, facts, *examples)


def _example(row: dict[str, str]) -> Example:
    return Example(row["prompt"], row["completion"], frozenset({row["completion"].strip()}), "prefix")


def _one_to_one(path: Path) -> list[Fact]:
    rows = [(row["sub_label"].strip(), row["obj_label"].strip()) for row in _rows(path, "sub_label", "obj_label")]
    subjects, objects = Counter(left for left, _ in rows), Counter(right for _, right in rows)
    return [Fact(left, right) for left, right in rows if subjects[left] == objects[right] == 1 and left != right]


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV or JSON Lines file, each with text in every one of ``columns``.

    :raises ValueError: for a file that is not UTF-8, cut, without rows or without a column; names file and line
    """
    content = path.read_bytes()
    try:
        lines = list(io.StringIO(content.decode("utf-8"), newline=""))
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: not UTF-8; fetch the file again") from None
    rows = dict(_csv_rows(path, lines) if path.suffix == ".csv" else _json_rows(path, lines))
    if not rows:
        raise ValueError(f"{path}: no rows; fetch the file again")
    for number, row in rows.items():
        for column in columns:
            if not isinstance(row, dict) or not isinstance(row.get(column), str) or not row[column].strip():
                raise ValueError(f"{path}, line {number}: no text in column {column!r}; fetch the file again")
    return list(rows.values())


def _csv_rows(path: Path, lines: list[str]) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(lines, strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.reader.line_num}: not CSV ({error}); fetch the file again") from None


def _json_rows(path: Path, lines: list[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}); fetch the file again") from None
