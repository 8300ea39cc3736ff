"""Procedures: which views of an image are predicted, with which states, and averaged."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

PLAIN = 'plain'  # name of the setting without states
View = tuple[float, bool]  # size relative to the config's, and whether it is flipped


@dataclass(frozen=True)
class Procedure:
    """A set of views, each predicted with the same states; probabilities of views are averaged.

    Attributes:
        sizes: relative to the size that the config tests at.
        flip: whether every size is also predicted as mirror image.
        states: name of the setting of states, `PLAIN` for none.
    """

    sizes: tuple[float, ...] = (1.0,)
    flip: bool = False
    states: str = PLAIN

    @property
    def views(self) -> tuple[View, ...]:
        """In the order in which MM's `TestTimeAug` makes them."""
        return tuple(product(self.sizes, (False, True) if self.flip else (False,)))

    @property
    def name(self) -> str:
        """For tables."""
        parts = [] if self.states == PLAIN else [self.states]
        if self.sizes != (1.0,):
            several = 's' if len(self.sizes) > 1 else ''
            parts.append(f'size{several} {"/".join(f"{size:g}" for size in self.sizes)}')
        if self.flip:
            parts.append('flip')
        return ' + '.join(parts) or PLAIN

    def predicted_cost(self, costs: Mapping[str, float]) -> float:
        """In plain forwards of multiply-accumulates, by the costs of one view with each states."""
        return costs[self.states] * sum(size**2 for size, _ in self.views)


def candidates(
    sizes: Sequence[float],
    flip: bool,
    costs: Mapping[str, float],
    most: float,
    alone: Collection[str] = (),
) -> list[Procedure]:
    """Procedures to compare, plain first: sets of views, each without and with states.

    Sets of views are the image, the image at each size alone, with each size and with all sizes;
    the same with mirror images, except for sizes alone.

    Args:
        sizes: relative to the config's.
        flip: whether mirror images are tried.
        costs: as for `Procedure.predicted_cost`, plain among them.
        most: largest predicted cost, in plain forwards.
        alone: settings of states that are tried with the image itself only.
    """
    others = sorted(set(sizes) - {1.0})
    together = [(1.0,), *(tuple(sorted((1.0, size))) for size in others)]
    if len(others) > 1:
        together.append(tuple(sorted((1.0, *others))))
    view_sets = [(sizes, False) for sizes in together] + [((size,), False) for size in others]
    if flip:
        view_sets += [(sizes, True) for sizes in together]
    found = [
        Procedure(*views, states)
        for states in costs
        for views in (view_sets[:1] if states in alone else view_sets)
    ]
    found.sort(key=lambda one: (one != Procedure(), one.predicted_cost(costs)))
    return [one for one in found if one == Procedure() or one.predicted_cost(costs) <= most]
