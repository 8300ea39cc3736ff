"""Views and states for one cost, against the greedy search and a plain reading of the rule."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdiscard.search import Feedback, GreedySearch, Prices
from mmdiscard.subsampling import StateSpace, SubsamplingGroup
from mmdiscard.tta.joint_search import JointSearch

PRICES = Prices(before=(0.1, 0.4, 0.7), backbone=0.9, head=0.1)


def space():
    return StateSpace(
        tuple(
            SubsamplingGroup(name, (name,), (2, 2), (stride, stride), (0,))
            for name, stride in (('a', 1), ('b', 2), ('c', 4))
        )
    )


def score_of(image, view, state, seed):
    mixed = hash((image, view, tuple(state), seed)) % 1009
    return float(mixed % 7)  # ties on purpose


def followed(cost, views, images=2, seed=0, order='shallow_first', confident=None):
    """By image, the (view, state) pairs in the order in which they were asked for."""
    joint = JointSearch(GreedySearch(2, order=order), cost)
    rounds = joint.rounds(images, views, space(), PRICES)
    taken = [[] for _ in range(images)]
    asked = next(rounds)
    while True:
        answers = {}
        for view, rows in asked.items():
            pairs = list(zip(rows.images.tolist(), map(tuple, rows.states.tolist()), strict=True))
            for image, state in pairs:
                taken[image].append((view, state))
            scores = [score_of(image, view, state, seed) for image, state in pairs]
            gate = None if confident is None else torch.full((len(pairs),), confident)
            answers[view] = Feedback(scores=torch.tensor(scores), confident=gate)
        try:
            asked = rounds.send(answers)
        except StopIteration:
            return taken


def cost_of(pairs):
    return sum(
        PRICES.of([state for view, state in pairs if view == own])
        for own in {view for view, _ in pairs}
    )


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 9), st.integers(0, 999), st.sampled_from(['shallow_first', 'deep_first']))
def test_one_view_is_the_greedy_search(cost, seed, order):
    search = GreedySearch(dict(cost=cost), order=order)
    search.prepare(space())
    rounds = search.rounds(2, space(), PRICES)
    states = [[], []]
    rows = next(rounds)
    while True:
        pairs = list(zip(rows.images.tolist(), map(tuple, rows.states.tolist()), strict=True))
        for image, state in pairs:
            states[image].append((0, state))
        scores = torch.tensor([score_of(image, 0, state, seed) for image, state in pairs])
        try:
            rows = rounds.send(Feedback(scores=scores))
        except StopIteration:
            break
    assert followed(cost, views=1, seed=seed, order=order) == states


def by_the_rule(cost, views, image, seed):
    """The rule of `SearchTrees` for one image, with a list of entries instead of arrays."""
    group_sizes, done, entries = (4, 4, 4), [], []

    def take(view, state, decided):
        done.append((view, state))
        score = score_of(image, view, state, seed)
        if decided < 3:
            entries.append([score, 'state', view, state, decided])
        if state == (0, 0, 0) and view + 1 < views:
            entries.append([score, 'view', view, state, 0])

    take(0, (0, 0, 0), 0)
    left = cost - PRICES.root
    while entries:
        best = min(range(len(entries)), key=lambda i: entries[i][0])  # the oldest of the best
        score, kind, view, state, decided = entries.pop(best)
        if kind == 'view':
            if left + 1e-9 >= PRICES.root:
                left -= PRICES.root
                take(view + 1, state, 0)
            continue
        if decided + 1 < 3:
            entries.append([score, 'state', view, state, decided + 1])
        for index in range(1, group_sizes[decided]):
            if left + 1e-9 >= PRICES.branch(decided):
                left -= PRICES.branch(decided)
                child = (*state[:decided], index, *state[decided + 1 :])
                take(view, child, decided + 1)
    return done


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 12), st.integers(1, 4), st.integers(0, 999))
def test_the_rule(cost, views, seed):
    found = followed(cost, views, seed=seed)
    assert found == [by_the_rule(cost, views, image, seed) for image in range(2)]


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 12), st.integers(1, 4), st.integers(0, 999))
def test_the_cost_is_kept_and_views_come_in_order(cost, views, seed):
    for pairs in followed(cost, views, seed=seed):
        assert cost_of(pairs) <= cost + 1e-6
        assert len(set(pairs)) == len(pairs)
        first = [view for view, state in pairs if state == (0, 0, 0)]
        assert first == list(range(len(first)))


def test_enough_for_everything_takes_everything():
    for pairs in followed(1000.0, views=3):
        assert len(pairs) == 3 * 64


def test_gates_are_not_used():
    assert followed(6.0, 3, confident=True) == followed(6.0, 3)


@pytest.mark.parametrize('images', [1, 5])
def test_other_images_of_the_batch_change_nothing(images):
    assert followed(6.0, 3, images=images)[0] == followed(6.0, 3, images=3)[0]
