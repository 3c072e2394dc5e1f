"""How long a master puts up with being alone."""

from __future__ import annotations

from kourou.app.company import AFTER_MS_MAX, Company


def missing(company: Company, *times_ms: int, short: bool = True, followed: bool = False) -> list[bool]:
    return [company.is_missing(short=short, followed=followed, now_ms=now_ms) for now_ms in times_ms]


def test_alone_for_two_leases() -> None:
    company = Company(lease_ms=3_000)
    assert missing(company, 0, 5_900, 6_000) == [False, False, True]
    assert missing(company, 6_100, followed=True) == [False]
    assert missing(company, 6_200, 12_100, 12_200) == [False, False, True]
    assert missing(company, 12_300, short=False) == [False]
    assert missing(company, 12_400, 18_000) == [False, False]


def test_longer_each_time_until_the_set_was_whole() -> None:
    company = Company(lease_ms=3_000)
    company.sought()
    assert missing(company, 0, 11_900, 12_000) == [False, False, True]
    for _ in range(9):
        company.sought()
    assert missing(company, 0, AFTER_MS_MAX - 1, AFTER_MS_MAX) == [False, False, True]
    missing(company, 100_000, short=False)
    assert missing(company, 100_001, 106_001) == [False, True]
