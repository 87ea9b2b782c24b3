"""What if: the same users under two or more calendars, per user, in total and day by day.

question.py     calendars and edits read, named and checked
futures.py      the past encoded once, every calendar decoded
totals.py       sums over users with intervals, by day and by segment
evidence.py     what differs between two calendars, and what kind of evidence stands behind it
placebo.py      changes that should matter little, set beside the answer
importance.py   what each coming event adds, one at a time
words.py        the answer as plain text
answer.py       all of it, in order
"""

from habitus.tasks.whatif.answer import whatif
from habitus.tasks.whatif.words import summary

__all__ = ["summary", "whatif"]
