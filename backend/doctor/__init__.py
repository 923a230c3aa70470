"""The doctor's door: `examine` finds what is wrong and says the mend."""

from backend.doctor.examination import PATIENCE, examine
from backend.doctor.finding import NAMES, Finding, State, worst

__all__ = ["NAMES", "PATIENCE", "Finding", "State", "examine", "worst"]
