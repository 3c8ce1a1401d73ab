"""How thoroughly the checks look: the number of examples, and whether they are the same in every run."""

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings

__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True)
class Profile:
    """A name and what it asks of hypothesis.

    Args:
        name: "quick", "default" or "thorough".
        examples: per check. Checks never say a number themselves, but may divide it where an example is expensive.
        deterministic: whether each run draws the same examples.
        shrink: whether a failing example is made smaller before it is shown.
    """

    name: str
    examples: int
    deterministic: bool = True
    shrink: bool = True

    def settings(self, cost: int = 1) -> Any:
        """Hypothesis settings for a check whose examples cost `cost` times the usual."""
        phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if self.shrink else [])]
        return settings(
            max_examples=max(1, self.examples // cost),
            derandomize=self.deterministic,
            deadline=None,
            database=None,
            phases=phases,
            print_blob=False,
            report_multiple_bugs=False,
            # Examples are rejected near kinks, and the first one compiles.
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
        )


PROFILES = {
    profile.name: profile
    for profile in (Profile("quick", 5), Profile("default", 25), Profile("thorough", 200, deterministic=False))
}
