"""Which backbones can be searched: all of MMPretrain and MMSegmentation, and families of timm.

    python -m benchmarks.backbones.run                  # audit everything, record the results
    python -m benchmarks.backbones.run --only ResNet    # renew the records of some
    python -m benchmarks.backbones.run --check          # compare with the recorded results

Builds the smallest variant of each with random weights, finds its subsampling groups, asks the
translation oracle of each group, and searches four states. Results go to results.json, from which
docs/backbones.md is made; everything takes about five minutes on two cores. With --check nothing
is written, and a backbone that passed and no longer does is an error.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from benchmarks.backbones.audit import audit, registered
from benchmarks.backbones.audited import MMPRETRAIN, MMSEG, NO_BACKBONES, SAMPLE, TIMM, entry
from benchmarks.backbones.page import page, row, summary
from benchmarks.backbones.results import (
    ABSENT,
    AuditResults,
    BackboneRecord,
    input_hashes,
    read_results,
    regressions,
    write_results,
)
from mmdiscard.engine import cli
from mmdiscard.errors import MMDiscardError
from mmdiscard.utils import Progress, report
from mmdiscard.utils.io import write_atomically

WAIT_FACTOR = 20  # a process that needs so many times its limit by the clock hangs
RESULTS = Path(__file__).with_name('results.json')
PAGE = Path(__file__).parents[2] / 'docs' / 'backbones.md'

Entry = tuple[str, str, dict]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', nargs='+', metavar='NAME', help='audit these alone')
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail if one that passed fails'
    )
    parser.add_argument(
        '--sample-if-unchanged',
        action='store_true',
        help='with --check: audit a fixed sample if neither the code of mmdiscard/subsampling, nor '
        'the audited list, nor the pinned packages changed since everything was recorded',
    )
    parser.add_argument('--jobs', type=int, default=2, help='side by side (default: 2)')
    parser.add_argument(
        '--limit', type=int, default=600, help='seconds of processor time for each (default: 600)'
    )
    args = parser.parse_args(argv)
    if args.sample_if_unchanged and not args.check:
        parser.error('--sample-if-unchanged goes with --check')
    return args


def entries(only: list[str] | None = None) -> list[Entry]:
    """Package, name and `entry` of all backbones, or of those with a name in ``only``.

    Raises:
        MMDiscardError: if there is no backbone of such a name.
    """
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


def to_check(results: AuditResults) -> list[Entry]:
    """Everything if an input of the audit changed since it was recorded, else `SAMPLE`."""
    changed = results.changed_inputs()
    if changed:
        report(f'audit of all backbones: {", ".join(changed)} changed since it was recorded')
        return entries()
    report(f'audit of {len(SAMPLE)} backbones: nothing changed since all were recorded')
    return [one for one in entries() if one[:2] in SAMPLE]


def in_own_process(package: str, name: str, known: dict, limit: int) -> BackboneRecord:
    """Audit one backbone in a process of its own, so that a crash is the result of it alone.

    Args:
        package: see `audit`.
        name: of the backbone, see `audit`.
        known: its `entry`.
        limit: seconds of processor time.
    """
    context = multiprocessing.get_context('fork')  # what was imported is shared
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, package, name, known, limit))
    process.start()
    sender.close()
    try:
        if receiver.poll(WAIT_FACTOR * limit + 10):
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
    return BackboneRecord(package, name, ABSENT, remark=reason)


def work(sender, package: str, name: str, known: dict, limit: int) -> None:
    """Audit one backbone and send its record: what the process of `in_own_process` does.

    Args:
        sender: end of a pipe that gets the record.
        package: see `audit`.
        name: see `audit`.
        known: its `entry`.
        limit: seconds of processor time.
    """
    # Processor time: a machine that is busy with other things makes no backbone fail.
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if why := NO_BACKBONES.get(package, {}).get(name):
        sender.send(BackboneRecord(package, name, ABSENT, remark=why))
        return
    registered_as = 'TimmClassifier' if package == 'timm' else name.partition(' (')[0]
    backbone = dict(known['args'], type=registered_as)
    with open(os.devnull, 'w') as nowhere:
        sys.stdout = sys.stderr = nowhere
        sender.send(audit(package, name, backbone, known['size'], known['deploy']))


def audit_all(listed: list[Entry], jobs: int, limit: int) -> list[BackboneRecord]:
    """Records in the order of ``listed``.

    Args:
        listed: what to audit.
        jobs: processes side by side.
        limit: seconds of processor time for each.
    """
    records, progress = {}, Progress(len(listed), 'backbones')
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(in_own_process, *one, limit): i for i, one in enumerate(listed)}
        for future in as_completed(running):
            record = records[running[future]] = future.result()
            progress.step(f'{record.package} {record.name}: {record.result}')
    return [records[i] for i in range(len(listed))]


def check(before: AuditResults, records: list[BackboneRecord]) -> None:
    """End with an error if a backbone that passed no longer does."""
    worse = regressions(before.records, records)
    if worse:
        names = ', '.join(f'{record.package} {record.name}' for record in worse)
        print('\n'.join(map(row, worse)))
        sys.exit(f'these backbones passed in {RESULTS.name} and no longer do: {names}')


def record(before: AuditResults, records: list[BackboneRecord], complete: bool) -> None:
    """Write results and page.

    Args:
        before: what is there; other records of it are kept.
        records: new ones.
        complete: all backbones were audited, with the files that are there now.
    """
    known = {one.key: one for one in (*before.records, *records)}
    kept = [known[key] for package, name, _ in entries() if (key := (package, name)) in known]
    write_results(RESULTS, AuditResults(kept, input_hashes() if complete else before.inputs))
    text = page(read_results(RESULTS).records)  # of the rounded figures that were recorded
    write_atomically(PAGE, lambda path: path.write_text(text, encoding='utf-8'))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    before = read_results(RESULTS)
    listed = to_check(before) if args.sample_if_unchanged else entries(args.only)
    records = audit_all(listed, args.jobs, args.limit)
    print('\n' + summary(records))
    if args.check:
        check(before, records)
    else:
        record(before, records, complete=not args.only)


if __name__ == '__main__':
    cli.run(main)
