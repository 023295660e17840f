"""What benches share: reports, questions, models, stock tools."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vendor"))  # for buildlib
