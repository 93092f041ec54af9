import pytest

from upkeep import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("300", 300),
        ("300B", 300),
        ("300M", 300 << 20),
        ("300MiB", 300 << 20),
        ("300 mb", 300 << 20),
        ("1.5G", 3 << 29),
        ("2k", 2048),
        ("1T", 1 << 40),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1.M", "1,5G", "300MX", "1e9", "inf", "nan", "٣", "9" * 30, "1 2"]
)
def test_a_bad_size_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r'^expected a size such as "300M"'):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("0.5s", 0.5),
        ("5m", 300),
        ("2h", 7200),
        ("90d", 90 * 86400),
        ("1h30m", 5400),
        ("1w", 604800),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 m", "1h30", "5x", "1..5s", "1e3", "٣m"])
def test_a_bad_duration_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a duration such as"):
        units.parse_duration(text)


def test_a_percentage_is_a_fraction() -> None:
    assert units.parse_percent("80%") == 0.8
    for bad in ("80", "101%", "%", "-1%", "80 percent"):
        with pytest.raises(ValueError, match=r"^expected"):
            units.parse_percent(bad)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10 * 1024, "10 KiB"),
        (612 << 20, "612 MiB"),
        (1023.9 * (1 << 20), "1.0 GiB"),
        (1 << 50, "1024 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_sizes_are_shown_in_binary_units(size: float, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.24, "0.2 s"),
        (9.97, "10 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (7980, "2 h 13 min"),
        (3599.9, "1 h"),
        (187200, "2 d 4 h"),
        (-90, "-1 min 30 s"),
    ],
)
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


def test_a_time_beyond_the_calendar_is_still_shown() -> None:
    assert units.local_time(1e20) == "@1e+20"
    assert units.local_time(0)[:2] in ("19", "19") and "T" in units.local_time(0)
