"""Tables of second looks in unsure windows, from the statistics of `benchmarks.real.windows`.

    python -m benchmarks.real.windows_report

Writes `benchmarks/real/windows.json`. Gains on whole images are those of `segmentors.json`.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.figures import pyplot, save_figure
from benchmarks.common.files import read_results
from benchmarks.common.statistics import image_draws
from benchmarks.common.tables import markdown_table
from mmdiscard.utils import write_json

from . import segmentor_report
from .segmentor_report import DRAWS, miou, miou_gain, trainings_by_model
from .segmentor_report import interval as interval_text
from .windows import FRAME, LOOKS, OUT, SIZE

JSON = Path('benchmarks/real/windows.json')
AREA = SIZE[0] * SIZE[1] / (FRAME[0] * FRAME[1])
WHOLE = ('2 states', 'flip', 'flip, 2 states each')
REFERENCE = WHOLE[-1]
DRAWN = {
    'state': 'windows, 2 states',
    'flip': 'windows, flip',
    'flipped state': 'windows, 2 states, the second of the mirror image',
}


def price(look: str, pair: float) -> float:
    """Cost of a look at the whole image, in plain forwards.

    Args:
        look: one of `LOOKS`.
        pair: cost of the default and the farthest state.
    """
    names = LOOKS[look]
    pairs = {'crop', 'state'} <= set(names), {'flip', 'flipped state'} <= set(names)
    return len(names) - sum(pairs) * (2 - pair)


def rows(tests: Sequence[Mapping], vals: Sequence[Mapping]) -> Iterator[dict]:
    """A row per look and number of windows, the mean over trainings.

    Args:
        tests: statistics of test images, of each training.
        vals: of validation images, likewise.
    """
    pairs = [json.loads(str(one['about']))['pair'] for one in tests]
    plain = np.stack([one['plain'] for one in tests])
    weights = image_draws(plain.shape[1], DRAWS)
    counts = [
        (test['entropy'] >= threshold(val['entropy'])).sum(1)
        for test, val in zip(tests, vals, strict=True)
    ]
    for place, look in enumerate(LOOKS):
        found = [one['windows'][:, place] for one in tests]
        area = AREA * price(look, float(np.mean(pairs)))
        for count in range(1, found[0].shape[1] + 1):
            on_val = [
                miou(one['windows'][:, place, count - 1].sum(0)) - miou(one['plain'].sum(0))
                for one in vals
            ]
            yield dict(
                look=look,
                windows=count,
                cost=1 + count * area,
                gain=miou_gain(np.stack([one[:, count - 1] for one in found]), plain, weights),
                gain_val=float(np.mean(on_val)),
            )
        after = np.stack([with_windows(*one) for one in zip(found, plain, counts, strict=True)])
        yield dict(
            look=look,
            windows='by threshold',
            cost=1 + float(np.mean(counts)) * area,
            gain=miou_gain(after, plain, weights),
            gain_val=None,
        )


def threshold(entropy: np.ndarray, average: int = 3) -> float:
    """Sum of entropy above which windows are looked at, so that images get so many on average.

    Args:
        entropy: ``(images, windows)``, that windows have in pixels that none before them has.
        average: number of windows.
    """
    return float(np.sort(entropy.ravel())[::-1][average * len(entropy) - 1])


def with_windows(found: np.ndarray, plain: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Confusions ``(images, K, K)`` of so many windows in each image.

    Args:
        found: ``(images, windows, K, K)`` by number of windows, from 1 on.
        plain: ``(images, K, K)``.
        counts: ``(images,)``.
    """
    by_count = np.concatenate([plain[:, None], found], axis=1)
    return by_count[np.arange(len(counts)), counts]


