"""Write a model with a fixed set of states as one graph.

    python -m mmdiscard.export CONFIG CHECKPOINT --format onnx
    python -m mmdiscard.export CONFIG CHECKPOINT --format torch-export --size 512 1024 --labels

Groups, states and aggregator are those of the config's SubsamplingSearchHook; the states have to be
the same for every image, as those of SpreadStates and FixedStates are. The graph takes float images
(N, C, H, W) as the model's data preprocessor gives them, any number at once, and gives merged
logits. It is compared with the model on noise before the file appears under its name.
"""

import argparse
from pathlib import Path

from .engine import cli
from .graphs import ExportRequest, GraphFigures, export
from .graphs.graph_formats import FORMATS

SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='(default: onnx)')
    parser.add_argument(
        '--out', type=Path, help='file to write (default: WORK_DIR/model.onnx or model.pt2)'
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help="of the images (default: the `input_size` of the config's hook, else 224 224)",
    )
    parser.add_argument(
        '--dynamic-size',
        action='store_true',
        help='images may have any size that the largest stride divides, where the model allows it',
    )
    parser.add_argument(
        '--normalise',
        action='store_true',
        help='let the graph reverse channels and normalise: it takes float images in 0..255, with '
        "channels in the order of the data preprocessor's input",
    )
    parser.add_argument('--labels', action='store_true', help='give labels instead of logits')
    cli.add_run_arguments(parser)
    args = parser.parse_args(argv)
    if args.size and min(args.size) < 1:
        parser.error('--size is a height and a width in pixels')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = cli.prepared_config(args)
    request = ExportRequest(
        checkpoint=args.checkpoint,
        out=args.out or Path(cfg.work_dir, 'model' + SUFFIXES[args.format]),
        format=args.format,
        size=tuple(args.size) if args.size else None,
        dynamic_size=args.dynamic_size,
        normalise=args.normalise,
        labels=args.labels,
    )
    print(summary(export(cfg, request)))
    print(f'written: {request.out}')


def summary(figures: dict[str, GraphFigures]) -> str:
    """A table with a line for each graph."""
    lines = ['graph    states   nodes  file (MB)  graph (ms)  model (ms)  difference']
    for name, row in figures.items():
        lines.append(
            f'{name:8} {row.states:6} {row.nodes:7} {row.megabytes:10.1f} {row.graph_ms:11.1f} '
            f'{row.model_ms:11.1f} {row.difference:11.1e}'
        )
    lines.append('Time of one image; largest difference from the model over its largest logit.')
    return '\n'.join(lines)


if __name__ == '__main__':
    cli.run(main)
