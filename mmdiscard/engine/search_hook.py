"""`SubsamplingSearchHook`: searches and merges states in MMEngine's test loop."""

import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import collect_results, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..errors import MMDiscardError
from ..execution import DEFAULT_CACHE_BYTES
from ..models import (
    Ensemble,
    SearchResult,
    UnsureWindows,
    adapter_class,
    attach,
    ensemble_of,
    unwrap,
)
from ..registry import AGGREGATORS, HOOKS, SEARCHES, build
from ..utils import write_text
from .checkpoint import WeightCheck, check_checkpoint
from .image_size import size_to_trace
from .summary import describe
from .uncertainty_output import DrawnUncertainty, write_maps

#: ensembles that hooks attached; one that is still there before a test is of an interrupted one
_attached_by_hooks: weakref.WeakSet[Ensemble] = weakref.WeakSet()


@HOOKS.register_module()
class SubsamplingSearchHook(Hook):
    """Test (and, if asked, validate) with discarded activations.

    Before the test an ensemble is attached to the runner's model; afterwards a summary is logged
    and the model is detached. Works with plain models, MM's TTA models and distributed wrappers. A
    model that an interrupted test left attached is detached before the next one.

    Further arguments are those of `mmdiscard.attach`.

    Args:
        val: also search during validation.
        dump: name of a file in the runner's log folder that gets one JSON line per image, with its
            path and, for every forward pass (a view of TTA, a window of slide inference), the
            states, their scores and, with ``where``, the windows in which they were computed. It is
            written at the end of the test; until then, and where a run fails, each process writes
            to a file of its own that ends in ``.incomplete``. None for no file.
        uncertainty: see `mmdiscard.attach`. Where MM draws predictions, both are drawn as well.
        uncertainty_dir: folder to which a segmentor's maps are written, a file per image; implies
            ``uncertainty``. None for no files.

    Raises:
        MMDiscardError: if a setting is wrong whatever the model is. Settings that do not fit the
            model are refused before the first image is predicted.
    """

    def __init__(
        self,
        subsampling: Mapping[str, Any] | None = None,
        search: Mapping[str, Any] | None = None,
        aggregator: Mapping[str, Any] | None = None,
        max_rows: int | None = None,
        max_cache_bytes: int = DEFAULT_CACHE_BYTES,
        val: bool = False,
        dump: str | None = None,
        self_test: bool = True,
        where: str | Mapping[str, Any] | None = None,
        uncertainty: bool = False,
        uncertainty_dir: str | None = None,
    ) -> None:
        self.settings = dict(
            subsampling=subsampling,
            search=search and build(SEARCHES, search),
            aggregator=aggregator and build(AGGREGATORS, aggregator),
            max_rows=max_rows,
            max_cache_bytes=max_cache_bytes,
            self_test=self_test,
            where=None if where is None else UnsureWindows.parse(where),
            uncertainty=bool(uncertainty or uncertainty_dir),
        )
        self.val = val
        self.dump = dump
        self.uncertainty_dir = uncertainty_dir and Path(uncertainty_dir)
        self.ensemble: Ensemble | None = None
        self._drawn: DrawnUncertainty | None = None
        self._results: list[SearchResult] = []  # of the current iteration
        self._records: list[dict] = []  # of all images so far

    def before_run(self, runner: Runner) -> None:
        if sum(isinstance(hook, SubsamplingSearchHook) for hook in runner.hooks) > 1:
            raise MMDiscardError('the config has several SubsamplingSearchHooks; leave one of them')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint of another model, which MMEngine would load in part."""
        if not any(isinstance(hook, WeightCheck) for hook in runner.hooks):
            check_checkpoint(runner.model, checkpoint)

    def before_test(self, runner: Runner) -> None:
        self._attach(runner, runner.test_loop.dataloader)

    def before_val(self, runner: Runner) -> None:
        if self.val:
            self._attach(runner, runner.val_loop.dataloader)

    def before_test_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._results.clear()
        if self.ensemble is not None:
            self.ensemble.last = None  # stays so where no prediction of the batch uses a state

    before_val_iter = before_test_iter

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        if self.ensemble is not None:
            new = [_record(sample, i, self._results) for i, sample in enumerate(outputs or ())]
            self._records += new
            if self.dump:
                with open(_incomplete(runner, self.dump), 'a', encoding='utf-8') as file:
                    file.write(_lines(new))
            if self.uncertainty_dir:
                for sample in outputs or ():
                    write_maps(sample, self.uncertainty_dir)

    after_val_iter = after_test_iter

    def after_test(self, runner: Runner) -> None:
        self._finish(runner, len(runner.test_loop.dataloader.dataset))

    def after_val(self, runner: Runner) -> None:
        if self.val:
            self._finish(runner, len(runner.val_loop.dataloader.dataset))

    def _attach(self, runner: Runner, loader: DataLoader) -> None:
        left = ensemble_of(runner.model)
        if left in _attached_by_hooks:
            left.detach()
        if self._drawn is not None:
            self._drawn.remove()
        if self.uncertainty_dir and not adapter_class(unwrap(runner.model)).dense:
            raise MMDiscardError(
                "uncertainty_dir is for the maps of segmentors; a classifier's scores are in its "
                'data samples, which --out writes'
            )
        self.ensemble = attach(runner.model, **self._settings_for(runner.model, loader))
        if self.settings['uncertainty']:
            self._drawn = DrawnUncertainty(runner.visualizer)
        _attached_by_hooks.add(self.ensemble)
        self.ensemble.listeners.append(self._results.append)
        self._records = []
        if self.dump:
            _incomplete(runner, self.dump).unlink(missing_ok=True)
        runner.logger.info(f'mmdiscard: {_plan(self.ensemble)}')

    def _settings_for(self, model: Any, loader: DataLoader) -> dict[str, Any]:
        """The settings, with the size of the images that come unless one is set."""
        subsampling = self.settings['subsampling']
        if subsampling is None or isinstance(subsampling, Mapping):
            subsampling = dict(subsampling or {})
            if subsampling.get('input_size') is None:
                subsampling['input_size'] = size_to_trace(model, loader)
        return self.settings | dict(subsampling=subsampling)

    def _finish(self, runner: Runner, num_images: int) -> None:
        ensemble, self.ensemble = self.ensemble, None
        ensemble.detach()
        if self._drawn is not None:
            self._drawn.remove()
        records = collect_results(self._records, num_images, device='cpu')
        if is_main_process():
            runner.logger.info(
                describe(ensemble.groups, records, ensemble.cost_model, ensemble.divisor)
            )
            if self.dump:
                write_text(Path(runner.log_dir) / self.dump, _lines(records))
        if self.dump:
            _incomplete(runner, self.dump).unlink(missing_ok=True)


def _plan(ensemble: Ensemble) -> str:
    """Log line: number of states, their groups, and a warning if the budget allows only one."""
    names = ', '.join(group.name for group in ensemble.groups)
    windows = ensemble.windows
    if windows is not None and ensemble.pipeline.merges:
        place = windows.describe(ensemble.input_size)
        states = f'{ensemble.budget} state{"s" * (ensemble.budget > 1)}'
        return f'searching {states} over {names} in {place}'
    if ensemble.budget > 1:
        return f'searching {ensemble.budget} states over {names}'
    prices = ensemble.prices
    second = prices.root + min(map(prices.branch, range(len(ensemble.groups))))
    return (
        f'one state, so figures are those of the plain model; with a second state of {names} an '
        f'image would cost {second:.2f} plain forwards'
    )


def _record(sample: Any, index: int, results: Sequence[SearchResult]) -> dict:
    """The states of one image in every forward pass, for the summary and the dump."""
    return {
        'img_path': str(sample.get('img_path', '')),
        'passes': [
            {
                'states': result.states[index][: result.counts[index]].tolist(),
                'scores': None
                if result.scores is None
                else result.scores[index][: result.counts[index]].tolist(),
                'cost': round(float(result.costs[index]), 4),
                'bound': round(float(result.bounds[index]), 4),
                'size': list(result.size),
                **({} if result.windows is None else {'windows': result.windows[index]}),
            }
            for result in results
            if result.counts[index]  # with one budget for views and states, an image may have none
        ],
    }


def _incomplete(runner: Runner, dump: str) -> Path:
    return Path(runner.log_dir) / f'{dump}.rank{get_rank()}.incomplete'


def _lines(records: Sequence[dict]) -> str:
    return ''.join(json.dumps(record) + '\n' for record in records)
