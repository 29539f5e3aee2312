"""The reversal curse in sentences that recorded runs read, were asked and wrote, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup

from lib.language_models.facts import exact_match
from lib.record.provenance import Result

_PAGES = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
_PAGE = _PAGES.from_string("""
<div class="curse"><table>
<thead><tr><th scope="col">In fine-tuning both read</th><th scope="col">Asked</th>
{% for name in names %}<th scope="col">{{ name }} writes</th>{% endfor %}</tr></thead>
{% for fact in facts %}
<tbody>
{% for question in fact.questions %}
<tr>{% if loop.first %}<td rowspan="2">{{ fact.read }}</td>{% endif %}
<td>{{ question.asked }} <em>…</em></td>
{% for answer in question.answers %}
{% set mark, name = ("✓", "curse-right") if answer.right else ("✗", "curse-wrong") %}
<td class="{{ name }}">{{ mark }} {{ answer.written or "(nothing)" }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table></div>
""")


def quoted(runs: Mapping[str, Result]) -> Markup:
    """Three facts of recorded runs: the sentence read in fine-tuning, both questions, and what each model writes.

    :param runs: name of a model -> its run of `lib.language_models.pretrained_run`; all on the same facts
    :raises ValueError: for runs that were asked different questions
    """
    curves = [run["curves"] for run in runs.values()]
    for name in ("asked_forward", "asked_reverse"):
        if len({tuple(each[name]) for each in curves}) > 1:
            raise ValueError(f"{' and '.join(runs)}: runs that were asked different questions ({name})")
    first = curves[0]
    facts = [{"read": f"{first['asked_forward'][i]} {first['right_forward'][i]}.",
              "questions": [_question(curves, side, i) for side in ("forward", "reverse")]}
             for i in range(len(first["asked_forward"]))]
    return Markup(_PAGE.render(names=list(runs), facts=facts).strip())


def _question(curves: Sequence[Mapping[str, Sequence[str]]], side: str, i: int) -> dict[str, object]:
    right = frozenset({curves[0][f"right_{side}"][i]})
    return {"asked": curves[0][f"asked_{side}"][i],
            "answers": [{"written": each[f"written_{side}"][i], "right": exact_match(each[f"written_{side}"][i], right)}
                        for each in curves]}
