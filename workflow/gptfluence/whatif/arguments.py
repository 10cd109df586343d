"""Arguments and help of the shell's questions. Nothing heavy is imported: every command of the shell reads this."""

from __future__ import annotations

import argparse

_SIMULATOR = """\
SIMULATOR is a file of results/simulators, which stands alone, or in a project's folder its name
without the digest: fine_tuning-nano-0.2m-rte.loss.gradient_response.

CURRICULUM is a file (.jsonl, .csv, .parquet; - reads JSON Lines from a pipe) whose rows have step, and task and
example or id, and run_id where there are several; in a project's folder the id of a run of the plan;
or random:SEED, a random one of the fitting runs' form.

Examples are named task:number, such as rte:17; tests also by task (rte) or range (rte:0-9).
"""

_EXAMPLES = {
    "simulate": """\
examples:
  gptfluence simulate SIM random:1                           every test's last value, with its interval
  gptfluence simulate SIM random:1 --without rte:3 rte:9     the same without two examples
  gptfluence simulate SIM plan.csv --rates 0.5 -o out.csv    half the learning rate; every step into a file (the curve
                                                             that runs share moves in simulators ..._schedules alone)
  gptfluence simulate SIM plan.jsonl --tests rte:0-3 --json | jq .value
""",
    "compare": """\
examples:
  gptfluence compare SIM a.csv b.csv                         what b makes of each test more than a
  gptfluence compare SIM random:1 --move rte:3@1             what it does to train on rte:3 in step 1 and no other
  gptfluence compare SIM random:1 --replace rte:3=rte:8 --json
""",
    "influence": """\
examples:
  gptfluence influence SIM random:1 --tests rte:5            which examples helped rte:5, and which harmed it
  gptfluence influence SIM random:1 -o influence.parquet     of every pair
  gptfluence influence SIM random:1 --curve --tests rte:5 -o curve.csv
  gptfluence influence SIM random:1 --pairs rte:1 rte:2 rte:7     what pairs do beyond what each does
""",
    "select": """\
examples:
  gptfluence select SIM --budget 16 --tests rte:0-9 -o chosen.csv
  gptfluence select SIM --budget 16 -o - | gptfluence simulate SIM -
  gptfluence select SIM --examples rte:1 rte:2 ... --budget 32   as many as the budget: the order alone
""",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give one of the four commands, known by its name, its arguments and its help."""
    name = command.prog.split()[-1]
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = f"{_SIMULATOR}\n{_EXAMPLES[name]}"
    command.add_argument("simulator", metavar="SIMULATOR")
    if name == "simulate":
        command.add_argument("curricula", metavar="CURRICULUM", nargs="+")
    elif name == "compare":
        command.add_argument("first", metavar="CURRICULUM")
        command.add_argument("second", metavar="OTHER", nargs="?", help="default: the first, with the changes")
    elif name == "influence":
        command.add_argument("curriculum", metavar="CURRICULUM")
    if name != "select":
        edits = command.add_argument_group(
            "changes (of OTHER; without one, of the first)" if name == "compare" else "changes"
        )
        edits.add_argument("--without", metavar="ID", nargs="+", default=[], help="leave examples out")
        edits.add_argument("--replace", metavar="ID=ID", nargs="+", default=[], help="put others in their places")
        edits.add_argument("--swap", metavar="ID=ID", nargs="+", default=[], help="let two change places")
        edits.add_argument(
            "--repeat", metavar="ID@STEP", nargs="+", default=[], help="also train on them in steps (from 1)"
        )
        edits.add_argument("--move", metavar="ID@STEP", nargs="+", default=[], help="train on them in that step alone")
        edits.add_argument(
            "--rates", metavar="F", help="factor of the learning rates, or a file with one number a line"
        )
        edits.add_argument("--text", metavar="FILE", help="JSON Lines of new examples (id, prompt, target), to be "
                           "named in curricula and changes; for simulators that read texts")  # fmt: skip
    command.add_argument("--tests", metavar="TEST", nargs="+", help="which test examples; default: all")
    if name == "influence":
        command.add_argument("--examples", metavar="ID", nargs="+", help="of which training examples; default: all")
        command.add_argument("--curve", action="store_true", help="on every step, not on the last value alone")
        command.add_argument("--pairs", metavar="ID", nargs="+", help="interactions of these training examples")
    if name == "select":
        command.add_argument("--budget", type=int, required=True, help="how many different examples")
        command.add_argument(
            "--examples", metavar="ID", nargs="+", help="to choose from; default: all that were trained on"
        )
        command.add_argument("--seed", type=int, default=0, help="of the search (default: 0)")
    command.add_argument("--top", type=int, default=10, metavar="N", help="show N rows (default: 10)")
    command.add_argument(
        "-o", "--output", metavar="FILE", help="write all rows: .jsonl, .csv or .parquet; - is JSON Lines"
    )
    command.add_argument("--json", action="store_true", help="print JSON Lines, all rows")
