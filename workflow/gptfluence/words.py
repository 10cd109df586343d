"""Words in the columns of simulations and scores that several modules look for."""

from __future__ import annotations

AVERAGE = "average"
"""Name, in the column of tasks, of the unweighted mean over tasks."""

MEASURED = "measured"
"""What the truth is called in the column of methods."""

LEVELS = (0.5, 0.8, 0.95)
"""How often a measured value is to lie in each interval around a simulated one."""

HALF_WIDTHS = tuple(f"half_width_{round(100 * level)}" for level in LEVELS)
"""Columns of half the widths of these intervals, in the metric's unit; null for methods without."""

COVERAGES = tuple(f"coverage_{round(100 * level)}" for level in LEVELS)
"""Measures of how often measured values do lie in them."""

WHOLE = "whole"
"""Of scores of simulators: a method with its own settings."""

RANDOM, CHOSEN = "random", "chosen"
"""Of choices of training data: at random, in what examples are chosen or in their order; and by a simulator."""

RUNS, CHOSEN_RUNS, TESTS, INTERVAL = VARIED = "runs", "chosen_runs", "tests", "interval"
"""What learning curves vary: fitting runs at random and as a method chooses them, tests, steps between measurements."""

PREDICTED_CURVE = "predicted_curve"
"""Method that stands for the mean curve where tests are unseen."""

TIME_CURVE = "time_curve"
"""Method: the mean curve in optimiser time, of the fitting runs of all schedules."""

POOLED = "_schedules"
"""Ends the name of a method where its fit is one on the runs of all schedules."""

OWN = "own"
"""Of schedules: the scenario's own settings."""

SCHEDULE_SEEN, SCHEDULE_UNSEEN = "schedule_seen", "schedule_unseen"
"""Settings: pooled fits on all schedules, and on all but that of the judged runs."""
