"""Test-time augmentation with and without mmdiscard.

Total budgets are equal: many views against fewer views with several states each. Of every view the
prediction is computed once per number of states; all mergers and budgets are derived from it,
so that no prediction has to be kept.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from benchmarks.common.files import read_results
from benchmarks.tta.report import ALONE, PLAIN
from mmdiscard.engine.load_runner import digest, load_runner, search_settings
from mmdiscard.errors import MMDiscardError
from mmdiscard.models import attach
from mmdiscard.models.views import split_views, view_names
from mmdiscard.registry import MERGERS, build
from mmdiscard.tta.fitted_mergers import MergerFile
from mmdiscard.tta.labelled_views import LabelledViews, tta_model
from mmdiscard.tta.merger_fitting import FitRequest, cached_logits
from mmdiscard.tta.merger_parameters import FITS
from mmdiscard.tta.mergers import Merger
from mmdiscard.utils import Progress, as_json, innermost_datasets, report, write_json
from mmdiscard.version import __version__

#: row of the table -> merger
ROWS = {
    'mean': 'MeanMerger',
    'max': 'MaxMerger',
    'entropy': 'EntropyMerger',
    'GPS': 'GPSMerger',
    'AugTTA': 'AugTTAMerger',
    'ClassTTA': 'ClassTTAMerger',
}
GPS_VIEWS = 3
METRICS = {'mmpretrain': 'accuracy/top1', 'mmseg': 'mIoU'}


@dataclass(frozen=True)
class Plan:
    """Which total budgets are compared, and how mmdiscard divides them.

    Attributes:
        budgets: views x states of a prediction.
        states: for each budget, how many states each view has with mmdiscard.
        policy: config of a TTA policy, without budget.
        images: labelled images that learned mergers are fitted to.
        pixels: how many are kept of each of these, of segmentors.
    """

    budgets: Sequence[int]
    states: Sequence[int]
    policy: Mapping[str, Any]
    images: LabelledViews = field(default_factory=LabelledViews)
    pixels: int = 64

    def __post_init__(self) -> None:
        if len(self.budgets) != len(self.states):
            raise MMDiscardError('--states needs one number for each of --budgets')
        for budget, states in zip(self.budgets, self.states, strict=True):
            if states < 2 or budget < states or budget % states:
                raise MMDiscardError(
                    f'a total budget of {budget} is not a whole number of views with {states} '
                    'states each, at least 2'
                )

    def levels(self) -> dict[int, int]:
        """Number of states per view -> how many views are needed with so many."""
        levels = {1: max(self.budgets)}
        for budget, states in zip(self.budgets, self.states, strict=True):
            levels[states] = max(levels.get(states, 0), budget // states)
        return levels

    def views_at(self, level: int) -> dict[int, int]:
        """Total budget -> number of views, for those that have ``level`` states per view."""
        if level == 1:
            return {budget: budget for budget in self.budgets}
        pairs = zip(self.budgets, self.states, strict=True)
        return {budget: budget // states for budget, states in pairs if states == level}


def pipeline_of(cfg: Config, policy: Mapping[str, Any], budget: int) -> list[dict]:
    """The test pipeline with the views of a policy in the place of the one view.

    Args:
        cfg: with a test set.
        policy: config of the policy.
        budget: number of views.

    Raises:
        MMDiscardError: if the pipeline packs nothing.
    """
    steps = [dict(step) for step in innermost_datasets(cfg.test_dataloader.dataset)[0].pipeline]
    kinds = [str(step['type']).rpartition('.')[2] for step in steps]
    last = [i for i, kind in enumerate(kinds) if kind == 'LoadAnnotations' or 'Pack' in kind]
    if not last:
        raise MMDiscardError(f'the test pipeline ({", ".join(kinds)}) has no packing step')
    first = last[0]
    views = dict(
        type='mmdiscard.TestTimePolicy',
        policy=dict(policy, budget=budget),
        pack=[step for step in steps[first:] if 'Resize' not in step['type']],
        dense=cfg.default_scope == 'mmseg',
    )
    return [*steps[:first], views]


def compare(
    read: Callable[[], Config], checkpoint: str, plan: Plan, folder: Path, metric: str | None = None
) -> dict[str, Any]:
    """Every row at every budget for one checkpoint; what is in ``folder`` is not computed again.

    Args:
        read: gives the config, with a `SubsamplingSearchHook` whose search takes a ``budget``.
        checkpoint: path or URL of the weights.
        plan: what to compare.
        folder: for the results and the logits that mergers are fitted to.
        metric: name of the metric; None for top-1 accuracy or mIoU.

    Returns:
        ``plain``, the metric, and by number of states ``cost`` (plain forwards per view) and
        ``rows``: by row and total budget the metric.

    Raises:
        MMDiscardError: if the config does not fit.
    """
    results: dict[str, Any] = {}
    for level, views in plan.levels().items():
        run = _StatesPerView(read(), checkpoint, plan, level, views, folder)
        results[str(level)] = run.results(metric)
    return results


class _StatesPerView:
    """All rows that have the same number of states per view."""

    def __init__(
        self, cfg: Config, checkpoint: str, plan: Plan, level: int, views: int, folder: Path
    ) -> None:
        self.cfg = cfg
        self.checkpoint = checkpoint
        self.plan = plan
        self.level = level
        self.settings = _with_budget(search_settings(cfg), level)
        self.folder = folder / f'states-{level}'
        cfg.tta_pipeline = pipeline_of(cfg, plan.policy, views)

    def results(self, metric: str | None) -> dict[str, Any]:
        """The metrics, from the folder if they are there."""
        metric = metric or METRICS[self.cfg.default_scope]
        self.plan.images.check(self.cfg)
        init_default_scope(self.cfg.default_scope)
        runner = load_runner(self.cfg, self.checkpoint)
        key = self._key(runner.model, metric)
        path = self.folder / 'results.json'
        known = read_results(path)
        if known.get('key') != key:
            known = dict(key=key, **self._measure(runner.model, metric))
            write_json(path, known)
        return known

    def _key(self, model: nn.Module, metric: str) -> dict[str, Any]:
        key = dict(
            weights=digest(model),
            test=self.cfg.test_dataloader.dataset.to_dict(),
            views=self.cfg.tta_pipeline,
            budgets=self.plan.views_at(self.level),
            images=asdict(self.plan.images),
            states=self.settings,
            metric=metric,
            mmdiscard=__version__,
        )
        return as_json(key)

    def _measure(self, model: nn.Module, metric: str) -> dict[str, Any]:
        merged_views = self._merged_views(*self._fitting_set(model))
        costs: list[float] = []
        for dataset in innermost_datasets(self.cfg.test_dataloader.dataset):
            dataset.pipeline = self.cfg.tta_pipeline
        loader = Runner.build_dataloader(self.cfg.test_dataloader.to_dict())
        for merged in merged_views.values():
            merged.evaluate_with(self.cfg.test_evaluator, loader.dataset.metainfo)
        with attach(model, **self.settings) if self.level > 1 else nullcontext() as ensemble:
            if ensemble is not None:
                ensemble.listeners.append(lambda result: costs.append(result.cost))
            self._predict(tta_model(model, dict(type='EntropyMerger')), loader, merged_views)
        rows: dict[str, dict[str, float]] = {}
        for (row, budget), merged in merged_views.items():
            rows.setdefault(row, {})[str(budget)] = merged.metric(metric, len(loader.dataset))
        return dict(cost=sum(costs) / len(costs) if costs else 1.0, rows=rows)

    def _fitting_set(self, model: nn.Module) -> tuple[tuple[str, ...], Tensor, Tensor]:
        request = FitRequest(
            config='',
            checkpoint=self.checkpoint,
            folder=self.folder,
            mergers=(),
            images=self.plan.images,
            pixels=self.plan.pixels,
        )
        settings = self.settings if self.level > 1 else None
        cache = cached_logits(self.cfg, model, request, settings)
        return cache.views, *cache.read()

    def _merged_views(
        self, names: Sequence[str], logits: Tensor, labels: Tensor
    ) -> dict[tuple[str, int], '_MergedViews']:
        """What is measured, by row and total budget."""
        report(f'{self.level} state(s) per view: fitting mergers to {len(labels)} rows')
        merged_views = {}
        for budget, views in self.plan.views_at(self.level).items():
            for row, name in ROWS.items():
                merger = _merger(name, names[:views], logits[:, :views], labels)
                merged_views[row, budget] = _MergedViews(merger, views)
        one_view = (PLAIN if self.level == 1 else ALONE, self.level)
        merged_views[one_view] = _MergedViews(_merger('MeanMerger', names[:1], logits, labels), 1)
        return merged_views

    @torch.no_grad()
    def _predict(self, tta: Any, loader: Any, merged_views: Mapping[Any, '_MergedViews']) -> None:
        """Predict every view of every test image once, and give it to all that merge it."""
        progress = Progress(len(loader), f'{self.level} state(s) per view, batches')
        for data in loader:
            names = view_names(split_views(data))
            for merged in merged_views.values():
                merged.begin(names)
            for view, outputs in tta.views(data):
                for merged in merged_views.values():
                    merged.add(view, outputs)
            for merged in merged_views.values():
                merged.end(tta)
            progress.step()


class _MergedViews:
    """One row at one budget.

    Args:
        merger: merges its views.
        views: how many of the first views it takes.
    """

    def __init__(self, merger: Merger, views: int) -> None:
        self.merger = merger
        self.views = views

    def evaluate_with(self, metrics: Any, metainfo: Mapping[str, Any]) -> None:
        """Make ready to measure."""
        self.evaluator = Evaluator(metrics)
        self.evaluator.dataset_meta = metainfo

    def begin(self, names: Sequence[str]) -> None:
        """Begin a batch."""
        self.merger.prepare(names[: self.views])
        self._merging: list = []

    def add(self, view: int, outputs: Sequence[Any]) -> None:
        """Take in a view of every image of the batch."""
        if view >= self.views or not self.merger.uses(view):
            return
        if not self._merging:
            self._samples = [output.sample for output in outputs]
            self._merging = [self.merger.begin() for _ in outputs]
        for image, output in zip(self._merging, outputs, strict=True):
            image.add(view, output.values(self.merger.on), output.weight)

    def end(self, tta: Any) -> None:
        """Measure the batch."""
        samples = [
            tta.merged(sample, self.merger.probabilities(image.result()))
            for sample, image in zip(self._samples, self._merging, strict=True)
        ]
        self.evaluator.process(data_samples=samples, data_batch=None)
        self._merging = self._samples = []

    def metric(self, name: str, count: int) -> float:
        """The metric over all ``count`` images.

        Raises:
            MMDiscardError: if the config's evaluator gives no such metric.
        """
        found = self.evaluator.evaluate(count)
        if name not in found:
            raise MMDiscardError(
                f'the evaluator of the config gives no {name!r}; choose one of {", ".join(found)} '
                'with --metric'
            )
        return float(found[name])


def _merger(name: str, views: Sequence[str], logits: Tensor, labels: Tensor) -> Merger:
    if name not in FITS:
        return build(MERGERS, dict(type=name))
    options = dict(count=min(GPS_VIEWS, len(views))) if name == 'GPSMerger' else {}
    parameters = FITS[name](logits, labels, **options)
    return build(MERGERS, dict(type=name, file=MergerFile(name, tuple(views), parameters)))


def _with_budget(settings: dict[str, Any], level: int) -> dict[str, Any]:
    if 'budget' not in settings.get('search', {}):
        raise MMDiscardError(
            'the search of the config has no budget to vary; compare with GreedySearch or '
            'SpreadStates'
        )
    return settings | dict(search=settings['search'] | dict(budget=level))
