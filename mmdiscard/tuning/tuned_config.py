"""The config that a choice is written to."""

import copy

from mmengine.config import Config

from ..engine.config import DISCARD_TTA, add_import, add_search_hook, make_plain
from .procedures import Procedure
from .state_settings import StateSetting
from .tuning_images import test_pipeline, views_pipeline


def tuned_config(cfg: Config, procedure: Procedure, setting: StateSetting | None) -> Config:
    """A config that tests by a procedure.

    Args:
        cfg: of the user, as it was read.
        procedure: the choice.
        setting: its states; None for none.
    """
    cfg = copy.deepcopy(cfg)
    make_plain(cfg)
    for key in ('work_dir', 'tta_pipeline', 'tta_model', 'always_tta'):
        cfg.pop(key, None)
    if setting is not None:
        add_search_hook(cfg, **setting.options)
    if procedure.views != Procedure().views:
        cfg.tta_pipeline = views_pipeline(test_pipeline(cfg), procedure.sizes, procedure.flip)
        cfg.tta_model = dict(type=DISCARD_TTA[cfg.default_scope])
        cfg.always_tta = True
        add_import(cfg)
    return cfg
