"""The ways to predict that a benchmark compares, each ready to run."""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, product
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.reference_loop import ImageLoop, StateLoop
from mmdiscard.engine.config import PLAIN_TTA
from mmdiscard.models import Ensemble, SearchResult, attach
from mmdiscard.registry import MODELS


class BenchmarkSetup:
    """A model, images, and what is attached to copies of it that share its weights.

    Args:
        model: the built model, in evaluation mode, with nothing attached. It stays plain.
        images: ``(N, 3, H, W)``.
        settings: keywords of `mmdiscard.attach`; ``subsampling.input_size`` is the images' size.
        cfg: where views of TTA are looked up.
        amp: run with mixed precision.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        settings: Mapping[str, Any],
        cfg: Config,
        amp: bool = False,
    ) -> None:
        self.model = model
        self.images = images
        self.settings = dict(settings)
        self.subsampling = dict(settings.get('subsampling') or {})
        self.subsampling['input_size'] = tuple(images.shape[2:])
        self.search = dict(settings.get('search') or dict(type='GreedySearch', budget=10))
        self.cfg = cfg
        self.amp = amp
        self._ensembles: dict[str, Ensemble] = {}

    def copy(self) -> nn.Module:
        """A model of its own modules and the same parameters."""
        tensors = chain(self.model.parameters(), self.model.buffers())
        return copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})

    def ensemble(self, search: Mapping[str, Any], **subsampling: Any) -> Ensemble:
        """A copy of the model attached with another search; the same one if asked again."""
        settings = self.settings | dict(
            search=dict(search), subsampling=self.subsampling | subsampling
        )
        key = repr(settings)
        if key not in self._ensembles:
            self._ensembles[key] = attach(self.copy(), **settings)
        return self._ensembles[key]

    def run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call without gradients, with the precision that was asked for."""
        with torch.no_grad(), torch.autocast(self.images.device.type, enabled=self.amp):
            return call(*args)

    def plain(self) -> None:
        """The model's own prediction."""
        self.run(self.model.predict, self.images)


class TimedMethod:
    """A way to predict, with one budget.

    Args:
        setup: what to run on.
        budget: how many states or views; None where the method itself knows.

    Attributes:
        states: how many states (views) it uses, the mean over the images.
        bound: the prefix-tree bound of its states in units of a plain forward; None where it has
            no states.
        difference: largest difference of its logits from those of the engine with the same
            states, relative to the largest; None where they are not the same by definition.
    """

    name = ''
    bound: float | None = None
    difference: float | None = None
    states: float

    def __init__(self, setup: BenchmarkSetup, budget: int | None) -> None:
        self.setup = setup
        self.budget = budget

    @classmethod
    def with_budgets(cls, setup: BenchmarkSetup, budgets: Sequence[int]) -> list['TimedMethod']:
        """One for each budget."""
        return [cls(setup, budget) for budget in budgets]

    def predict(self) -> None:
        """One prediction of all images."""
        raise NotImplementedError


class Attached(TimedMethod):
    """What `mmdiscard.attach` does with some search."""

    groups: Mapping[str, Any] = {}

    def __init__(self, setup: BenchmarkSetup, budget: int | None) -> None:
        super().__init__(setup, budget)
        self.ensemble = setup.ensemble(self.search(), **self.groups)
        self.predict()
        self.bound = self.ensemble.last.bound
        self.states = mean_count(self.ensemble.last)

    def search(self) -> dict[str, Any]:
        """Config of the search."""
        raise NotImplementedError

    def predict(self) -> None:
        self.setup.run(self.ensemble.adapter.model.predict, self.setup.images)


class Search(Attached):
    """The config's own search; with one state too, which is all that being attached costs."""

    name = 'search'

    @classmethod
    def with_budgets(cls, setup: BenchmarkSetup, budgets: Sequence[int]) -> list[TimedMethod]:
        if 'budget' not in setup.search:  # it names its states
            return [cls(setup, None)]
        return super().with_budgets(setup, sorted({1, *budgets}))

    def search(self) -> dict[str, Any]:
        return with_budget(self.setup.search, self.budget)


class Spread(Attached):
    """States known beforehand, their displacements far apart."""

    name = 'spread'

    def search(self) -> dict[str, Any]:
        return dict(type='SpreadStates', budget=self.budget)


class Deepest(Attached):
    """Every state of the deepest group, searched or not: the cheapest ones there are."""

    name = 'deepest'
    groups = {'groups': [-1]}

    @classmethod
    def with_budgets(cls, setup: BenchmarkSetup, budgets: Sequence[int]) -> list[TimedMethod]:
        return [cls(setup, None)]

    def search(self) -> dict[str, Any]:
        return dict(type='ExhaustiveSearch')


class Looped(TimedMethod):
    """The states of the method ``search``, by a plain loop."""

    loop: type

    def __init__(self, setup: BenchmarkSetup, budget: int | None) -> None:
        super().__init__(setup, budget)
        ensemble = setup.ensemble(with_budget(setup.search, budget))
        self.engine = setup.run(ensemble.predict, setup.images)
        found = ensemble.last
        self._loop = self.loop(setup.copy(), ensemble, found)
        self.states = mean_count(found)
        self.bound = found.bound

    @classmethod
    def with_budgets(cls, setup: BenchmarkSetup, budgets: Sequence[int]) -> list[TimedMethod]:
        return super().with_budgets(setup, budgets if 'budget' in setup.search else [None])

    def logits(self) -> Tensor:
        return self.setup.run(self._loop.logits, self.setup.images)

    def predict(self) -> None:
        self.logits().argmax(1)


