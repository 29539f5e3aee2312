"""The front page's sentences about claims, each held against its row of the ledger.

``book/story.yml`` lists them in groups: a sentence, the row that it rests on, and the statuses with which it is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lib.record import claims_file, verdicts, yaml_files
from lib.record.ledger import STATUSES, Row
from lib.record.provenance import ROOT

STORY = ROOT / "book" / "story.yml"
_GROUP: dict[str, type] = {"group": str, "of": str, "sentences": list}
_SENTENCE: dict[str, type] = {"says": str, "row": str, "status": list}
_PAGES = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
_PAGE = _PAGES.from_string("""
{% for group in groups %}
<section class="story">
<h3 class="story-group">{{ group.group }} <small>of {{ group.of }}</small></h3>
<ul>
{% for each in group.sentences %}
<li>{{ each.says }} <a class="story-row" href="ledger.html#claim-{{ each.row }}">{{ badge(each.now) }}</a></li>
{% endfor %}
</ul>
</section>
{% endfor %}
""")


class StoryError(ValueError):
    """A sentence that the ledger does not support, or a file that holds no such sentences."""


def supported_sentences(rows: Sequence[Row], path: Path = STORY) -> Markup:
    """The sentences as HTML, each with the status of its row and a link to it.

    :param rows: of the ledger
    :raises StoryError: for a sentence whose row is missing or has another status, or a malformed file; names the row,
        or the group and the field
    """
    statuses = {row["id"]: row["status"] for row in rows}
    held = [{**group, "sentences": [_held(each, statuses, path) for each in group["sentences"]]}
            for group in _groups(path)]
    return Markup(_PAGE.render(badge=verdicts.badge, groups=held).strip())


def _groups(path: Path) -> list[dict[str, Any]]:
    """The groups of the file, each with all fields of its own and of its sentences."""
    try:
        groups = yaml_files.read_yaml(path)
        if not isinstance(groups, list) or not groups:
            raise StoryError(f"{path}: a list of groups is expected, each with {', '.join(_GROUP)}, not {groups!r}")
        for number, group in enumerate(groups, 1):
            claims_file.check_fields(f"{path}: group {number}", group, _GROUP, _GROUP)
            for place, sentence in enumerate(group["sentences"], 1):
                where = f"{path}: {group['group']}: sentence {place}"
                claims_file.check_fields(where, sentence, _SENTENCE, _SENTENCE)
    except (yaml_files.NotYaml, claims_file.LedgerError) as error:
        raise StoryError(str(error)) from None
    return groups


def _held(sentence: Mapping[str, Any], statuses: Mapping[str, str], path: Path) -> dict[str, Any]:
    name, wanted = sentence["row"], sentence["status"]
    for status in wanted:
        if status not in [*STATUSES]:
            raise StoryError(f"{path}: {name}: no status {status!r}; one of {', '.join(STATUSES)}")
    if name not in statuses:
        raise StoryError(f"{path}: {name}: the ledger has no such row")
    if statuses[name] not in wanted:
        raise StoryError(f"{path}: {name} is {statuses[name]!r} in the ledger, and the sentence supposes "
                         f"{' or '.join(wanted)}: {sentence['says']!r}")
    return {**sentence, "now": statuses[name]}
