"""Two schematic pictures: arrows point from the mask to the evidence, and the line crosses zero at the midpoint."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

from lib.theory import figures_mechanism
from lib.theory.late_training import reverse_limit_with_placeholder


def test_attention_leads_from_the_mask_to_the_evidence_in_either_order():
    axes = figures_mechanism.storage_times_routing().axes[0]
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    ends = [(patch._posA_posB[0][0], patch._posA_posB[1][0]) for patch in arrows]
    assert ends == [(0, 4), (4, 0)]
    words = [text.get_text() for text in axes.texts]
    assert words.count("?") == words.count("Bob") == 2
    plt.close("all")


@pytest.mark.parametrize(("plus", "minus"), [(0.6, 0.2), (0.7, 0.3)])
def test_the_line_crosses_zero_where_the_limit_changes(plus, minus):
    axes = figures_mechanism.threshold_at_midpoint(plus, minus).axes[0]
    attention, lead = axes.get_lines()[0].get_data()
    crossing = float(np.interp(0, lead, attention))
    assert crossing == pytest.approx((plus + minus) / 2)
    for attention_reverse, limit in ((crossing + 0.05, 1), (crossing - 0.05, 0)):
        assert reverse_limit_with_placeholder(plus, minus, attention_reverse, 26)[0] == limit
    marked = {line.get_xdata()[0]: line.get_ydata()[0] for line in axes.get_lines()[2:4]}
    assert marked == {plus: 1.0, minus: -1.0}
    plt.close("all")
