"""False verdicts and power of a study of five training seeds, by simulation: `python benchmarks/study_power.py`."""

import argparse

import numpy as np
from result import save

from iot_pipeline.evaluation.study import EQUIVALENT, LEVEL, MARGIN
from iot_pipeline_tests.evaluation.simulated_runs import verdicts

FLOWS = 2_000
LUCK = (0.002, 0.004)  # spread of one training's accuracy; three runs of the demo differed by 0.005
DIFFERENCES = (0.0, MARGIN, 0.01)


def main() -> None:
    """Count the verdicts of many studies for each true difference and spread, and save their rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=400, help="studies of each kind (default 400)")
    times = parser.parse_args().times
    rows = []
    for luck in LUCK:
        for difference in DIFFERENCES:
            random = np.random.default_rng([2027, round(1e6 * luck), round(1e6 * difference)])
            found = verdicts(random, {"a": 0.975 + difference, "b": 0.975}, times, luck, FLOWS)
            rows.append(
                {
                    "true_difference": difference,
                    "spread_of_training": luck,
                    "first_is_better": sum(text.startswith("a is better") for text in found) / times,
                    "second_is_better": sum(text.startswith("b is better") for text in found) / times,
                    "equivalent": found.count(EQUIVALENT) / times,
                }
            )
            print(rows[-1], flush=True)
    save("study_power", {"studies": times, "flows": FLOWS, "seeds": 5, "level": LEVEL, "margin": MARGIN, "rows": rows})


if __name__ == "__main__":
    main()
