import datetime as dt

import pytest

from upkeep.timestamps import name_date, record_time

AT = 1_710_838_090.687  # 2024-03-19 08:48:10.687 UTC


@pytest.mark.parametrize(
    "value",
    [
        AT,
        1_710_838_090_687,
        "1710838090687",
        1_710_838_090_687_000,
        "1710838090687000",
        1_710_838_090_687_000_000,
        "1710838090687000000",
        "1710838090.687",
        "2024-03-19T08:48:10.687Z",
        "2024-03-19T08:48:10.687000Z",
        "2024-03-19T08:48:10.687000000Z",
        "2024-03-19T08:48:10.687+00:00",
        "2024-03-19T16:48:10.687+0800",
        "2024-03-19T16:48:10,687+08",
        "2024-03-19 08:48:10.687+00:00",
        "2024-03-19 08:48:10.687 UTC",
        "20240319T084810.687Z",
    ],
)
def test_one_moment_in_many_shapes(value: object) -> None:
    assert record_time(value) == pytest.approx(AT, abs=0.001)


@pytest.mark.parametrize(
    "value", ["2024-03-19T08:48:10", "2024-03-19 08:48:10,000", "2024-03-19 08:48:10.000"]
)
def test_a_text_without_a_zone_is_local_time(value: str) -> None:
    assert record_time(value) == dt.datetime(2024, 3, 19, 8, 48, 10).timestamp()


def test_a_doubt_counts_as_the_later_time() -> None:
    cet = record_time("2024-03-19 09:48:10.687 CET")
    assert cet is not None and AT <= cet <= AT + 14 * 3600
    for day in ("2024-03-19", "20240319"):
        assert record_time(day) == dt.datetime(2024, 3, 20).timestamp()
    assert record_time("2024-W12") == dt.datetime(2024, 3, 25).timestamp()


@pytest.mark.parametrize(
    "value",
    [
        None, True, [], {}, "", "x", 0, 5, 86400, -1, 20240319, 202611201345, "202611201345",
        1e30, "1e9", "٣" * 10,
        float("nan"), float("inf"), "2021-24-02", "2021-02-31", "2024-03-19T25:00:00",
        "2024/03/19 08:48:10", "19/Mar/2024:08:48:10 +0000", "2024-03-19 08:48:10 X1",
        "9" * 400, "2024-03-19T08:48:10.687+99:00",
    ],
)  # fmt: skip
def test_what_is_no_clear_time_is_none(value: object) -> None:
    assert record_time(value) is None


def test_a_naive_time_in_the_hour_that_comes_twice_is_the_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        # 2024-10-27 03:00 CEST was followed by 02:00 CET; 02:30 came at 00:30 and 01:30 UTC.
        late = dt.datetime(2024, 10, 27, 1, 30, tzinfo=dt.UTC).timestamp()
        assert record_time("2024-10-27T02:30:00") == late
        # the day had 25 hours
        assert name_date("20241027") == dt.datetime(2024, 10, 27, 23, tzinfo=dt.UTC).timestamp()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_day_that_ends_at_a_midnight_that_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/Santiago")
    time.tzset()
    try:  # the clock went from 2026-09-05 24:00 (-04) to 2026-09-06 01:00 (-03)
        end = dt.datetime(2026, 9, 6, 4, tzinfo=dt.UTC).timestamp()
        assert name_date("x-2026-09-05.log") == record_time("2026-09-05") == end
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("a-2024-03-19.jsonl", (2024, 3, 20)),
        ("20240319", (2024, 3, 20)),
        ("2024-03-19_2024-03-21.log", (2024, 3, 22)),
        ("2021-24-02.log", None),
        ("2024-0319.log", None),
        ("120240319.log", None),
        ("9999-12-31.log", None),
        ("plain.log", None),
    ],
)
def test_a_date_in_a_name_ends_with_its_local_day(
    name: str, day: tuple[int, int, int] | None
) -> None:
    assert name_date(name) == (dt.datetime(*day).timestamp() if day else None)
