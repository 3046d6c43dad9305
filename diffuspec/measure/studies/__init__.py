"""The paper's tables and figures on this machine and this pair, the paper's values beside ours.

A study is a comparison of variants over a set of questions, or a probe that needs none; one file
each. All run through `stream_study`, which yields after every answer and can be left and taken up
again. Nothing here waits for torch until a study is run.
"""

from diffuspec.measure.studies.catalogue import STUDIES
from diffuspec.measure.studies.result import StudyResult
from diffuspec.measure.studies.run import run_study, stream_study
from diffuspec.measure.studies.study import Column, Study

__all__ = ["STUDIES", "Column", "Study", "StudyResult", "run_study", "stream_study"]
