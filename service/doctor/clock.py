"""Whether this machine's clock agrees with another's."""

from peelbound.service.doctor.findings import Finding, ok, warning, wrong

WARNING_SECONDS = 5.0
WRONG_SECONDS = 60.0
"""Tokens, JWTs and presigned links end at times; S3 itself refuses requests that are 15 minutes off."""

_REMEDY = "Run a time service (chrony, systemd-timesyncd) on both machines. Leases go by the database's clock alone."


def skew(part: str, whose: str, ahead: float, doubt: float) -> Finding:
    """What an observed difference means.

    Args:
        part: the finding's name.
        whose: the other clock.
        ahead: seconds by which the other is ahead of this machine's.
        doubt: seconds by which that may be wrong: half the way there and back, and the coarseness of the answer.
    """
    certain = max(0.0, abs(ahead) - doubt)
    detail = (
        f"{whose} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's clock (±{doubt:.1f} s)."
    )
    if certain > WRONG_SECONDS:
        return wrong(part, detail, _REMEDY)
    if certain > WARNING_SECONDS:
        return warning(part, detail, _REMEDY)
    return ok(part, detail)
