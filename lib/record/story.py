"""The front page's sentences about claims, each held against its row of the ledger.

``book/story.yml`` lists them in groups: a sentence, the row that it rests on, and the statuses with which it is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from lib.record import verdicts
from lib.record.ledger import STATUSES, Row
from lib.record.provenance import ROOT

STORY = ROOT / "book" / "story.yml"
_FIELDS = {"says", "row", "status"}
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
    """A sentence that the ledger does not support."""


def supported_sentences(rows: Sequence[Row], path: Path = STORY) -> Markup:
    """The sentences as HTML, each with the status of its row and a link to it.

    :param rows: of the ledger
    :raises StoryError: for a sentence whose row is missing or has another status, or a malformed file; names the row
    """
    statuses = {row["id"]: row["status"] for row in rows}
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    held = [{**group, "sentences": [_held(each, statuses, path) for each in group["sentences"]]} for group in groups]
    return Markup(_PAGE.render(badge=verdicts.badge, groups=held).strip())


def _held(sentence: Mapping[str, Any], statuses: Mapping[str, str], path: Path) -> dict[str, Any]:
    if sentence.keys() != _FIELDS:
        raise StoryError(f"{path}: a sentence has the fields {', '.join(sorted(_FIELDS))}, not {', '.join(sentence)}")
    name, wanted = sentence["row"], sentence["status"]
    for status in wanted:
        if status not in STATUSES:
            raise StoryError(f"{path}: {name}: no status {status!r}; one of {', '.join(STATUSES)}")
    if name not in statuses:
        raise StoryError(f"{path}: {name}: the ledger has no such row")
    if statuses[name] not in wanted:
        raise StoryError(f"{path}: {name} is {statuses[name]!r} in the ledger, and the sentence supposes "
                         f"{' or '.join(wanted)}: {sentence['says']!r}")
    return {**sentence, "now": statuses[name]}
