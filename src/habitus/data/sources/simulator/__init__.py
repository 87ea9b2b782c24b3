"""Worlds with known answers: simulated users whose response to each known event is written down.

world.py   what a world is (a config), and four ready-made worlds
users.py   who lives in it: a pure function of seed and user number
rates.py   how often each of them does what on each day, under any calendar
draw.py    events drawn from these rates, block by block of users
truth.py   what will happen on average, and what each known event changes, in closed form
write.py   a folder of files, of any size, in bounded memory
"""

from habitus.data.sources.simulator.draw import draw_blocks
from habitus.data.sources.simulator.rates import calendar_of
from habitus.data.sources.simulator.truth import changes, effects, expected
from habitus.data.sources.simulator.world import (
    EventType,
    OrderRule,
    Planted,
    UserType,
    World,
    ready_made,
)
from habitus.data.sources.simulator.write import read_world, simulated_log, write

__all__ = [
    "EventType",
    "OrderRule",
    "Planted",
    "UserType",
    "World",
    "calendar_of",
    "changes",
    "draw_blocks",
    "effects",
    "expected",
    "read_world",
    "ready_made",
    "simulated_log",
    "write",
]
