"""Selection of the groups to search: all, inner ones, by name, the image, or layers by hand."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from ..errors import MMDiscardError
from .backbone import inference_mode
from .black_box import displaces
from .discovery import BY_HAND, SubsamplingMap, group_of, in_order, refusals, within
from .image_group import DEFAULT_PIXELS, IMAGE, image_group
from .layers import subsampling_factor
from .reachability import levels_behind
from .state import SubsamplingGroup
from .strides import Layer

Key = str | int | Mapping
HOW_BY_HAND = (
    f'To search layers of your choice, name them: {BY_HAND}, together all that subsamples at that '
    'place of the trunk'
)


def select_groups(
    found: SubsamplingMap, which: str | Sequence[Key], backbone: nn.Module | None = None
) -> tuple[SubsamplingGroup, ...]:
    """The groups to search, in execution order.

    Args:
        found: what discovery says of the backbone.
        which: ``'all'``, ``'inner'`` (all but the first and the last, the paper's choice), or a
            list of group names, member names, positions (negative ones count from the deepest),
            the image (``'image'``, or ``dict(image=PIXELS)`` for how far it is displaced), and
            groups by hand: ``dict(members=[...])`` with names of modules that subsample together.
        backbone: what groups by hand are checked on.

    Raises:
        MMDiscardError: if there is no such group, none is left, or a group by hand cannot be
            searched.
    """
    named = isinstance(which, Sequence) and not isinstance(which, str)
    if not named and which not in ('all', 'inner'):
        raise MMDiscardError(
            f"groups={which!r} is not known; write 'auto', 'all', 'inner', or a list of 'image' "
            f'and: {_table(found)}'
        )
    if named:
        return _named(found, which, backbone)
    if not found.groups:
        raise MMDiscardError(_nothing(found))
    groups = found.groups if which == 'all' else found.groups[1:-1]
    if not groups:
        raise MMDiscardError(
            f"groups='inner' leaves nothing of {len(found.groups)} group(s); use 'all' or a list "
            f'of: {_table(found)}'
        )
    return groups


def _named(
    found: SubsamplingMap, which: Sequence[Key], backbone: nn.Module | None
) -> tuple[SubsamplingGroup, ...]:
    if not which:
        raise MMDiscardError(f'groups is an empty list; choose from: {_table(found)}')
    images = [image_of(key) for key in which if is_image(key)]
    if len(images) > 1:
        raise MMDiscardError('groups has the image twice')
    levels = tuple(range(len(found.strides)))
    image = tuple(image_group(pixels, levels) for pixels in images)
    chosen: list[SubsamplingGroup] = []
    for key in (key for key in which if not is_image(key)):
        by_hand = isinstance(key, Mapping)
        group = _by_hand(found, key, backbone) if by_hand else _discovered(found, key)
        chosen += [] if group in chosen else [group]
    _check_apart(chosen)
    order = {layer.name: layer.order for layer in reversed(found.layers)}
    return (*image, *in_order(chosen, order))


def is_image(key: Key) -> bool:
    """Whether a key of ``groups`` is the image."""
    return key == IMAGE or isinstance(key, Mapping) and set(key) == {IMAGE}


def image_of(key: Key) -> int:
    """Largest displacement of the image that a key asks for, in pixels."""
    return key[IMAGE] if isinstance(key, Mapping) else DEFAULT_PIXELS


def _discovered(found: SubsamplingMap, key: str | int) -> SubsamplingGroup:
    for i, group in enumerate(found.groups):
        if isinstance(key, bool):
            break
        if key == group.name or key in group.members or key in (i, i - len(found.groups)):
            return group
    if not found.groups:
        raise MMDiscardError(_nothing(found))
    why = f' ({found.rejected[key]})' if key in found.rejected else ''
    raise MMDiscardError(
        f'there is no subsampling group {key!r}{why}; choose from: {_table(found)}'
    )


def _by_hand(
    found: SubsamplingMap, wanted: Mapping, backbone: nn.Module | None
) -> SubsamplingGroup:
    """A group of the members that the user named, checked as a discovered one is."""
    names = _names(wanted)
    with inference_mode(backbone):
        layers = [_layer(found, name, backbone) for name in names]
        layers.sort(key=lambda layer: layer.order)
        if len({layer.kind for layer in layers}) > 1:
            raise MMDiscardError(
                'members of a group subsample alike, and these do not: '
                + '; '.join(map(str, layers))
            )
        behind = levels_behind(found.flow, names, found.deepest)
        if not behind:
            raise MMDiscardError(_no_cut(found, layers))
        refused = refusals(backbone, found.flow, layers, behind)
    for name, reason in refused.items():
        raise MMDiscardError(f'{name!r} cannot be searched: {reason}')
    return group_of(layers, behind)


def _names(wanted: Mapping) -> list[str]:
    members = wanted.get('members')
    if isinstance(members, str):
        members = [members]
    right = isinstance(members, Sequence) and members and all(isinstance(m, str) for m in members)
    if not right or wanted.keys() - {'members'}:
        raise MMDiscardError(
            f"a group by hand is dict(members=['NAME', ...]), names of modules; got {dict(wanted)}"
        )
    return list(dict.fromkeys(members))


def _layer(found: SubsamplingMap, name: str, backbone: nn.Module) -> Layer:
    """The traced layer of a named module, checked to be one that can be displaced."""
    modules = dict(backbone.named_modules())
    if not name or name not in modules:
        near = get_close_matches(name, list(modules), n=3, cutoff=0.5)
        hint = f'; similar names: {", ".join(near)}' if near else ''
        raise MMDiscardError(f'the backbone has no module {name!r}{hint}')
    layer = next((layer for layer in found.layers if layer.name == name), None)
    if layer is None:
        inside = [one for one in found.layers if within(one.name, name)] or found.layers
        raise MMDiscardError(
            f'{name!r} does not subsample by a whole factor; what does'
            f'{" inside it" if inside is not found.layers else ""}: '
            f'{"; ".join(map(str, inside)) or "nothing"}'
        )
    is_layer = subsampling_factor(modules[name]) != (1, 1)
    if not is_layer and not displaces(modules[name], layer):
        raise MMDiscardError(
            f'{name!r} cannot be searched: displacing what it receives does not displace what it '
            'puts out'
        )
    return layer


def _no_cut(found: SubsamplingMap, layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    alike = [
        layer.name
        for layer in found.layers
        if layer.kind == layers[0].kind and not any(within(layer.name, n) for n in names)
    ]
    beside = f'; what else subsamples there: {", ".join(alike)}' if alike else ''
    return (
        f'the image reaches the deepest output past {", ".join(names)}, so a state would mix '
        f'displaced and undisplaced maps{beside}. A group has to hold all that subsamples at its '
        'place of the trunk'
    )


def _check_apart(groups: Sequence[SubsamplingGroup]) -> None:
    for i, group in enumerate(groups):
        for other in groups[i + 1 :]:
            shared = [
                (a, b) for a in group.members for b in other.members if within(a, b) or within(b, a)
            ]
            if shared:
                raise MMDiscardError(
                    f'two groups would displace the same layer: {shared[0][0]!r} and '
                    f'{shared[0][1]!r}'
                )


def _table(found: SubsamplingMap) -> str:
    return '; '.join(
        f'{i}: {group.name} (factor {group.factor[0]}x{group.factor[1]}, input stride '
        f'{group.stride[0]})'
        for i, group in enumerate(found.groups)
    )


def _nothing(found: SubsamplingMap) -> str:
    left_out = found.left_out(shown=8)
    why = f'what subsamples is left out: {"; ".join(left_out)}' if left_out else 'no layer does'
    return f'this backbone has nothing to search on its trunk; {why}. {HOW_BY_HAND}'
