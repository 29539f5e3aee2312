"""The task in tokens: its own sequences, arrows from the mask to the capital; patching: one piece moves down."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

from lib.one_layer import figures_task, task
from lib.one_layer.patching import SITES


def test_the_rows_are_a_sequence_of_the_task_and_questions_about_it():
    text = figures_task._ROWS["training sequence"][0]
    drawn = task.sequences(4000, len(text), np.random.default_rng(0))
    assert any(task.spell(row) == text for row in drawn)
    forward, reverse = (figures_task._ROWS[f"{name} question"][0] for name in task.DIRECTIONS)
    pairs = task.paired_queries(len(text))
    for asked, name in zip(pairs, (forward, reverse), strict=True):
        assert name in {task.spell(row) for row in asked.tokens}
    assert not any(task.spell(row).replace("d", "_") == reverse for row in drawn)  # which training never asks


def test_attention_leads_from_the_mask_to_the_capital():
    axes = figures_task.task_in_tokens().axes[0]
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    ends = [tuple(point[0] for point in patch._posA_posB) for patch in arrows]
    assert ends == [(1, 4), (4, 1), (5, 4)]
    plt.close("all")


@pytest.mark.parametrize("site", SITES)
def test_one_piece_is_patched_and_it_is_the_one_named(site):
    axes = figures_task.patching_in_boxes(site).axes[0]
    shaded = [text for text in axes.texts if text.get_bbox_patch() is not None
              and text.get_bbox_patch().get_facecolor()[:3] != (1, 1, 1)]
    assert len(shaded) == 2 and len({text.get_text() for text in shaded}) == 1
    assert len({text.get_position()[0] for text in shaded}) == 1
    plt.close("all")


def test_both_computations_lead_through_the_same_steps_to_an_answer():
    axes = figures_task.patching_in_boxes().axes[0]
    steps = [text for text in axes.texts if text.get_bbox_patch() is not None]
    assert {text.get_text().split("\n")[0] for text in axes.texts if "query" in text.get_text()} == {*task.DIRECTIONS}
    for height in {text.get_position()[1] for text in steps}:
        centres = [text.get_position()[0] for text in steps if text.get_position()[1] == height]
        arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None) and text.xyann[1] == height]
        starts, ends = (sorted(getattr(arrow, name)[0] for arrow in arrows) for name in ("xyann", "xy"))
        assert len(centres) == len(starts) == 4
        assert all(centre < start < end for centre, start, end in zip(centres, starts, ends, strict=True))
        assert all(end < centre for end, centre in zip(ends, [*centres[1:], 6.4], strict=True))
    plt.close("all")


def test_what_cannot_be_patched_is_refused():
    with pytest.raises(ValueError, match="unknown site 'mlp'; one of score, row, values, residual"):
        figures_task.patching_in_boxes("mlp")
