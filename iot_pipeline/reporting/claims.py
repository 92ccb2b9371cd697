"""Claims of the prior work next to measurements of this lake, each with a verdict computed from the numbers."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from iot_pipeline.errors import UserError
from iot_pipeline.lake.yaml_reader import read_own_yaml
from iot_pipeline.reporting import formats
from iot_pipeline.reporting.measurements import CONDITIONS, Condition, Measurement
from iot_pipeline.vocabulary import STAGES

CLAIMS = Path(__file__).parent / "claims.yaml"
HOLDS, FAILS, INCOMPARABLE, UNMEASURED = "holds", "does not hold", "cannot be compared", "not measured here"


class Claim(BaseModel):
    """Entry of claims.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    topic: str
    kind: Literal["claim", "finding"] = "claim"
    text: str
    figure: float | dict[str, float] | None = None
    unit: str = ""
    source: str
    measure: str | None = None
    rule: Literal["equal", "at_least", "at_most", "below", "none"]
    tolerance: float = 0.0
    needs: list[Condition] = []
    missing: str = "the artefact that would show it has not been materialised in this lake"
    reason: str = ""
    built_in: str = ""


def load_claims(path: Path = CLAIMS) -> list[Claim]:
    """Load the claims of a YAML file, in file order.

    Raises UserError with file and entry if a claim is malformed or repeated.
    """
    try:
        claims = [Claim(**entry) for entry in read_own_yaml(path)]
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise UserError(f"{path}: the id {claim.id} occurs twice; give each claim its own")
        seen.add(claim.id)
    return claims


def claimed_costs() -> dict[str, float]:
    """Return the answer costs claimed by the prior work, track -> dollars (claims measured by `cost_<track>`)."""
    return {
        claim.measure.removeprefix("cost_"): claim.figure
        for claim in load_claims()
        if claim.measure and claim.measure.startswith("cost_") and isinstance(claim.figure, (int, float))
    }


def claims_audit(
    claims: Sequence[Claim], measured: Mapping[str, Measurement], met: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Compare each claim with its measurement; `met`: the CONDITIONS that hold.

    Returns rows {id, topic, kind, text, claimed, unit, rule, source, measured, where, verdict, why}; `claimed` and
    `measured` are values, None where absent.
    """
    rows = []
    for claim in claims:
        found = measured.get(claim.measure) if claim.measure else None
        verdict, why = judge(claim, found, met)
        rows.append(
            {
                **claim.model_dump(include={"id", "topic", "kind", "text", "unit", "rule", "source"}),
                "claimed": claim.figure,
                "measured": found.value if found else None,
                "where": found.where if found else None,
                "verdict": verdict,
                "why": why,
            }
        )
    return rows


def judge(claim: Claim, found: Measurement | None, met: Collection[str]) -> tuple[str, str]:
    """Return the verdict on a claim given its measurement, and one reason."""
    if found is None:
        return UNMEASURED, claim.missing
    if unmet := [CONDITIONS[name] for name in claim.needs if name not in met or name in found.lacks]:
        return INCOMPARABLE, _joined(*unmet, found.note)
    if found.value is None or claim.rule == "none" or claim.figure is None:
        return INCOMPARABLE, _joined(claim.reason, found.note)
    by_name = claim.figure if isinstance(claim.figure, dict) else {"": claim.figure}
    values = found.value if isinstance(claim.figure, dict) else {"": found.value}
    wrong = [name for name, wanted in by_name.items() if not _passes(claim, wanted, values.get(name))]
    if not wrong:
        by_construction = claim.built_in and "captured_flows" not in met
        return HOLDS, _joined(f"holds by construction: {claim.built_in}" if by_construction else "", found.note)
    name = max(wrong, key=lambda name: abs((values.get(name) or 0) - by_name[name]))
    figures = (show(figure, claim.unit) for figure in (by_name[name], values.get(name)))
    return FAILS, _joined((f"{name}: " if name else "") + "claimed {}, found {}".format(*figures), found.note)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _passes(claim: Claim, wanted: float, value: float | None) -> bool:
    if value is None:
        return False
    slack = claim.tolerance + 1e-12
    return {
        "equal": abs(value - wanted) <= slack,
        "at_least": value >= wanted - slack,
        "at_most": value <= wanted + slack,
        "below": value < wanted,
    }[claim.rule]


def show(value: Any, unit: str) -> str:
    """Format a figure by its unit: shares as per cent, accuracies with 4 decimals, dollars, seconds, counts."""
    if value is None:
        return formats.MISSING
    if isinstance(value, Mapping):
        value = dict(sorted(value.items(), key=lambda item: STAGES.index(item[0]) if item[0] in STAGES else -1))
        return "\n".join(f"{name} {show(item, unit)}" for name, item in value.items())
    if unit.startswith("share"):
        return formats.percent(value)
    if unit.startswith(("accuracy", "macro-F1", "nats")):
        return formats.accuracy(value)
    if unit == "US dollars":
        return formats.dollars(value)
    if unit == "seconds":
        return f"{value:.4g} s"
    return formats.number(value)


SIGNS = {"at_least": "≥ ", "at_most": "≤ ", "below": "< "}


def show_claimed(row: Mapping[str, Any]) -> str:
    """Format the claimed figure of an audit row with the sign of its rule."""
    return ("" if row["claimed"] is None else SIGNS.get(row["rule"], "")) + show(row["claimed"], row["unit"])


def counted(audit: Sequence[Mapping[str, Any]]) -> str:
    """Count verdicts in words: `4 hold, 2 do not hold, 19 cannot be compared`; absent verdicts are left out."""
    words = {
        HOLDS: "hold",
        FAILS: "do not hold",
        INCOMPARABLE: "cannot be compared",
        UNMEASURED: "were not measured here",
    }
    found = [row["verdict"] for row in audit]
    return ", ".join(f"{found.count(verdict)} {text}" for verdict, text in words.items() if verdict in found)