class Naive(Looped):
    """One whole forward per state."""

    name = 'naive'
    loop = StateLoop

    def __init__(self, setup: BenchmarkSetup, budget: int | None) -> None:
        super().__init__(setup, budget)
        far = (self.logits() - self.engine).abs().max() / self.engine.abs().max()
        self.difference = float(far)
        del self.engine


class Translated(Looped):
    """The equivalent in image space: translated images through the plain model."""

    name = 'translated'
    loop = ImageLoop

    def __init__(self, setup: BenchmarkSetup, budget: int | None) -> None:
        super().__init__(setup, budget)
        del self.engine
        self.bound = None  # of the states; in image space nothing is shared


class ViewTTA(TimedMethod):
    """The package's own TTA: sizes of the config's ``tta_pipeline``, each with its mirror image.

    Sizes nearest to the original come first. Views are made beforehand, as a data loader would.
    """

    name = 'tta'

    def __init__(self, setup: BenchmarkSetup, budget: int | None) -> None:
        super().__init__(setup, budget)
        scope = setup.cfg.default_scope
        self.tta = MODELS.build(dict(type=PLAIN_TTA[scope], module=setup.model))
        views = list(product(VIEW_SIZES[scope](setup.cfg, setup.images, budget), (False, True)))
        self.views = [(sized.flip(3) if flip else sized, flip) for sized, flip in views[:budget]]
        self.states = float(len(self.views))

    def predict(self) -> None:
        inputs = [view for view, _ in self.views]
        samples = [self._samples(view, flip) for view, flip in self.views]
        self.setup.run(self.tta.test_step, dict(inputs=inputs, data_samples=samples))

    def _samples(self, view: Tensor, flip: bool) -> list[BaseDataElement]:
        size, own = tuple(self.setup.images.shape[2:]), tuple(view.shape[2:])
        meta = dict(ori_shape=size, img_shape=own, pad_shape=own, img_path='', flip=flip)
        kind = sample_type(self.setup.cfg.default_scope)
        return [kind(metainfo=meta | dict(flip_direction='horizontal')) for _ in view]


METHODS = {kind.name: kind for kind in (Search, Spread, Deepest, Naive, Translated, ViewTTA)}


def with_budget(search: Mapping[str, Any], budget: int | None) -> dict[str, Any]:
    """A config of a search with another budget, if one is given."""
    return dict(search) if budget is None else dict(search, budget=budget)


def mean_count(found: SearchResult) -> float:
    """Mean number of states of the images."""
    return float(found.counts.float().mean())


# --------------------------------------------------------------------------------- views of TTA
def scaled_images(cfg: Config, images: Tensor, budget: int) -> list[Tensor]:
    """MMSegmentation: the image at the scale factors of ``tta_pipeline``.

    Args:
        cfg: of the model.
        images: ``(N, 3, H, W)``.
        budget: number of views that are wanted.
    """
    scales = sorted(tta_values(cfg, 'Resize', 'scale_factor') or [1.0], key=lambda s: abs(s - 1))
    return [_resize(images, scale) for scale in scales]


def zoomed_images(cfg: Config, images: Tensor, budget: int) -> list[Tensor]:
    """MMPretrain: a larger image, cropped to the size that the network sees.

    Its configs have no views, so beyond those of ``tta_pipeline`` edges grow by an eighth each.

    Args:
        cfg: of the model.
        images: ``(N, 3, H, W)``.
        budget: number of views that are wanted.
    """
    edges = sorted(tta_values(cfg, 'ResizeEdge', 'scale')) or [256]
    edges += [edges[-1] + edges[0] // 8 * step for step in range(1, budget)]
    sizes = (_resize(images, edge / edges[0]) for edge in edges[: (budget + 1) // 2])
    return [_center(view, images.shape[2:]) for view in sizes]


VIEW_SIZES = {'mmseg': scaled_images, 'mmpretrain': zoomed_images}


def tta_values(cfg: Config, kind: str, field: str) -> list[float]:
    """What a transform of the config's TTA varies.

    Args:
        cfg: of the model.
        kind: type of the transform.
        field: its argument.
    """
    pipeline = cfg.get('tta_pipeline') or []
    steps = [step for step in pipeline if step['type'].endswith('TestTimeAug')]
    views = chain.from_iterable(chain.from_iterable(step['transforms'] for step in steps))
    return [view[field] for view in views if view['type'] == kind and field in view]


def sample_type(scope: str) -> type[BaseDataElement]:
    """The sample that models of a package fill in."""
    if scope == 'mmseg':
        from mmseg.structures import SegDataSample

        return SegDataSample
    from mmpretrain.structures import DataSample

    return DataSample


def _resize(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [round(length * scale) for length in images.shape[2:]]
    return F.interpolate(images, size=size, mode='bilinear', align_corners=False)


def _center(images: Tensor, size: Sequence[int]) -> Tensor:
    top, left = ((own - wanted) // 2 for own, wanted in zip(images.shape[2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]].contiguous()
