"""What `mmdiscard.tune` chooses on the demo's models, compared with the best single procedure.

    python -m benchmarks.demo.tune_choices --seeds 3    # after `make demo`, or it trains the models

Views without states, and states of the image alone, are *single* procedures. Of those that cost
at most as much on validation images, the one with the highest metric on the *test* images is what
the choice is compared with: better than anyone could have known. Writes
`benchmarks/demo/tune_choices.json` and prints the table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.files import read_results
from benchmarks.common.tables import interval, markdown_table
from benchmarks.common.tuned_procedures import (
    choose_for,
    difference,
    is_single,
    measure_on_test,
    procedure_of,
)
from benchmarks.demo.digit_scenes import make_digit_scenes
from benchmarks.demo.job import train
from benchmarks.demo.models import CONFIGS, DEMO_MODELS
from mmdiscard.engine import cli
from mmdiscard.tuning import PLAIN
from mmdiscard.tuning.gains import TOLERANCE
from mmdiscard.utils import write_json

JSON = Path('benchmarks/demo/tune_choices.json')
COST = 2.0
TEST_IMAGES = 1000  # all


def measure(name: str, seeds: int, args: argparse.Namespace) -> dict:
    """Choices of one model and what they gain on the test images.

    Args:
        name: of the demo model.
        seeds: number of trainings.
        args: flags.
    """
    trainings, chosen, best, rows = [], [], [], []
    for seed in range(seeds):
        folder = args.work_dir / name / f'seed{seed}'
        checkpoint, _ = train(name, args.data, folder, seed)
        argv = arguments(name, checkpoint, folder / 'tune', args.data)
        choice = choose_for(argv, COST)
        affordable = [row for row in choice.rows if row['cost'] <= COST * TOLERANCE]
        single = [one for one in map(procedure_of, affordable) if is_single(one)]
        test = measure_on_test(argv, [*single, choice.procedure], TEST_IMAGES)
        trainings.append(test)
        chosen.append(choice.procedure.name)
        best.append(max((one.name for one in single), key=test.metric))
        rows.append(
            dict(
                seed=seed,
                chosen=chosen[-1],
                best=best[-1],
                cost=choice.row['cost'],
                chosen_on=choice.images,
                seconds=choice.seconds,
                gain=difference([test], chosen[-1:], [PLAIN]),
                over_best=difference([test], chosen[-1:], best[-1:]),
            )
        )
    plain = [PLAIN] * seeds
    return dict(
        title=DEMO_MODELS[name].title,
        images=len(trainings[0].statistics),
        gain=difference(trainings, chosen, plain),
        over_best=difference(trainings, chosen, best),
        rows=rows,
    )


def arguments(name: str, checkpoint: Path, work_dir: Path, data: Path) -> list[str]:
    """Arguments of the tool.

    Args:
        name: of the demo model.
        checkpoint: its weights.
        work_dir: of the tool.
        data: folder of the digit scenes.
    """
    root = data / DEMO_MODELS[name].kind
    argv = [str(CONFIGS / f'{name}.py'), str(checkpoint), '--work-dir', str(work_dir)]
    argv += ['--no-flip', '--no-pin-memory', '--cfg-options']  # a mirrored digit is another sign
    argv += [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')]
    return argv + [f'{split}_dataloader.num_workers=0' for split in ('val', 'test')]


def table(results: Sequence[dict]) -> list[str]:
    """Markdown: one row per training, and their mean."""
    header = ['model', 'seed', 'choice', 'best single procedure', 'cost', 'tune, CPU s']
    header += ['gain of the choice', 'over the best single procedure']
    body = []
    for one in results:
        body += [
            [
                one['title'],
                str(row['seed']),
                row['chosen'],
                row['best'],
                f'{row["cost"]:.2f}',
                f'{row["seconds"]:.0f}',
                interval(row['gain']),
                interval(row['over_best']),
            ]
            for row in one['rows']
        ]
        mean = [interval(one['gain']), interval(one['over_best'])]
        body.append([one['title'], 'mean', '', '', '', '', *mean])
    return markdown_table(header, body, text_columns=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, default=3, help='trainings per model (default: 3)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--data', type=Path, default=Path('data/digit_scenes'))
    args = parser.parse_args()
    make_digit_scenes(args.data)
    results = read_results(JSON)
    for name in DEMO_MODELS:
        if len(results.get(name, {}).get('rows', ())) != args.seeds:
            results[name] = measure(name, args.seeds, args)
            write_json(JSON, results)
    print('\n'.join(table([results[name] for name in DEMO_MODELS])))


if __name__ == '__main__':
    sys.exit(cli.run(main))
