"""Calibration of states or of a gate's threshold, from a config and a checkpoint to a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..engine.data_subset import CalibrationImages
from ..engine.load_runner import digest, load_runner, search_settings
from ..errors import MMDiscardError
from ..models import attach
from ..search import Budget
from ..version import __version__
from .candidates import ExternalStates
from .forward_selection import ForwardSelection
from .gate_calibration import GateCalibration
from .state_calibration import StateCalibration


@dataclass(frozen=True)
class CalibrationRequest:
    """Settings of a calibration: what is chosen, and on which images.

    Attributes:
        config: path of the config, for the notes in the file.
        checkpoint: path or URL of the weights.
        out: file to write.
        images: the labelled images.
        budget: as in configs, such as ``4`` or ``dict(cost=2.0)``; with a gate ``dict(cost=...)``,
            the average over images.
        gate: name of a gate's class, to find its threshold; None to choose states.
        candidates: number of states tried per round, at most.
    """

    config: str
    checkpoint: str
    out: Path
    images: CalibrationImages
    budget: Any
    gate: str | None = None
    candidates: int = 64


def calibrate(cfg: Config, request: CalibrationRequest) -> Any:
    """Choose states or the threshold of a gate, and write the file. The config is changed.

    Returns:
        A list of `Step` for states, the content of the file for a gate.

    Raises:
        MMDiscardError: if the config, the checkpoint and the request do not fit together.
    """
    settings = search_settings(cfg)
    budget = Budget.parse(request.budget)
    if request.candidates < 2:
        raise MMDiscardError(f'--candidates has to be at least 2; got {request.candidates}')
    request.images.check(cfg)
    init_default_scope(cfg.default_scope)
    runner = load_runner(cfg, request.checkpoint)
    loader, count = request.images.loader(cfg)
    notes = dict(
        config=request.config,
        checkpoint=str(request.checkpoint),
        weights=digest(runner.model),
        split=request.images.split,
        images=count,
        seed=request.images.seed,
        aggregator=settings.get('aggregator'),
        mmdiscard=__version__,
    )
    if request.gate:
        notes['search'] = settings.get('search')
        gate = GateCalibration(runner.model, settings, request.gate, loader)
        return gate.write(request.out, budget.cost, notes)
    settings['search'] = ExternalStates()
    with attach(runner.model, **settings) as ensemble:
        selection = ForwardSelection(ensemble.space, ensemble.prices, budget, request.candidates)
        notes |= dict(budget=request.budget, candidates=len(selection.pool))
        return StateCalibration(ensemble, loader, selection, request.out, notes).run()
