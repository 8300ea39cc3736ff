"""Calibration of one set of states for all images, on labelled images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather, broadcast_object_list, is_main_process
from torch.utils.data import DataLoader

from ..models import Ensemble
from ..models.views import preprocess
from ..search import STATE_FILE
from ..utils import Progress, as_json, read_json, report, write_json
from .candidates import merged_with_each
from .forward_selection import ForwardSelection, Step
from .labels import LABELS

State = tuple[int, ...]


class StateCalibration:
    """Runs a `ForwardSelection`, with one pass over the images per chosen state.

    Only losses are kept between batches. After every round the steps so far are written to a file
    beside the result, from which a later run with the same settings continues.

    Args:
        ensemble: attached with `ExternalStates` and the aggregator to calibrate for.
        loader: labelled images of this process.
        selection: the selection to run.
        path: the file of states to write.
        notes: what the choice depends on: written to both files, and compared before finished
            rounds are used.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        loader: DataLoader,
        selection: ForwardSelection,
        path: Path,
        notes: Mapping[str, Any],
    ) -> None:
        self.ensemble = ensemble
        self.loader = loader
        self.selection = selection
        self.path = path
        self.notes = dict(notes)
        self.rounds_file = path.with_name(path.name + '.rounds')
        adapter = ensemble.adapter
        self.labels = LABELS[adapter.dense](adapter.model, adapter.independent_classes)

    def run(self) -> list[Step]:
        """Choose states and write the file.

        Returns:
            The chosen states.

        Raises:
            MMDiscardError: if images have no labels, or no loss is finite.
        """
        selection = self.selection
        self._resume()
        while candidates := selection.candidates():
            step = selection.take(self._losses(candidates))
            self._write_rounds()
            report(
                f'state {len(selection.steps)}: {step.state}, loss {step.loss:.4f}, '
                f'cost {step.cost:.2f}'
            )
        best = selection.best()
        self._write(best)
        return best

    def _losses(self, candidates: Sequence[State]) -> list[float]:
        """Mean loss over all images of all processes, for each candidate."""
        model, chosen = self.ensemble.adapter.model, self.selection.states
        device = next(model.parameters()).device  # where processes can exchange tensors
        sums = torch.zeros(len(candidates), 2, dtype=torch.float64)
        what = f'state {len(chosen) + 1}, {len(candidates)} candidates: batch'
        progress = Progress(len(self.loader), what)
        for batch in self.loader:
            for part in self.labels.passes(*preprocess(model, batch)):
                merged = merged_with_each(
                    self.ensemble, part.images, part.context, chosen, candidates
                )
                for position, logits in merged:
                    sums[position] += part.loss(logits).cpu()
            progress.step()
        # All processes add in the same order: rounding must not make their choices differ.
        total = torch.stack(all_gather(sums.to(device))).cpu().sum(0)
        return (total[:, 0] / total[:, 1].clamp(min=1)).tolist()

    def _resume(self) -> None:
        kept = [self._read_rounds() if is_main_process() else None]
        broadcast_object_list(kept)
        self.selection.steps += kept[0]
        if kept[0]:
            report(f'going on after {len(kept[0])} finished rounds of {self.rounds_file}')

    def _read_rounds(self) -> list[Step]:
        try:
            content = read_json(self.rounds_file)
        except (OSError, ValueError):
            return []
        if content.get('run') != self._run():
            report(f'{self.rounds_file} was made with other settings; starting again')
            return []
        return [Step(**step | dict(state=tuple(step['state']))) for step in content['steps']]

    def _write_rounds(self) -> None:
        if is_main_process():
            steps = [asdict(step) for step in self.selection.steps]
            write_json(self.rounds_file, dict(run=self._run(), steps=steps))

    def _write(self, steps: Sequence[Step]) -> None:
        if is_main_process():
            rounds = [dict(loss=step.loss, cost=step.cost) for step in steps]
            states = [step.state for step in steps]
            content = dict(states=states, rounds=rounds, calibrated=self.notes)
            STATE_FILE.write(self.path, self.ensemble.fingerprint, content)
            self.rounds_file.unlink(missing_ok=True)

    def _run(self) -> dict[str, Any]:
        """Everything that a finished round depends on, as read back from JSON."""
        return as_json(dict(fingerprint=self.ensemble.fingerprint.to_dict(), notes=self.notes))