def table(one: Mapping) -> list[str]:
    """Markdown of one model: a row per look, with intervals at three windows."""
    whole = one['whole'][REFERENCE]
    body = []
    for look in LOOKS:
        *counted, limit = (row for row in one['rows'] if row['look'] == look)
        three = counted[2]
        body.append(
            [
                look,
                f'{three["cost"]:.2f}',
                interval_text(three['gain']),
                f'{100 * three["gain"][0] / whole:.0f} %',
                f'{three["gain_val"]:+.2f}',
                *(f'{row["gain"][0]:+.2f} ({row["cost"]:.2f})' for row in counted if row != three),
                f'{limit["gain"][0]:+.2f} ({limit["cost"]:.2f})',
            ]
        )
    header = ['look', 'cost', 'gain, 3 windows', 'kept', 'validation', '1', '2', '4']
    return markdown_table([*header, 'by threshold'], body)


def draw(results: Sequence[Mapping], path: Path) -> None:
    """Gain against cost of windows, and of the whole image, a panel per model.

    Args:
        results: as `main` writes them.
        path: picture file.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, len(results), figsize=(5 * len(results), 3.6), squeeze=False)
    for axis, one in zip(axes[0], results, strict=True):
        for look, label in DRAWN.items():
            counted = [row for row in one['rows'] if row['look'] == look]
            points = [(1.0, 0.0), *((row['cost'], row['gain'][0]) for row in counted[:-1])]
            axis.plot(*zip(*points, strict=True), marker='o', markersize=4, label=label)
        whole = [(one['whole_costs'][name], one['whole'][name]) for name in WHOLE]
        axis.plot(*zip(*whole, strict=True), 'k^', linestyle='none', label='whole image')
        for name, point in zip(WHOLE, whole, strict=True):
            axis.annotate(name, point, (-4, 5), textcoords='offset points', ha='right', size=7)
        axis.axhline(0, color='grey', linewidth=0.8)
        axis.set_title(one['model'].split('_1xb8')[0])
        axis.set_xlabel('cost (plain forwards)')
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel('gain in mIoU (points)')
    axes[0][-1].legend(fontsize=7, loc='lower right')
    save_figure(figure, path)


def sections(results: Sequence[Mapping]) -> list[str]:
    """The lines of RESULTS.md."""
    lines = [
        '## Second looks in unsure windows',
        '',
        f'Windows of {SIZE[0]} x {SIZE[1]} pixels; logits of the looks are averaged with the plain',
        'ones. *Crop* is the default state of the window, *state* the farthest one, *flip* its',
        'mirror image. *Kept* is the share of the gain of *flip, 2 states each* on the whole',
        'image; *validation* the gain on validation images. Further columns have the gain with',
        'other numbers of windows, and its cost; *by threshold* looks at windows with at least so',
        'much entropy as the validation images have in three windows on average.',
    ]
    for one in results:
        whole = ', '.join(f'{name} {value:+.2f}' for name, value in one['whole'].items())
        about = f'{one["seeds"]} training(s), {one["images"]} test images'
        lines += ['', f'### {one["model"]}: {about}', '']
        lines += [f'On the whole image: {whole}; {one["chosen_on"]} validation images.', '']
        lines += table(one)
    return lines


def main() -> int:
    """Print the tables and write them as JSON; returns the exit status."""
    recorded = read_results(segmentor_report.JSON)
    results = []
    for model, paths in trainings_by_model(OUT, 'test').items():
        same = recorded[model]
        tests = [dict(np.load(path)) for path in paths[: same['seeds']]]
        vals = [
            dict(np.load(path.with_name(path.name.replace('_test', '_val'))))
            for path in paths[: same['seeds']]
        ]
        plain = float(np.mean([miou(one['plain'].sum(0)) for one in tests]))
        whole = {row['procedure']: row for row in same['rows']}
        assert np.isclose(plain, whole['plain']['miou']), 'whole images of another draw'
        results.append(
            dict(
                model=model,
                seeds=len(tests),
                images=len(tests[0]['plain']),
                chosen_on=len(vals[0]['plain']),
                plain=plain,
                whole={name: whole[name]['gain'][0] for name in WHOLE},
                whole_costs={name: whole[name]['cost'] for name in WHOLE},
                rows=list(rows(tests, vals)),
            )
        )
    print('\n'.join(sections(results)))
    write_json(JSON, results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
