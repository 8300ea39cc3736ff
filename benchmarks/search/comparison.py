"""Several ways to search, tested with several checkpoints of one model, kept as they come."""

import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from benchmarks.common.files import read_results
from mmdiscard.engine.checkpoint import check_checkpoint_file, is_local
from mmdiscard.engine.config import check_test_set, make_plain
from mmdiscard.engine.load_runner import build_runner, search_settings
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import as_json, read_json, report, write_json
from mmdiscard.version import __version__

METRICS = {'mmpretrain': 'accuracy/top1', 'mmseg': 'mIoU'}
DUMP = 'states.jsonl'


class Comparison:
    """Tests variants of a config, each once per checkpoint.

    Args:
        cfg: with a `SubsamplingSearchHook`, whose search the variants replace.
        checkpoints: of trainings that differ in their seed alone.
        folder: where results and logs go; what is there and still fits is not tested again.
        metric: name of the metric to compare; None for top-1 accuracy or mIoU.

    Raises:
        MMDiscardError: if the config has no hook or no test set, or a checkpoint is missing.
    """

    def __init__(
        self, cfg: Config, checkpoints: Sequence[str], folder: Path, metric: str | None = None
    ) -> None:
        self.settings = search_settings(cfg)
        check_test_set(cfg)
        for checkpoint in checkpoints:
            check_checkpoint_file(checkpoint)
        self.cfg = cfg
        self.checkpoints = list(checkpoints)
        self.folder = folder
        self.metric = metric or METRICS[cfg.default_scope]

    def place(self, checkpoint: str) -> Path:
        """Folder of what belongs to one checkpoint."""
        return self.folder / f'run{self.checkpoints.index(checkpoint)}'

    def test(
        self, checkpoint: str, variant: str, search: Mapping[str, Any] | None
    ) -> dict[str, float]:
        """Test one variant with one checkpoint.

        Args:
            checkpoint: weights.
            variant: names the result.
            search: config of a search; None to leave mmdiscard out.

        Returns:
            ``metric``, ``cost`` in plain forwards per pass, ``states`` per pass.

        Raises:
            MMDiscardError: if the test gives no such metric.
        """
        path = self.place(checkpoint) / 'results.json'
        results = read_results(path)
        key = self._key(checkpoint, search)
        if results.get(variant, {}).get('key') != key:
            results[variant] = self._run(checkpoint, variant, search) | dict(key=key)
            write_json(path, results)
            report(f'{checkpoint}, {variant}: {results[variant]["metric"]:.2f}')
        return {name: results[variant][name] for name in ('metric', 'cost', 'states')}

    def _run(
        self, checkpoint: str, variant: str, search: Mapping[str, Any] | None
    ) -> dict[str, float]:
        cfg = copy.deepcopy(self.cfg)
        cfg.work_dir = str(self.place(checkpoint) / variant.replace(' ', '_'))
        cfg.load_from = checkpoint
        cfg.log_level = 'WARNING'
        make_plain(cfg)
        if search is not None:
            hook = dict(type='mmdiscard.SubsamplingSearchHook', dump=DUMP)
            cfg.custom_hooks = [*cfg.custom_hooks, hook | self.settings | dict(search=dict(search))]
        runner = build_runner(cfg)
        metrics = runner.test()
        if self.metric not in metrics:
            raise MMDiscardError(
                f'the test gives no metric {self.metric!r}; choose one of {", ".join(metrics)}'
            )
        cost, states = _mean_cost(runner) if search is not None else (1.0, 1.0)
        return dict(metric=float(metrics[self.metric]), cost=cost, states=states)

    def _key(self, checkpoint: str, search: Mapping[str, Any] | None) -> list[Any]:
        """Changes whenever the result would; files that a search reads count by their content."""
        stamp = Path(checkpoint).stat().st_mtime if is_local(checkpoint) else 0
        settings = self.settings | dict(search=search and _with_files(search))
        key = [checkpoint, stamp, settings, self.cfg.to_dict(), __version__]
        return as_json(key)


def _mean_cost(runner: Runner) -> tuple[float, float]:
    """Mean cost and number of states of a pass, from the hook's dump."""
    lines = (Path(runner.log_dir) / DUMP).read_text().splitlines()
    passes = [entry for line in lines for entry in json.loads(line)['passes']]
    return (
        statistics.fmean(entry['cost'] for entry in passes),
        statistics.fmean(len(entry['states']) for entry in passes),
    )


def _with_files(search: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in search.items():
        if isinstance(value, Mapping):
            value = _with_files(value)
        elif key == 'file':
            value = read_json(value)
        found[key] = value
    return found
