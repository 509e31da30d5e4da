"""The health of a release: its runs beside those of the version before it. Pure."""

from datetime import datetime, timedelta

from bay.models import SkillHealth, SkillRelease
from bay.store.records import RunFigures

WINDOW = timedelta(hours=24)
MAX_DROP = 0.03
MAX_MULTIPLIER = 2.0
NO_RUNS = RunFigures(samples=0, successes=0, p95_ms=0)


def window_end(release: SkillRelease) -> datetime:
    """The moment up to which runs of the release count."""
    return release.health_window_end_at or release.promoted_at + WINDOW


def health(release: SkillRelease, runs: RunFigures, before: RunFigures, now: datetime) -> SkillHealth:
    """How `runs` went beside `before`, the runs of the version before. Without either nothing is wrong."""
    good, bad = _rates(runs)
    baseline_good, baseline_bad = _rates(before)
    comparable = runs.samples > 0 and before.samples > 0
    drop = round(max(0.0, baseline_good - good), 6) if comparable else 0.0
    multiplier = round(bad / baseline_bad, 6) if comparable and baseline_bad else 0.0
    reasons: list[str] = []
    if drop > MAX_DROP:
        reasons.append(f"success_rate is {drop:g} lower than before, more than {MAX_DROP:g}")
    if multiplier > MAX_MULTIPLIER:
        reasons.append(f"error_rate is {multiplier:g} times that of before, more than {MAX_MULTIPLIER:g}")
    end = window_end(release)
    return SkillHealth(
        release_id=release.id,
        skill_key=release.skill_key,
        stage=release.stage,
        window_start_at=release.promoted_at,
        window_end_at=end,
        window_complete=now >= end,
        samples=runs.samples,
        success_rate=good,
        error_rate=bad,
        p95_duration=runs.p95_ms,
        baseline_success_rate=baseline_good,
        baseline_error_rate=baseline_bad,
        baseline_samples=before.samples,
        success_drop=drop,
        error_rate_multiplier=multiplier,
        healthy=not reasons,
        should_rollback=bool(reasons),
        rollback_reasons=tuple(reasons),
        thresholds={"success_drop": MAX_DROP, "error_rate_multiplier": MAX_MULTIPLIER},
    )


def _rates(runs: RunFigures) -> tuple[float, float]:
    """The parts of the runs that succeeded and that failed; 0 and 0 without any."""
    if not runs.samples:
        return 0.0, 0.0
    good = round(runs.successes / runs.samples, 6)
    return good, round(1 - good, 6)
