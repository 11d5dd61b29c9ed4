"""The tabs beside Run, one a file: a class that places its parts and connects its events. A new one is named
here."""

from ui.tabs.base import Tab
from ui.tabs.compare import Compare
from ui.tabs.learn import Learn
from ui.tabs.paint import Paint
from ui.tabs.robustness import Robustness
from ui.tabs.sweep import Sweep

TABS: tuple[type[Tab], ...] = (Compare, Sweep, Paint, Robustness, Learn)
