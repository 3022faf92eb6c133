"""Times are read from and written to files in seconds, and are milliseconds everywhere else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.times import MAX_TIME_S, format_time, parse_time


@given(st.integers(0, MAX_TIME_S * 1000))
@example(0)
@example(MAX_TIME_S * 1000)
def test_a_printed_time_reads_back_as_it_was(time_ms: int) -> None:
    assert parse_time(format_time(time_ms)) == time_ms


@given(st.integers(0, 20_000_000), st.integers(0, 20_000_000))
def test_different_times_never_print_alike(one: int, other: int) -> None:
    assert (format_time(one) == format_time(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "time_ms", "printed"),
    [
        ("0007", 7000, "0007"),
        ("7", 7000, "0007"),
        ("902.0", 902_000, "0902"),
        ("902.00000", 902_000, "0902"),
        ("9.02e2", 902_000, "0902"),
        ("1.5", 1500, "0001.5"),
        ("0902.200", 902_200, "0902.2"),
        ("902.04", 902_040, "0902.04"),
        ("0.001", 1, "0000.001"),
        ("12345", 12_345_000, "12345"),
    ],
)
def test_a_time_is_read_in_every_form_and_printed_in_one(text: str, time_ms: int, printed: str) -> None:
    assert parse_time(text) == time_ms
    assert format_time(time_ms) == printed


@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.04, 0.1]))
def test_the_noise_of_a_float_is_no_decimal(count: int, step: float) -> None:
    assert parse_time(repr(count * step)) == count * round(step * 1000)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1.2345", "'1.2345', but must have at most three decimals: .* Round the times"),
        ("0.0001", "at most three decimals"),
        ("0.28000000001", "at most three decimals"),
        ("-1", "'-1', but must be from 0 to 10000000000 seconds"),
        ("1e300", "must be from 0"),
        ("10000000000.001", "must be from 0"),
        ("0:07", "'0:07', but must be a number of seconds"),
        ("", "'', but must be a number"),
        ("nan", "must be a number"),
        ("inf", "must be a number"),
        ("1_0", "must be a number"),
    ],
)
def test_what_is_no_time_is_refused_with_its_rule(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rf"the time is .*{rule}"):
        parse_time(text)


@pytest.mark.parametrize("time_ms", [-1, MAX_TIME_S * 1000 + 1])
def test_a_key_frame_has_a_time_in_range(time_ms: int) -> None:
    with pytest.raises(InputError, match=rf"video 'v' is {time_ms} ms, but must be from 0 to 10000000000000 ms"):
        KeyFrame("v", time_ms)
