"""Threshold of a gate for an average cost, from one search without the gate."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process
from torch import nn
from torch.utils.data import DataLoader

from ..errors import MMDiscardError
from ..models import attach
from ..registry import GATES, SEARCHES, build, lookup
from ..search import GATE_FILE
from ..subsampling import Fingerprint
from ..utils import Progress
from .gate_traces import GateTraces, RecordedSearch


class GateCalibration:
    """Searches images without a gate, and finds thresholds of the gate for average costs.

    Args:
        model: with its weights, in evaluation mode.
        settings: arguments of `mmdiscard.attach`; a gate in the search is ignored.
        gate: name of the gate's class.
        loader: images of this process; labels are not needed.

    Raises:
        MMDiscardError: if the search has a budget of one state.
    """

    def __init__(
        self, model: nn.Module, settings: Mapping[str, Any], gate: str, loader: DataLoader
    ) -> None:
        self.gate = lookup(GATES, gate)
        self.traces, self.fingerprint = self._record(model, dict(settings), loader)

    def write(self, path: Path, cost: float, notes: Mapping[str, Any]) -> dict[str, Any]:
        """Write the file of a gate with which images cost ``cost`` plain forwards on average.

        Args:
            path: JSON file.
            cost: at least 1.
            notes: for readers of the file: what the threshold depends on.

        Returns:
            The content of the file.

        Raises:
            MMDiscardError: if no threshold gives that cost.
        """
        limit = self.traces.limit_for(cost)
        states = self.traces.states(limit).astype(int).tolist()
        content = dict(
            gate=self.gate.__name__,
            threshold=self.gate.threshold_at(limit),
            expected=dict(
                cost=round(self.traces.cost(limit), 4),
                cost_without_gate=round(self.traces.cost(-float('inf')), 4),
                images_by_states={str(n): count for n, count in sorted(Counter(states).items())},
            ),
            calibrated=dict(notes),
        )
        if is_main_process():
            GATE_FILE.write(path, self.fingerprint, content)
        return content

    @torch.no_grad()
    def _record(
        self, model: nn.Module, settings: dict[str, Any], loader: DataLoader
    ) -> tuple[GateTraces, Fingerprint]:
        search = dict(settings.pop('search', None) or dict(type='GreedySearch', budget=10))
        search.pop('gate', None)
        recorded = RecordedSearch(build(SEARCHES, search), self.gate(threshold=0.5))
        with attach(model, search=recorded, **settings) as ensemble:
            if ensemble.budget == 1:
                raise MMDiscardError('a gate needs a search with a budget of more than one state')
            progress = Progress(len(loader), 'batch')
            for batch in loader:
                ensemble.adapter.model.test_step(batch)
                progress.step()
            fingerprint = ensemble.fingerprint
        traces = [trace for part in all_gather_object(recorded.traces) for trace in part]
        if not traces:
            raise MMDiscardError('there are no images to calibrate on')
        return GateTraces(traces), fingerprint
