"""Tests of the theory pass in any order, on a busy machine too."""

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("busy", deadline=None)
if hypothesis.settings.get_current_profile_name() == "default":
    hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True)
def own_generator(request):
    """A test draws from a generator of its own, so that its numbers do not depend on what ran before it."""
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)
