"""Where training ends for any prompts, against two solvers of a library."""

import numpy as np
import pytest
import torch
from least_norm import least_norm
from scipy.optimize import minimize
from scipy.special import log_softmax

from lib.theory import separators


def random_prompts(count: int, dim: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(count, dim, generator=rng, dtype=torch.float64),
            torch.randint(classes, (count,), generator=rng))


@pytest.mark.parametrize(("count", "dim", "classes", "seed"), [(6, 8, 3, 0), (30, 30, 4, 1), (40, 45, 5, 2),
                                                                (12, 20, 2, 3)])
def test_separable_prompts_get_the_maximum_margin(count, dim, classes, seed):
    features, targets = random_prompts(count, dim, classes, seed)
    found = separators.separator(features, targets, classes)
    wanted = least_norm(features.numpy(), targets.numpy(), classes)
    assert np.abs(found.numpy() - wanted).max() < 1e-6 * np.abs(wanted).max()
    permuted = least_norm(features.numpy(), targets.numpy()[::-1], classes)
    assert np.abs(found.numpy() - permuted).max() > 0.1 * np.abs(wanted).max()


def test_separable_prompts_in_number_need_few_constraints():
    features, _ = random_prompts(3000, 12, 9, 4)
    teacher, _ = random_prompts(9, 12, 2, 5)
    top = (features @ teacher.T).topk(2, 1)
    kept = top.values[:, 0] - top.values[:, 1] > 0.2
    features, targets = features[kept], top.indices[kept, 0]
    found = separators.separator(features, targets, 9)
    prompts = separators.Prompts.merged(features, targets, 9)
    assert prompts.smallest_margin(found) == pytest.approx(1, abs=1e-6)
    support = prompts.row_margins(found) < 1.01
    smaller = prompts.subset(support)
    wanted = least_norm(smaller.features.numpy(), smaller.targets.numpy(), 9)
    assert np.abs(found.numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


def minimiser(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, classes: int, penalty: float
) -> np.ndarray:
    """Cross-entropy plus ridge minimised directly, by BFGS with the gradient written out."""
    share = weights / weights.sum()
    one_hot = np.eye(classes)[targets]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        storage = flat.reshape(classes, -1)
        log_p = log_softmax(features @ storage.T, axis=1)
        gradient = (share[:, None] * (np.exp(log_p) - one_hot)).T @ features + penalty * storage
        return -share @ (log_p * one_hot).sum(1) + penalty / 2 * (flat @ flat), gradient.ravel()

    return minimize(loss, np.zeros(classes * features.shape[1]), jac=True, method="BFGS",
                    options={"gtol": 1e-10}).x.reshape(classes, -1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_prompts_that_are_not_separable_get_the_minimiser(seed):
    features, targets = random_prompts(200, 5, 4, seed)
    weights = torch.rand(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    found = separators.separator(features, targets, 4, weights=weights, penalty=1e-9).numpy()
    wanted = minimiser(features.numpy(), targets.numpy(), weights.numpy(), 4, 1e-9)
    assert np.abs(found - wanted).max() < 1e-5
    unweighted = separators.separator(features, targets, 4, penalty=1e-9).numpy()
    assert np.abs(unweighted - wanted).max() > 1e-2


def test_equal_features_with_several_targets_count_by_their_weights():
    features, targets = torch.ones(3, 1, dtype=torch.float64), torch.tensor([0, 1, 1])
    weights = torch.tensor([3.0, 0.5, 0.5])
    found = separators.separator(features, targets, 2, weights=weights, penalty=1e-12)
    lead = separators.logit_margins(found, features[0], 0, 1)
    assert float(lead) == pytest.approx(np.log(3), abs=1e-6)
    assert separators.Prompts.merged(features, targets, 2, weights).weights.tolist() == [0.75, 0.25]


def test_margins_take_one_class_or_one_a_prompt():
    storage, features = torch.arange(6.0).reshape(3, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert separators.logit_margins(storage, features, 2, 0).tolist() == [4.0, 4.0]
    each = separators.logit_margins(storage, features, torch.tensor([1, 0]), torch.tensor([0, 2]))
    assert each.tolist() == [2.0, -4.0]


@pytest.mark.parametrize(("change", "named"), [
    ({"classes": 1}, "classes"), ({"targets": torch.tensor([0, 3])}, "targets"),
    ({"weights": torch.tensor([1.0, 0.0])}, "weights"),
    ({"penalty": 0.0}, "penalty"), ({"features": torch.tensor([[1.0, torch.nan], [0.0, 1.0]])}, "features"),
])
def test_bad_prompts_are_refused_by_name(change, named):
    prompts = {"features": torch.eye(2), "targets": torch.tensor([0, 1]), "classes": 3} | change
    with pytest.raises(ValueError, match=named):
        separators.separator(**prompts)
