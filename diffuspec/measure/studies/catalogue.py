"""Every study by name."""

from __future__ import annotations

from diffuspec.measure.studies.ablation import ABLATION
from diffuspec.measure.studies.costs import COSTS
from diffuspec.measure.studies.fixed_k import DRAFT_LENGTH
from diffuspec.measure.studies.lengths import LENGTHS
from diffuspec.measure.studies.memory import memory
from diffuspec.measure.studies.methods import comparison
from diffuspec.measure.studies.positions import POSITIONS
from diffuspec.measure.studies.sweep import SWEEP, sweep
from diffuspec.measure.studies.time_split import TIME_SPLIT

STUDIES = {
    study.name: study
    for study in (
        comparison(("ar", "ar-again", "prompt-lookup", "ar-drafter", "plain", "diffuspec", "tree+copy", "throughput")),
        ABLATION,
        DRAFT_LENGTH,
        LENGTHS,
        TIME_SPLIT,
        sweep(SWEEP),
        POSITIONS,
        COSTS,
        memory(),
    )
}
