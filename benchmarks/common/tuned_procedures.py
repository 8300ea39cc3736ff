"""What `mmdiscard.tune` chooses, measured on images that it has not seen."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from benchmarks.common.statistics import image_draws
from mmdiscard import tune
from mmdiscard.engine.config import load_config
from mmdiscard.engine.data_subset import ordered_loader
from mmdiscard.engine.load_runner import load_runner
from mmdiscard.models import unwrap
from mmdiscard.tuning import PLAIN, Measure, Procedure, evaluate_procedures, measure_of
from mmdiscard.tuning.state_settings import prepare_models
from mmdiscard.tuning.tune import settings_to_try
from mmdiscard.tuning.tuning_images import TuningImages
from mmdiscard.utils import Progress, read_json

DRAWS = 1000


@dataclass(frozen=True)
class Choice:
    """What the tool chose for a cost.

    Attributes:
        procedure: the choice.
        row: of the tool's table, with its gain on the images it was chosen on.
        rows: the whole table.
        images: number of images that it was chosen on.
        seconds: processor time of the tool.
    """

    procedure: Procedure
    row: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    images: int
    seconds: float


@dataclass(frozen=True)
class ProcedureResults:
    """Procedures on test images.

    Attributes:
        names: of the procedures.
        statistics: ``(N, P, D)``, see `evaluate_procedures`.
        costs: ``(P,)``, median time over images, in plain forwards.
        measure: the metric.
    """

    names: Sequence[str]
    statistics: np.ndarray
    costs: np.ndarray
    measure: Measure

    def metric(self, name: str) -> float:
        """In percent."""
        return float(self.measure.value(self.statistics[:, self.names.index(name)].sum(0)))

    def resampled(self, name: str) -> np.ndarray:
        """The metric of all images, then of every bootstrap draw: ``(1 + DRAWS,)``."""
        images = len(self.statistics)
        draws = np.concatenate([np.ones((1, images)), image_draws(images, DRAWS)])
        return self.measure.value(draws @ self.statistics[:, self.names.index(name)])

    def cost(self, name: str) -> float:
        """In plain forwards."""
        return float(self.costs[self.names.index(name)])


def choose_for(argv: Sequence[str], cost: float) -> Choice:
    """Run the tool.

    Args:
        argv: its arguments, with ``--work-dir``.
        cost: value of ``--cost``.
    """
    start = time.process_time()
    tune.main([*argv, '--cost', str(cost)])
    seconds = time.process_time() - start
    found = read_json(Path(tune.parse_args(argv).work_dir) / 'tune/results.json')
    row = next(row for row in found['rows'] if row['name'] == found['chosen'])
    return Choice(procedure_of(row), row, found['rows'], found['images'], seconds)


def procedure_of(row: Mapping[str, Any]) -> Procedure:
    """The procedure of a row of the tool's table."""
    own = row['procedure']
    return Procedure(tuple(own['sizes']), own['flip'], own['states'])


def measure_on_test(
    argv: Sequence[str], procedures: Sequence[Procedure], images: int
) -> ProcedureResults:
    """Procedures on test images, evaluated as the tool evaluates them on validation images.

    Args:
        argv: arguments of the tool.
        procedures: names of states are those of its table.
        images: how many, drawn with seed 0; all if there are fewer.
    """
    args = tune.parse_args(argv)
    cfg = load_config(args)
    cfg.val_dataloader, cfg.test_dataloader = cfg.test_dataloader, cfg.val_dataloader
    procedures = list(dict.fromkeys([Procedure(), *procedures]))
    sizes = tuple(sorted({1.0, *(size for one in procedures for size in one.sizes)}))
    flip = any(one.flip for one in procedures)
    test = TuningImages(images=images, sizes=sizes, flip=flip)
    model, measure = _model(cfg, args.checkpoint)
    settings = settings_to_try(model, tune.request_of(args, cfg))
    wanted = {one.states for one in procedures}
    prepared = prepare_models(model, [one for one in settings if one.name in wanted])
    models = {name: one.model for name, one in prepared.items()}
    loader = ordered_loader(cfg, test.drawn(cfg))
    progress = Progress(len(loader), 'batches of test images')
    results = []
    views = Procedure(sizes, flip).views
    for batch in evaluate_procedures(models, procedures, views, loader, measure):
        results += batch
        progress.step()
    return ProcedureResults(
        [one.name for one in procedures],
        np.stack([one.statistics for one in results]),
        np.median([one.costs for one in results], axis=0),
        measure,
    )


def _model(cfg: Config, checkpoint: str) -> tuple[Any, Measure]:
    model = unwrap(load_runner(cfg, checkpoint).model)
    return model, measure_of(model, cfg)


def difference(
    trainings: Sequence[ProcedureResults], names: Sequence[str], others: Sequence[str]
) -> list[float]:
    """Mean over trainings of one procedure's metric less another's, and its 95 % interval.

    The interval is by paired bootstrap over images, the same images for all trainings.

    Args:
        trainings: on the same images.
        names: of a procedure for each training.
        others: of the other.
    """
    gains = np.mean(
        [
            one.resampled(name) - one.resampled(other)
            for one, name, other in zip(trainings, names, others, strict=True)
        ],
        axis=0,
    )
    return [float(gains[0]), *np.percentile(gains[1:], [2.5, 97.5]).tolist()]


def is_single(procedure: Procedure) -> bool:
    """Whether it is views without states, or states of the image alone."""
    return procedure.states == PLAIN or procedure == Procedure(states=procedure.states)
