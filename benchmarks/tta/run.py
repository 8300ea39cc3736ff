"""Compare test-time augmentation with and without mmdiscard, at equal total budgets.

    python -m benchmarks.tta.run CONFIG CHECKPOINT [CHECKPOINT ...] \\
        --budgets 30 100 150 --states 3 10 15
    python -m benchmarks.tta.run --demo  # the models of the demo, after `make demo`

A total budget is views x states. Without mmdiscard a prediction takes so many views; with it, so
many states in each of fewer views. Several checkpoints (seeds) give intervals of paired gains.
Learned mergers are fitted to a drawn part of the training set, never to the test set. What is
finished is kept in the folder, so an interrupted run goes on when the same command is given again.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from benchmarks.demo.models import CONFIGS, DEMO_MODELS, checkpoints
from benchmarks.tta.compare import Plan, compare
from benchmarks.tta.report import ComparedModel, draw_budgets, tables
from mmdiscard.engine import cli
from mmdiscard.engine.checkpoint import check_checkpoint_file
from mmdiscard.engine.config import (
    apply_options,
    check_test_set,
    package_of,
    prepare_dataloaders,
    read_config,
)
from mmdiscard.tta.labelled_views import LabelledViews
from mmdiscard.utils import report, write_json, write_text

POLICIES = {'standard': 'StandardPolicy', 'expanded': 'ExpandedPolicy'}
METRICS = {'mmpretrain': 'top-1 accuracy (%)', 'mmseg': 'mIoU (%)'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='config file with a SubsamplingSearchHook')
    parser.add_argument('checkpoints', nargs='*', help='weights, one file for each seed')
    parser.add_argument('--demo', action='store_true', help='compare on the models of the demo')
    parser.add_argument('--demo-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--data', type=Path, default=Path('data/digit_scenes'))
    parser.add_argument('--models', nargs='+', choices=DEMO_MODELS, default=list(DEMO_MODELS))
    parser.add_argument('--budgets', type=int, nargs='+', help='total (default: 30 100 150)')
    parser.add_argument(
        '--states', type=int, nargs='+', help='per view, for each budget (default: 3 10 15)'
    )
    parser.add_argument('--policy', choices=POLICIES, default='standard', help='which views')
    parser.add_argument(
        '--no-flips', action='store_true', help='where a mirror image shows something else'
    )
    parser.add_argument('--images', type=int, default=2000, help='to fit mergers to')
    parser.add_argument('--pixels', type=int, default=64, help='of each segmented image')
    parser.add_argument('--metric', help='default: accuracy/top1 or mIoU')
    parser.add_argument('--out', type=Path, help='folder (default: work_dirs/compare)')
    cli.add_config_options(parser)
    args = parser.parse_args(argv)
    if not args.demo and not args.checkpoints:
        parser.error('give a config and checkpoints, or --demo')
    if args.demo and args.config:
        parser.error('--demo takes no config')
    demo = args.demo
    args.budgets = args.budgets or ([4, 8] if demo else [30, 100, 150])
    args.states = args.states or ([2, 4] if demo else [3, 10, 15])
    args.out = args.out or Path('work_dirs/compare', 'demo' if demo else Path(args.config).stem)
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    """What is compared, as the flags say."""
    policy = dict(type=POLICIES[args.policy], flips=not (args.no_flips or args.demo))
    images = LabelledViews(images=min(args.images, 200) if args.demo else args.images)
    return Plan(args.budgets, args.states, policy, images, args.pixels)


def make_config(args: argparse.Namespace, path: str, work_dir: Path) -> Config:
    """A config with a test set, overridden as the flags say.

    Args:
        args: flags.
        path: of the config.
        work_dir: for logs.
    """
    cfg = read_config(path)
    apply_options(cfg, args.cfg_options, path)
    package_of(cfg, path)
    check_test_set(cfg)
    prepare_dataloaders(cfg)
    cfg.work_dir = str(work_dir)
    cfg.log_level = 'WARNING'
    return cfg


def compare_model(
    args: argparse.Namespace, plan: Plan, config: str, weights: list[str], folder: Path
) -> ComparedModel:
    """Results of all checkpoints of one model.

    Args:
        args: flags.
        plan: what is compared.
        config: path of the config.
        weights: files, one for each seed.
        folder: for results.
    """
    runs, title = [], ''
    for number, checkpoint in enumerate(weights):
        report(f'{config}: checkpoint {number + 1} of {len(weights)}, {checkpoint}')
        own = folder / f'checkpoint{number}'

        def read(own: Path = own) -> Config:
            return make_config(args, config, own / 'logs')

        title = f'{Path(config).stem}, {args.metric or METRICS[read().default_scope]}'
        runs.append(compare(read, checkpoint, plan, own, args.metric))
    return ComparedModel(title, runs, dict(zip(args.budgets, args.states, strict=True)))


def demo_jobs(args: argparse.Namespace) -> list[tuple[str, list[str], Path, dict]]:
    """Config, checkpoints, folder and overrides of each model of the demo.

    Raises:
        MMDiscardError: if there are no checkpoints.
    """
    jobs = []
    for name in args.models:
        model = DEMO_MODELS[name]
        found = list(map(str, checkpoints(args.demo_dir, name)))
        options = {
            f'{field}.{key}': value
            for field in ('train_dataloader', 'val_dataloader', 'test_dataloader')
            for key, value in (
                ('dataset.data_root', str(args.data / model.kind)),
                ('num_workers', 0),
            )
        }
        jobs.append((str(CONFIGS / model.recommended), found, args.out / name, options))
    return jobs


def compare_all(args: argparse.Namespace) -> list[ComparedModel]:
    """The models that the command line names."""
    plan = plan_of(args)
    if not args.demo:
        for checkpoint in args.checkpoints:
            check_checkpoint_file(checkpoint)
        return [compare_model(args, plan, args.config, args.checkpoints, args.out)]
    models = []
    given = args.cfg_options or {}
    for config, weights, folder, options in demo_jobs(args):
        args.cfg_options = options | given
        models.append(compare_model(args, plan, config, weights, folder))
    return models


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    MMLogger.get_instance('mmdiscard', log_level='WARNING')
    try:
        models = compare_all(args)
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. What is finished is kept: the same command goes on from there.')
    page = '\n'.join(line for model in models for line in [*tables(model), ''])
    print(page)
    write_text(args.out / 'table.md', page)
    content = [dict(title=m.title, states=dict(m.states), runs=list(m.runs)) for m in models]
    write_json(args.out / 'results.json', content)
    draw_budgets(models, args.out / 'budgets.png')
    print(f'Written: {args.out / "table.md"}, results.json, budgets.png')


if __name__ == '__main__':
    cli.run(main)
