"""Fits mergers for `mmdiscard.fit_tta`: from a config and a checkpoint to files of mergers."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import init_default_scope
from torch import nn

from ..engine.config import search_hook_of
from ..engine.load_runner import digest, load_runner, search_settings
from ..errors import MMDiscardError
from ..models import attach
from ..utils import report
from ..version import __version__
from .fitted_mergers import MergerFile
from .labelled_views import LabelledViews, fill_cache, row_reader, tta_model
from .logit_cache import LogitCache
from .merger_parameters import FITS

MERGERS = {'gps': 'GPSMerger', 'augtta': 'AugTTAMerger', 'classtta': 'ClassTTAMerger'}


@dataclass(frozen=True)
class FitRequest:
    """Settings of one run of `mmdiscard.fit_tta`.

    Attributes:
        config: path of the config, which the files mention.
        checkpoint: path or URL of the weights.
        folder: for the files and the cached logits.
        mergers: class names of the mergers to fit.
        images: the images to fit them to.
        plain: whether to leave mmdiscard out and fit mergers for plain TTA.
        pixels: number of pixels that are kept of each segmented image.
        options: by merger, arguments of its function in `FITS`.
    """

    config: str
    checkpoint: str
    folder: Path
    mergers: Sequence[str]
    images: LabelledViews
    plain: bool = False
    pixels: int = 64
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def fit(cfg: Config, request: FitRequest) -> dict[str, Path]:
    """Predict the views of labelled images, fit mergers to the logits and write their files.

    Returns:
        The file of each merger. ``cfg`` was changed in place.

    Raises:
        MMDiscardError: if config, weights or settings are not valid; before the model is built
            where possible.
    """
    if get_world_size() > 1:
        raise MMDiscardError(
            'mergers are fitted by one process; start python -m mmdiscard.fit_tta itself'
        )
    if request.pixels < 1:
        raise MMDiscardError(f'--pixels has to be at least 1; got {request.pixels}')
    request.images.check(cfg)
    plain = request.plain or search_hook_of(cfg) is None
    settings = None if plain else search_settings(cfg)
    init_default_scope(cfg.default_scope)
    runner = load_runner(cfg, request.checkpoint)
    cache = cached_logits(cfg, runner.model, request, settings)
    logits, labels = cache.read()
    notes = dict(
        config=request.config,
        checkpoint=str(request.checkpoint),
        weights=digest(runner.model),
        states=settings,
        mmdiscard=__version__,
        **request.images.describe(),
    )
    files = {}
    for name in request.mergers:
        parameters = FITS[name](logits, labels, **request.options.get(name, {}))
        files[name] = request.folder / f'{name}.json'
        MergerFile(name, cache.views, parameters, notes).save(files[name])
        report(f'{files[name]}: {name} of {len(cache.views)} views, fitted to {len(labels)} rows')
    return files


def cached_logits(
    cfg: Config, model: nn.Module, request: FitRequest, settings: Mapping[str, Any] | None
) -> LogitCache:
    """Logits of every view, read from the cache or predicted where it has none.

    Args:
        cfg: the config.
        model: built from it, with its weights.
        request: which images, and the folder of the cache.
        settings: arguments of `mmdiscard.attach`; None for the plain model.
    """
    read, rows = row_reader(model, request.pixels)
    dataset = request.images.drawn(cfg)
    key = dict(
        weights=digest(model),
        views=request.images.dataset(cfg),
        images=request.images.describe(),
        states=settings,
        mmdiscard=__version__,
    )
    cache = LogitCache(request.folder / 'logits', key, len(dataset), rows)
    with attach(model, **settings) if settings else nullcontext():
        fill_cache(cache, tta_model(model), cfg, dataset, read)
    return cache
