"""report.json: what was found, for programs."""

import dataclasses
import json
import math
from typing import Any

from suite.report.records import Gathered


def text(found: Gathered, headline: str) -> str:
    """Strict JSON: what is no finite number is null."""
    facts = {
        "headline": headline,
        "scale": found.scale,
        "evidence": found.evidence,
        "problems": [dataclasses.asdict(problem) for problem in found.problems],
        "arms": found.arms,
        "command": found.command,
        "place": found.place,
        "claims": [_claim(judged) for judged in found.judged],
        "environment": found.environment,
    }
    return json.dumps(_finite(facts), indent=1, allow_nan=False) + "\n"


def _claim(judged: Any) -> dict[str, Any]:
    facts = dataclasses.asdict(judged)
    finding = facts.pop("finding")
    return facts | finding


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
