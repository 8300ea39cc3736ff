"""Test a classifier of MMPretrain or a segmentor of MMSegmentation, with or without mmdiscard.

    python -m mmdiscard.test CONFIG CHECKPOINT            # with what the config says
    python -m mmdiscard.test CONFIG CHECKPOINT --plain    # the same model without mmdiscard
    python -m mmdiscard.test CONFIG CHECKPOINT --tta      # several views of each image
    python -m mmdiscard.test CONFIG CHECKPOINT --states 2 # two states, whatever the config says

CONFIG is a file, or a config that a package carries, such as
mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py.
All flags of both packages' own tools/test.py are understood.
"""

import argparse

import mmengine
from mmengine.config import Config
from mmengine.evaluator import DumpResults

from .engine import cli
from .engine.checkpoint import check_checkpoint_file
from .engine.config import (
    asks_uncertainty,
    check_test_set,
    load_config,
    make_plain,
    search_hook_of,
    use_tta,
)
from .engine.launcher import prepare_launcher
from .engine.load_runner import build_runner
from .engine.search_flags import add_search_flags, apply_search_flags, has_search_flags
from .errors import MMDiscardError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    parser.add_argument(
        '--plain', action='store_true', help='leave mmdiscard out: the metric to compare with'
    )
    parser.add_argument(
        '--tta', action='store_true', help="test the views of the config's tta_pipeline, merged"
    )
    add_search_flags(parser)
    parser.add_argument('--amp', action='store_true', help='test in mixed precision')
    add_output_arguments(parser)
    cli.add_run_arguments(parser)
    args = parser.parse_args(argv)
    if args.plain and has_search_flags(args):
        parser.error(
            '--plain leaves mmdiscard out, so it takes no --states, --cost, --groups, --where, '
            '--flip or --uncertainty'
        )
    if args.out_item and not args.out:
        parser.error('--out-item needs --out, the file to write')
    return args


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--out', help='classifier: file for the results (.pkl); segmentor: folder for label maps'
    )
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='what to write to --out; with `metrics` it is a file for both kinds of models',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for painted predictions')
    parser.add_argument('--interval', type=int, help='paint every so many images (default: 1)')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per window')


def apply_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the package's own visualization hook.

    Raises:
        MMDiscardError: The config has none.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise MMDiscardError('--show and --show-dir need default_hooks.visualization in the config')
    hook.update(show=args.show, wait_time=args.wait_time, interval=args.interval or 1)
    if cfg.default_scope == 'mmpretrain':
        hook.update(enable=True, out_dir=args.show_dir)
        return
    hook.draw = True
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def check_output(cfg: Config, args: argparse.Namespace) -> None:
    """Check that a file ``--out`` has a format that can be written, before it takes a test to tell.

    Raises:
        MMDiscardError: if it has none of them.
    """
    if not args.out or wants_label_maps(cfg, args):
        return
    formats = ('.json', '.yaml', '.yml', '.pkl') if args.out_item == 'metrics' else ('.pkl',)
    if not args.out.endswith(formats):
        raise MMDiscardError(f'--out {args.out} has to end with {" or ".join(formats)}')


def wants_label_maps(cfg: Config, args: argparse.Namespace) -> bool:
    """Whether ``--out`` is a folder for a segmentor's predictions, written by its metric."""
    return bool(args.out) and cfg.default_scope == 'mmseg' and args.out_item != 'metrics'


def write_label_maps(cfg: Config, folder: str) -> None:
    metrics = cfg.test_evaluator
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        metric.update(output_dir=folder, keep_results=True)
    if asks_uncertainty(cfg):
        search_hook_of(cfg).setdefault('uncertainty_dir', folder)


def make_config(args: argparse.Namespace) -> Config:
    """The config to run, all flags applied; every check that needs no model is made here."""
    cfg = load_config(args)
    check_checkpoint_file(args.checkpoint)
    cfg.load_from = args.checkpoint
    check_output(cfg, args)
    check_test_set(cfg)
    apply_search_flags(cfg, args)
    if args.plain:
        make_plain(cfg)
    if args.tta or (cfg.get('always_tta') and not args.plain):
        use_tta(cfg)
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.show or args.show_dir:
        apply_visualization(cfg, args)
    if wants_label_maps(cfg, args):
        write_label_maps(cfg, args.out)
    prepare_launcher(cfg, args)
    return cfg


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = make_config(args)
    runner = build_runner(cfg)
    if args.out and args.out_item != 'metrics' and cfg.default_scope == 'mmpretrain':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out_item == 'metrics' and runner.rank == 0:
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    cli.run(main)
