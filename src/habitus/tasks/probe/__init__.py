"""Probes: light heads on frozen vectors, beside what hand-made numbers say.

features.py     blocks of numbers, made ready from the training rows alone
logistic.py     logistic regression, dense or sparse, C by inner folds
heads.py        logistic, one hidden layer, boosted trees
table.py        outer folds, seeds, intervals over users, paired differences
comparators.py  what vectors are held against
words.py        the verdict and the lines a person reads
answer.py       the verb
"""

from habitus.tasks.probe.answer import probe
from habitus.tasks.probe.features import Block
from habitus.tasks.probe.table import ProbeConfig, ProbeTable, probe_features
from habitus.tasks.probe.words import as_frame, as_text, verdict

__all__ = ["Block", "ProbeConfig", "ProbeTable", "as_frame", "as_text", "probe", "probe_features", "verdict"]
