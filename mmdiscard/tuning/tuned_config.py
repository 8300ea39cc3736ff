"""The config that a choice is written to."""

import copy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..engine.config import add_import, make_plain
from ..utils import write_atomically
from .procedures import Procedure
from .state_settings import StateSetting
from .tuning_images import test_pipeline, views_pipeline

TTA = {'mmpretrain': 'mmdiscard.DiscardClsTTA', 'mmseg': 'mmdiscard.DiscardSegTTA'}


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
        hook = ConfigDict(type='mmdiscard.SubsamplingSearchHook', **setting.options)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
        add_import(cfg)
    if procedure.views != Procedure().views:
        cfg.tta_pipeline = views_pipeline(test_pipeline(cfg), procedure.sizes, procedure.flip)
        cfg.tta_model = dict(type=TTA[cfg.default_scope])
        cfg.always_tta = True
        add_import(cfg)
    return cfg


def write_tuned_config(path: Path, cfg: Config, comments: list[str]) -> None:
    """Write a config as Python, complete, with comments above it.

    Args:
        path: of the file.
        cfg: the config.
        comments: lines.
    """
    head = ''.join(f'# {line}\n' for line in comments)

    def write(partial: Path) -> None:
        partial.write_text(head + cfg.pretty_text, encoding='utf-8')

    write_atomically(path, write)
