"""Where a backbone can be entered is found out by trying, and what cannot be is computed anyway."""

import torch
from torch import nn

from mmdiscard.execution import (
    PrefixExecutor,
    ReentryPoints,
    ReferenceExecutor,
    find_reentry_points,
    measure_cost,
)
from mmdiscard.search import Rows
from mmdiscard.subsampling import StateHooks, find_subsampling, map_subsampling


class Net(nn.Module):
    """Two groups; subclasses say what happens in between."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def between(self, images, maps):
        return maps

    def forward(self, images):
        return self.second(self.between(images, self.first(images)).relu())


class RefusesNone(Net):
    def between(self, images, maps):
        return maps.view(len(maps), -1).view(len(maps), 4, *maps.shape[2:])


class RemembersTheBatch(Net):
    def forward(self, images):
        return super().forward(images).view(len(images), 4, -1).unsqueeze(-1)


class Overwrites(Net):
    def forward(self, images):
        maps = self.first(images).relu()
        output = self.second(maps)
        maps.zero_()  # spoils what was recorded
        return output


def setup(net):
    torch.manual_seed(0)
    net = net().eval()
    hooks = StateHooks(net, find_subsampling(net, (16, 16)))
    return hooks, lambda images: (net(images),), torch.randn(3, 3, 16, 16)


def entries(net):
    hooks, forward, images = setup(net)
    return find_reentry_points(forward, hooks, images[:2]).dummy_rows


def test_no_rows_where_they_will_do():
    assert entries(Net) == (0, 0)


def test_one_row_where_none_is_refused():
    assert entries(RefusesNone) == (0, 1)


def test_backbones_that_remember_the_batch_cannot_be_entered():
    assert entries(RemembersTheBatch) == (None, None)


def test_inputs_that_do_not_stay_cannot_be_entered_with():
    assert entries(Overwrites)[1] is None


def test_what_cannot_be_entered_is_computed_from_the_image():
    hooks, forward, images = setup(RemembersTheBatch)
    found = map_subsampling(RemembersTheBatch().eval(), (16, 16))
    states = torch.tensor([[0, 0], [0, 3], [2, 1], [2, 2]])
    rows = Rows(torch.arange(3).repeat(4), states.repeat_interleave(3, 0))
    cost = measure_cost(found, found.groups)
    run = PrefixExecutor(forward, hooks, cost, ReentryPoints((None, None))).start(images)
    found = torch.cat([part.features[0] for part in run.compute(rows)])
    plain = ReferenceExecutor(forward, hooks).run(images, rows)
    assert torch.equal(found, torch.cat([part.features[0] for part in plain]))
    assert run.costs.tolist() == [4, 4, 4]


class Deep(Net):
    """A third group behind the two, and what is computed of the batch in between."""

    def __init__(self):
        super().__init__()
        self.third = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, images):
        maps = self.first(images).relu()
        count = len(maps)
        maps = self.second(maps).relu()
        return self.third(self.behind_second(maps, count))

    def behind_second(self, maps, count):
        return maps


class RemembersInBetween(Deep):
    def behind_second(self, maps, count):
        return maps.view(count, *maps.shape[1:])


def test_what_is_remembered_across_one_group_spoils_that_group_alone():
    assert entries(Deep) == (0, 0, 0)
    assert entries(RemembersInBetween) == (0, None, 0)


def test_what_is_behind_a_later_entry_does_not_run_again(monkeypatch):
    calls = []
    monkeypatch.setattr(Deep, 'behind_second', lambda net, maps, count: calls.append(count) or maps)
    assert entries(Deep) == (0, 0, 0)
    # by discovery and when it is entered at the second and third group, but not at the first
    assert calls.count(0) == 2
