from __future__ import annotations

import pytest

from perf.points import Point, merged, parse

HEADING = (
    "Concurrency,Inferences/Second,{}Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency\n"
)
UNARY = HEADING.format("") + "1,123.5,8,1072,216,33,6361,361,4,7800,9502,11399,15554\n"
STREAMED = (
    HEADING.format("Response Throughput,") + "4,61.0,1037.3,0,62818,350,39,1674,8,0,63107,83315,91622,96675\n"
)


def test_a_report_becomes_points_in_milliseconds() -> None:
    assert parse(UNARY) == [Point(1, 123.5, 123.5, 7.8, 9.502, 11.399, 15.554)]


def test_a_decoupled_model_has_a_rate_of_responses_too() -> None:
    (point,) = parse(STREAMED)
    assert (point.requests_per_s, point.responses_per_s) == (61.0, 1037.3)


def test_points_rise_by_concurrency_whatever_the_order_of_the_rows() -> None:
    rows = UNARY.splitlines()
    shuffled = "\n".join([rows[0], rows[1].replace("1,", "8,", 1), rows[1]])
    assert [point.concurrency for point in parse(shuffled)] == [1, 8]


def test_merged_reports_have_one_heading() -> None:
    whole = merged([UNARY, UNARY.replace("\n1,", "\n2,") + "\n"])
    assert whole.count("Concurrency") == 1
    assert [point.concurrency for point in parse(whole)] == [1, 2]


def test_a_report_of_another_form_is_refused() -> None:
    with pytest.raises(KeyError, match="p50 latency"):
        parse("Concurrency,Inferences/Second\n1,2\n")
