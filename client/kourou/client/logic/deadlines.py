"""How late an attempt may start, and how long its answer is awaited. Pure; times are seconds of any clock.

An attempt that the deadline cuts off leaves the worst outcome there is: nobody knows. So the end of a deadline is for
listening only, as long as an answer of that broker may take judging by the last ones (the estimate of RFC 6298):

    made          latest retry   latest start       deadline     lost
    |--------------------|--------------|---------------|----------|
                            listen_s        listen_s       GRACE_S

A retry keeps twice the time, so that a timer which is late still finds it not too late. A refusal behind the latest retry
is final. What is under way at the deadline has GRACE_S more before it counts as unknown.
"""

from __future__ import annotations

LISTEN_S_MIN = 0.1  # loopback answers in under 1 ms; a busy machine may not run either process for some 10 ms
LISTEN_SHARE_MAX = 1 / 8  # of the whole deadline, however slow the broker is
GRACE_S = 0.25


class AnswerTime:
    """How long the answers of one broker take."""

    __slots__ = ("_deviation_s", "_mean_s")

    def __init__(self) -> None:
        self._mean_s = self._deviation_s = 0.0

    def took(self, seconds: float) -> None:
        if not self._mean_s:
            self._mean_s, self._deviation_s = seconds, seconds / 2
            return
        error_s = seconds - self._mean_s
        self._mean_s += error_s / 8
        self._deviation_s += (abs(error_s) - self._deviation_s) / 4

    @property
    def expected_s(self) -> float:
        """Nearly every answer comes within this."""
        return self._mean_s + 4 * self._deviation_s


class Deadlines:
    """The rules for batches that have ``deadline_s`` from their making on."""

    def __init__(self, deadline_s: float) -> None:
        self._listen_s_max = deadline_s * LISTEN_SHARE_MAX

    def _listen_s(self, answers: AnswerTime) -> float:
        return min(self._listen_s_max, max(LISTEN_S_MIN, answers.expected_s))

    def may_start(self, deadline: float, now: float, answers: AnswerTime) -> bool:
        """Whether there is time left to hear the answer."""
        return now <= deadline - self._listen_s(answers)

    def retry_after_s(self, delay_s: float, deadline: float, now: float, answers: AnswerTime) -> float | None:
        """When to try again after a refusal: ``delay_s`` from now, or earlier so that there is time to hear the answer;
        None: it is too late."""
        left_s = deadline - 2 * self._listen_s(answers) - now
        return min(delay_s, left_s) if left_s > 0 else None

    @staticmethod
    def lost(deadline: float, now: float) -> bool:
        """Whether an answer that has not come yet is not waited for any more."""
        return now >= deadline + GRACE_S
