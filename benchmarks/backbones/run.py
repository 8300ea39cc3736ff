"""Which backbones can be searched: all of MMPretrain and MMSegmentation, and families of timm.

Builds the smallest variant of each with random weights, finds its subsampling groups, asks the
translation oracle of each group, and searches four states. Writes docs/backbones.md, in about five
minutes on two cores; with --check it writes nothing and fails if one that passed no longer does.
With --only it renews the rows of some; the others stay.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from benchmarks.backbones import page as table
from benchmarks.backbones.audit import audit, registered
from benchmarks.backbones.audited import MMPRETRAIN, MMSEG, NO_BACKBONES, TIMM, entry
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError

HANGS = 20  # so many times the limit, by the clock, is no longer working but waiting
PAGE = Path(__file__).parents[2] / 'docs' / 'backbones.md'
INTRODUCTION = """# Backbones

Made by `python -m benchmarks.backbones.run`, which builds the smallest variant of every backbone
with random weights, finds the groups, checks each with the [translation oracle](method.md), and
searches four states through `mmdiscard.attach`. `--only NAME...` renews the rows of some; `--check`
writes nothing and fails if a backbone that passed here no longer does.

A group reads stride·factor (error/effect): its input stride in image pixels, how much it
subsamples, and how far it is from translating the image, 0 being exact and 1 not at all; below 0.5
passes. What remains comes from borders, windows and position embeddings. "four states" is their
cost in units of one plain forward, the first and last group left out where there are more than two.

Weights are random and prepared so that they translate as trained ones do: kernels are damped off
their centre and batch statistics are uneven; a group that fails is tried with the class's own
initialisation too, and the better result counts. Windows as large as the map (Swin V2, MixMIM) and
feature-map outputs of plain transformers are chosen in `benchmarks/backbones/audited.py`. With
other windows or stock weights more groups fail, so check your own model with
`mmdiscard.translation_oracle`. Models of timm are audited whole, through `TimmClassifier`.

What a remark means: *not on the trunk* is a side branch, such as spatial-reduction attention, or
one of several branches that meet before the deepest output. *Joins ... with maps that come past it*
are the skips of an encoder-decoder and the fusions of branches, where maps of two resolutions meet.
A late group moves the coarse ones only, so no translation brings the joined level back, and the
group is left out rather than searched wrongly. *Reached inside a forward*: something subsamples by
a function or by slicing and is no module by itself; the groups around it are searched.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', nargs='+', metavar='NAME', help='audit these alone')
    parser.add_argument('--check', action='store_true', help='compare to docs/backbones.md')
    parser.add_argument('--jobs', type=int, default=2, help='side by side (default: 2)')
    parser.add_argument(
        '--limit', type=int, default=600, help='seconds of processor time for each (default: 600)'
    )
    return parser.parse_args()


def entries(only: list[str] | None) -> list[tuple[str, str, dict]]:
    """(package, name, entry) of all that are to be audited."""
    listed = []
    for package, known in (('mmpretrain', MMPRETRAIN), ('mmseg', MMSEG)):
        for name in sorted(dict.fromkeys([*registered(package), *known]), key=str.lower):
            listed.append((package, name, known.get(name, entry())))
    listed += [('timm', name, known) for name, known in TIMM.items()]
    if only:
        strangers = set(only) - {name for _, name, _ in listed}
        if strangers:
            raise MMDiscardError(f'there is no backbone {sorted(strangers)[0]!r} to audit')
        listed = [one for one in listed if one[1] in only]
    return listed


def in_own_process(package: str, name: str, known: dict, limit: int) -> table.BackboneRecord:
    """Audit one backbone; one that crashes or hangs costs its own row alone."""
    context = multiprocessing.get_context('fork')  # what was imported is shared
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, package, name, known, limit))
    process.start()
    sender.close()
    try:
        if receiver.poll(HANGS * limit):
            return receiver.recv()
        reason = f'took longer than {limit} s'
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        reason = f'took longer than {limit} s' if late else 'the process died'
    finally:
        process.kill()
        process.join()
        receiver.close()
    return table.BackboneRecord(package, name, table.ABSENT, remark=reason)


def work(sender, package: str, name: str, known: dict, limit: int) -> None:
    # Processor time: a machine that is busy with other things makes no backbone fail.
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    if why := NO_BACKBONES.get(package, {}).get(name):
        sender.send(table.BackboneRecord(package, name, table.ABSENT, remark=why))
        return
    registered_as = 'TimmClassifier' if package == 'timm' else name.partition(' (')[0]
    backbone = dict(known['args'], type=registered_as)
    with open(os.devnull, 'w') as nowhere:
        sys.stdout = sys.stderr = nowhere
        sender.send(audit(package, name, backbone, known['size'], known['deploy']))


def audit_all(listed: list, jobs: int, limit: int) -> list[table.BackboneRecord]:
    """Records in the order of ``listed``, with a line of progress for each."""
    start, records = time.perf_counter(), {}
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(in_own_process, *one, limit): i for i, one in enumerate(listed)}
        for done, future in enumerate(as_completed(running), 1):
            record = records[running[future]] = future.result()
            left = (time.perf_counter() - start) / done * (len(listed) - done)
            print(f'[{done}/{len(listed)}, {left:.0f} s left] {record.row()}', flush=True)
    return [records[i] for i in range(len(listed))]


def whole_page(records: list[table.BackboneRecord]) -> list:
    """All rows in order: the new ones, and of the others those that the page has."""
    rows = table.read_rows(PAGE.read_text()) if PAGE.exists() else {}
    rows |= {(record.package, record.name): record for record in records}
    listed = [(package, name) for package, name, _ in entries(None)]
    return [rows[key] for key in listed if key in rows]


def main() -> None:
    args = parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    records = audit_all(entries(args.only), args.jobs, args.limit)
    print('\n' + table.summary(records))
    if args.check:
        worse = table.regressions(table.read_results(PAGE.read_text()), records)
        if worse:
            names = ', '.join(f'{record.package} {record.name}' for record in worse)
            sys.exit(f'these backbones passed in {PAGE.name} and no longer do: {names}')
    else:
        PAGE.write_text(table.page(whole_page(records), INTRODUCTION))


if __name__ == '__main__':
    cli.run(main)
