"""Fitting of the parameters of mergers to the logits of all views of labelled images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import MMDiscardError

HELD_OUT = 5  # every fifth row is held out to choose the epoch


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature that calibrates logits ``(N, K)`` of labels ``(N,)``, by maximum likelihood.

    As the official code does it: 50 steps of LBFGS with learning rate 0.01, from 1, which do not
    reach an optimum that lies far from 1. If they end at a negative number or a lower likelihood
    than they began with, the optimum itself is returned.
    """
    temperature = torch.ones((), requires_grad=True)
    _minimize([temperature], lambda: F.cross_entropy(logits / temperature, labels), lr=0.01)
    found = temperature.item()
    if found > 0 and _calibration(logits, labels, found) <= _calibration(logits, labels, 1.0):
        return found
    exponent = torch.zeros((), requires_grad=True)
    _minimize(
        [exponent],
        lambda: F.cross_entropy(logits * (-exponent).exp(), labels),
        line_search_fn='strong_wolfe',
    )
    return exponent.exp().item()


@torch.enable_grad()
def _minimize(parameters: list[Tensor], loss: Callable[[], Tensor], **options: Any) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=50, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def _calibration(logits: Tensor, labels: Tensor, temperature: float) -> float:
    return F.cross_entropy(logits / temperature, labels).item()


def fit_gps(logits: Tensor, labels: Tensor, count: int = 3, likelihood: bool = False) -> dict:
    """Greedy policy search (Lyzhov et al., UAI 2020): add the view that helps the mean most.

    Args:
        logits: ``(N, V, K)``; the temperature is fitted to the first view.
        labels: ``(N,)`` long.
        count: number of views to choose; a view can be chosen once.
        likelihood: choose by the likelihood of the mean of calibrated probabilities, as in the GPS
            paper. The default does as the official code, which passes these probabilities to a
            cross-entropy that expects logits.

    Returns:
        ``indices`` and ``temperature``.

    Raises:
        MMDiscardError: if there are fewer views than ``count``, or as `check_logits`.
    """
    check_logits(logits, labels)
    num_views = logits.shape[1]
    if not 1 <= count <= num_views:
        raise MMDiscardError(f'GPS cannot choose {count} of {num_views} views')
    temperature = fit_temperature(logits[:, 0], labels)
    probabilities = (logits / temperature).softmax(-1)
    judge = _likelihood if likelihood else F.cross_entropy
    chosen: list[int] = []
    mean = torch.zeros_like(probabilities[:, 0])
    for step in range(count):
        share = 1 / (step + 1)
        left = [view for view in range(num_views) if view not in chosen]
        losses = [
            judge(torch.lerp(mean, probabilities[:, view], share), labels).item() for view in left
        ]
        chosen.append(left[int(torch.tensor(losses).argmin())])
        mean = torch.lerp(mean, probabilities[:, chosen[-1]], share)
    return dict(indices=chosen, temperature=temperature)


def fit_augtta(logits: Tensor, labels: Tensor, seed: int = 0, epochs: int = 30) -> dict:
    """Fit one weight per view (AugTTA: Shanmugam et al., ICCV 2021).

    Args:
        logits: ``(N, V, K)``.
        labels: ``(N,)`` long.
        seed: of the order of rows.
        epochs: passes over the rows.

    Returns:
        ``coefficients``, V numbers of at least 0.

    Raises:
        MMDiscardError: as `check_logits`.
    """
    start = torch.full((logits.shape[1], 1), 1 / logits.shape[1])

    def merge(weights: Tensor, views: Tensor) -> Tensor:
        return (weights * views).sum(1) / weights.sum().clamp(min=1e-6)

    return dict(coefficients=_descend(start, merge, logits, labels, seed, epochs)[:, 0].tolist())


def fit_classtta(logits: Tensor, labels: Tensor, seed: int = 0, epochs: int = 30) -> dict:
    """See `fit_augtta`; fits one weight per view and class (ClassTTA: Shanmugam et al., ICCV 2021).

    Returns:
        ``coefficients``, V lists of K numbers of at least 0.
    """
    start = torch.full(logits.shape[1:], 1 / logits.shape[1])

    def merge(weights: Tensor, views: Tensor) -> Tensor:
        return (weights * views).sum(1)

    return dict(coefficients=_descend(start, merge, logits, labels, seed, epochs).tolist())


#: class name of a merger -> function that fits its parameters
FITS = {'GPSMerger': fit_gps, 'AugTTAMerger': fit_augtta, 'ClassTTAMerger': fit_classtta}


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Check that a merger can be fitted to logits ``(N, V, K)`` and labels ``(N,)``.

    Raises:
        MMDiscardError: if there are too few rows, or logits that are NaN or infinite.
    """
    if len(labels) < HELD_OUT:
        raise MMDiscardError(f'{len(labels)} labelled images or pixels are too few to fit a merger')
    if not torch.isfinite(logits).all():
        raise MMDiscardError('the model gives logits that are NaN or infinite; nothing is fitted')


def _descend(start, merge, logits, labels, seed: int, epochs: int) -> Tensor:
    """Stochastic gradient descent; returns the weights of the epoch with the best held-out loss."""
    check_logits(logits, labels)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    held, kept = order[::HELD_OUT], torch.cat([order[i::HELD_OUT] for i in range(1, HELD_OUT)])
    batch = min(1000, max(1, len(kept) // 4))
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([weights], lr=0.01, momentum=0.9, weight_decay=1e-4)
    best, best_loss = start, _loss(start, merge, logits[held], labels[held])
    with torch.enable_grad():
        for _ in range(epochs):
            for part in kept[torch.randperm(len(kept), generator=generator)].split(batch):
                optimizer.zero_grad()
                F.cross_entropy(merge(weights, logits[part]), labels[part]).backward()
                optimizer.step()
                weights.data.clamp_(min=0)
            loss = _loss(weights, merge, logits[held], labels[held])
            if loss < best_loss:
                best, best_loss = weights.detach().clone(), loss
    return best


@torch.no_grad()
def _loss(weights, merge, logits, labels) -> float:
    return F.cross_entropy(merge(weights, logits), labels).item()


def _likelihood(probabilities: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(probabilities.clamp(min=1e-30).log(), labels)
