"""Flags that add the search to a config that knows nothing of it, or change a config's own."""

import argparse
from inspect import signature

from mmengine.config import Config, ConfigDict

from ..errors import MMDiscardError
from ..models.unsure_windows import UNSURE, UnsureWindows
from ..registry import SEARCHES, lookup
from ..search.budget import Budget
from .config import add_search_hook, search_hook_of

#: values of `groups` that are words; anything else is a list
WORDS = ('auto', 'all', 'inner')


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--states``, ``--cost``, ``--groups``, ``--where``, ``--flip``, ``--uncertainty``."""
    parser.add_argument(
        '--states',
        type=int,
        metavar='N',
        help='number of states per image; adds mmdiscard to a config that does not use it',
    )
    parser.add_argument(
        '--cost',
        type=float,
        metavar='C',
        help='as many states (of --states at most) as cost C plain forwards, such as 1.5',
    )
    parser.add_argument(
        '--groups',
        type=parse_groups,
        metavar='G',
        help='groups to search: auto, all, inner, image, names or positions, commas between '
        'them (--groups=-1 is the deepest)',
    )
    parser.add_argument(
        '--where',
        choices=[UNSURE, 'everywhere'],
        help='of a segmentor: unsure to compute further states only around the unsure parts of an '
        'image, as much of it as --cost pays for (default: 40 %% of its area)',
    )
    parser.add_argument(
        '--flip',
        action='store_true',
        help='with --where unsure: compute the further states of mirror images of these parts, '
        'with --states 1 the default state',
    )
    parser.add_argument(
        '--uncertainty',
        action='store_true',
        help='also confidence and disagreement of the states: in data samples, in --out (maps of '
        'segmentors as .npz) and drawn by --show-dir',
    )


def has_search_flags(args: argparse.Namespace) -> bool:
    values = args.states, args.cost, args.groups, args.where
    return args.uncertainty or args.flip or any(value is not None for value in values)


def parse_groups(text: str) -> str | list[str | int]:
    """``'auto'`` as it is; ``'layer3.0,-1'`` as ``['layer3.0', -1]``."""
    if text in WORDS:
        return text
    keys = [key.strip() for key in text.split(',')]
    return [int(key) if key.removeprefix('-').isdecimal() else key for key in keys]


def apply_search_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Let the config's `SubsamplingSearchHook` do what the flags say; without one, add it.

    A flag replaces the one setting that it names: ``--states`` and ``--cost`` the budget of the
    search, ``--groups`` the groups, ``--where`` the windows, ``--flip`` their mirror images,
    ``--uncertainty`` the option of that name. Where states are computed in windows, ``--cost`` says
    how much of the image these cover. The rest stays as it is in the config, or the default.

    Raises:
        MMDiscardError: The budget is below 1, or the search of the config has none.
    """
    if not has_search_flags(args):
        return
    hook = search_hook_of(cfg) or add_search_hook(cfg, subsampling=dict(groups='auto'))
    if args.groups is not None:
        hook.subsampling = dict(hook.get('subsampling') or {}, groups=args.groups)
    if args.uncertainty:
        hook.uncertainty = True
    if args.where is not None:
        hook.where = UNSURE if args.where == UNSURE else None
    if args.flip:
        if hook.get('where') is None:
            raise MMDiscardError(
                '--flip is for windows around the unsure parts of an image, add --where unsure; '
                '--tta predicts mirror images of whole images'
            )
        hook.where = dict(_window_settings(hook), flip=True)
    cost = args.cost
    if hook.get('where') is not None and cost is not None:
        settings = _window_settings(hook) | dict(cost=cost)
        settings.pop('share', None)
        UnsureWindows.parse(settings)
        hook.where, cost = settings, None
    if args.states is None and cost is None:
        return
    search = hook.get('search') or dict(type='SpreadStates')
    if 'budget' not in signature(lookup(SEARCHES, search['type'])).parameters:
        raise MMDiscardError(
            f'--states and --cost set the budget of a search, and {search["type"]} of the config '
            'has none; change its own settings with --cfg-options'
        )
    budget = args.states if cost is None else dict(states=args.states, cost=cost)
    Budget.parse(budget)
    hook.search = dict(search, budget=budget)


def _window_settings(hook: ConfigDict) -> dict:
    return {} if isinstance(hook.where, str) else dict(hook.where)
