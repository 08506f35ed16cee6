"""Puts the clock of a Python process off by SKEW_SECONDS: Python imports this at its start from PYTHONPATH."""

import os
import time

import time_machine

time_machine.travel(time.time() + float(os.environ["SKEW_SECONDS"]), tick=True).start()
