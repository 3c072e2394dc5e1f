"""How long a consumer group waits before a message that failed is tried again, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kourou.core.errors import BadRequest

DELAYS_MS = tuple(
    1000 * seconds for seconds in (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
)  # RocketMQ's delay levels
STEPS_MAX = 64
DELAY_MS_MAX = 12 * 3_600_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A list of delays (the last one goes on), or an exponential one where ``initial_ms`` is not 0."""

    delays_ms: tuple[int, ...] = DELAYS_MS
    initial_ms: int = 0
    max_ms: int = 7_200_000
    multiplier: float = 2.0

    def delay_ms(self, attempt: int) -> int:
        """Before the delivery that follows attempt number ``attempt`` (from 1)."""
        if self.initial_ms:
            return int(min(self.max_ms, self.initial_ms * self.multiplier ** min(attempt - 1, 100)))
        return self.delays_ms[min(attempt, len(self.delays_ms)) - 1]

    def to_json(self) -> Any:
        if self.initial_ms:
            return {"initial_ms": self.initial_ms, "max_ms": self.max_ms, "multiplier": self.multiplier}
        return list(self.delays_ms)

    @staticmethod
    def from_json(value: Any) -> RetryPolicy:
        """Raises BadRequest, naming the field."""
        if value is None:
            return RetryPolicy()
        if isinstance(value, list):
            if not 0 < len(value) <= STEPS_MAX or not all(_is_delay(item) for item in value):
                raise BadRequest(f"retry delays must be 1 to {STEPS_MAX} numbers of milliseconds up to {DELAY_MS_MAX}")
            return RetryPolicy(tuple(value))
        if not isinstance(value, dict):
            raise BadRequest("retry policy must be a list of delays or an object with initial_ms, max_ms and multiplier")
        initial_ms, max_ms = value.get("initial_ms"), value.get("max_ms", 7_200_000)
        multiplier = value.get("multiplier", 2.0)
        if not (_is_delay(initial_ms) and _is_delay(max_ms) and initial_ms and max_ms >= initial_ms):
            raise BadRequest(f"retry policy needs 0 < initial_ms <= max_ms <= {DELAY_MS_MAX}")
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 1 <= multiplier <= 100:
            raise BadRequest("retry policy needs a multiplier from 1 to 100")
        return RetryPolicy((), initial_ms, max_ms, float(multiplier))


def _is_delay(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= DELAY_MS_MAX
