"""Every study by name."""

from __future__ import annotations

from diffuspec.studies.ablation import ABLATION
from diffuspec.studies.costs import COSTS
from diffuspec.studies.draft_length import DRAFT_LENGTH
from diffuspec.studies.lengths import LENGTHS
from diffuspec.studies.memory import memory
from diffuspec.studies.positions import POSITIONS
from diffuspec.studies.side_by_side import comparison
from diffuspec.studies.sweep import SWEEP, sweep
from diffuspec.studies.time_split import TIME_SPLIT

STUDIES = {
    study.name: study
    for study in (
        comparison(("ar", "prompt-lookup", "ar-drafter", "plain", "diffuspec", "tree+copy", "throughput")),
        ABLATION, DRAFT_LENGTH, LENGTHS, TIME_SPLIT, sweep(SWEEP), POSITIONS, COSTS, memory(),
    )
}  # fmt: skip
