"""From a config and a checkpoint to the procedure that pays, and a config that tests by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from torch import nn
from torch.utils.data import Subset

from ..engine.config import search_hook_of
from ..engine.data_subset import ordered_loader
from ..engine.load_runner import digest, load_runner, search_settings
from ..errors import MMDiscardError
from ..models import unwrap
from ..utils import Progress, report, write_text
from .evaluation import evaluate_procedures
from .gains import RESAMPLES, bootstrap, choose
from .measures import Measure, measure_of
from .procedures import Procedure, candidates
from .report import Report, Row
from .result_files import ResultFiles
from .state_settings import (
    CONFIG,
    Groups,
    PreparedModel,
    StateSetting,
    prepare_models,
    spread_settings,
    window_settings,
)
from .tuned_config import tuned_config
from .tuning_images import FEWEST, TuningImages

#: groups that are tried unless others are named
DEFAULT_GROUPS: tuple[Groups, ...] = ('auto', [-1], [0], ['image'])
#: of states and mirror images in unsure windows, in plain forwards
WINDOW_COST = 1.4
#: procedures of so many times the wanted cost are still measured, for the table and the figure
MOST = 2.0


@dataclass(frozen=True)
class TuneRequest:
    """Settings of a tuning: what is chosen from, and on which images.

    Attributes:
        config: name of the config, for notes.
        checkpoint: file or URL.
        folder: for what is written.
        images: to choose on, in all views.
        cost: largest cost of the choice, in plain forwards.
        groups: to take states of; None for `DEFAULT_GROUPS`, without those that do not fit.
        counts: numbers of states.
    """

    config: str
    checkpoint: str
    folder: Path
    images: TuningImages
    cost: float = 2.0
    groups: Sequence[Groups] | None = None
    counts: Sequence[int] = (2, 4)

    def check(self) -> None:
        """Check what needs no config.

        Raises:
            MMDiscardError: if a number is out of its range.
        """
        if not self.cost >= 1:
            raise MMDiscardError(f'--cost is at least 1, one plain forward; got {self.cost:g}')
        if not all(0.1 <= size <= 4 for size in self.images.sizes):
            raise MMDiscardError(
                f'--sizes are between 0.1 and 4 times the size; got {self.images.sizes}'
            )
        if not all(count >= 2 for count in self.counts):
            raise MMDiscardError(f'--states are numbers of at least 2; got {list(self.counts)}')


def tune(cfg: Config, request: TuneRequest, written: Config) -> Report:
    """Compare procedures on labelled images, choose one, and write its config and a report.

    Args:
        cfg: ready to be run; it is changed.
        request: what to choose from.
        written: the same config as it was read, for the one that is written.

    Returns:
        The report; the same in all processes.

    Raises:
        MMDiscardError: if the config, the images, the model or a setting cannot be used.
    """
    request.check()
    request.images.check(cfg)
    hook = search_settings(cfg) if search_hook_of(cfg) else None
    model = unwrap(load_runner(cfg, request.checkpoint).model)
    measure = measure_of(model, cfg)
    prepared = prepare_models(model, settings_to_try(model, request, hook))
    costs = {name: one.cost for name, one in prepared.items()}
    images = request.images
    alone = [name for name, one in prepared.items() if one.setting and one.setting.in_windows]
    procedures = candidates(images.sizes, images.flip, costs, MOST * request.cost, alone)
    results = _results(cfg, request, prepared, procedures, measure, digest(model))
    statistics = np.stack([results[image].statistics for image in sorted(results)])
    times = np.median([results[image].costs for image in sorted(results)], axis=0)
    gains = bootstrap(statistics, measure, RESAMPLES, images.seed)
    sums = statistics.sum(0)
    rows = [
        Row(
            procedure=one,
            gain=gains[index],
            cost=float(times[index]),
            predicted=one.predicted_cost(costs),
            nll=float(measure.likelihood(sums[index])),
            ece=float(measure.calibration_error(sums[index])),
        )
        for index, one in enumerate(procedures)
    ]
    chosen = choose(gains, times.tolist(), request.cost)
    about = (
        dict(config=request.config, checkpoint=request.checkpoint, cost=request.cost)
        | images.describe()
    )
    found = Report(measure.name, rows, chosen, len(results), about)
    if is_main_process():
        setting = prepared[rows[chosen].procedure.states].setting
        tuned = tuned_config(written, rows[chosen].procedure, setting)
        write_text(request.folder / 'tuned.py', found.comments() + tuned.pretty_text)
        found.write(request.folder / 'tune')
    return found


def settings_to_try(
    model: nn.Module, request: TuneRequest, hook: dict[str, Any] | None = None
) -> list[StateSetting]:
    """The settings of states that procedures are made of.

    Args:
        model: classifier or segmentor.
        request: what to choose from.
        hook: arguments of `mmdiscard.attach` by the config's own hook; None if it has none.
    """
    own = [] if hook is None else [StateSetting(CONFIG, hook)]
    groups = DEFAULT_GROUPS if request.groups is None else request.groups
    found = own + spread_settings(model, groups, request.counts, request.groups is None)
    if request.groups is None:
        found += window_settings(model, min(WINDOW_COST, request.cost), request.images.flip)
    return found


def _results(
    cfg: Config,
    request: TuneRequest,
    prepared: dict[str, PreparedModel],
    procedures: Sequence[Procedure],
    measure: Measure,
    weights: str,
) -> dict[int, Any]:
    """Results of all images by position; those of an earlier run are read from its files."""
    drawn = request.images.drawn(cfg)
    if len(drawn) < FEWEST:
        raise MMDiscardError(
            f'choosing needs at least {FEWEST} images, and the split {request.images.split!r} has '
            f'{len(drawn)}; take --split {"train" if request.images.split == "val" else "val"}'
        )
    states = {name: one.setting and one.setting.options for name, one in prepared.items()}
    about = request.images.describe() | dict(
        format='mmdiscard tune images',
        version=2,
        weights=weights,
        model=cfg.model,
        data=request.images.dataset(cfg),
        states=states,
    )
    files = ResultFiles(request.folder / 'tune', about, [one.name for one in procedures])
    finished = files.read()
    barrier()  # before a process adds to its file
    missing = [image for image in range(len(drawn)) if image not in finished]
    report(
        f'{len(procedures)} procedures on {len(drawn)} images'
        + (f', of which {len(finished)} are done' if finished else '')
    )
    if missing:
        loader = ordered_loader(cfg, Subset(drawn, missing))
        mine = iter(missing[get_rank() :: get_world_size()])
        progress = Progress(len(loader), 'batches')
        models = {name: one.model for name, one in prepared.items()}
        views = Procedure(request.images.sizes, request.images.flip).views
        for results in evaluate_procedures(models, procedures, views, loader, measure):
            files.append([next(mine) for _ in results], results)
            progress.step()
        barrier()
    return files.read()
