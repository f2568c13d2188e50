import json

import pytest

from jobs.pipelines.samples import CorruptLine, Sample, parse_sample, to_line


def test_a_line_is_a_sample(line):
    got = parse_sample(line(type="cumulative", unit="s", metadata={"host": {"name": "a"}}))
    assert got == Sample(
        "1", "cpu", "cumulative", "s", 1.5, "r", "2026-01-02T03:04:05Z", {"host": {"name": "a"}}, 1767323045.0
    )


def test_type_unit_and_metadata_may_be_left_out_and_other_keys_be_there(line):
    got = parse_sample(line(user_id="u"))
    assert (got.type, got.unit, got.metadata) == ("gauge", "", {})


@pytest.mark.parametrize(
    ("timestamp", "at"),
    [
        ("1970-01-01T00:00:01", 1.0),
        ("1970-01-01T00:00:01.25+00:00".replace(".25", ".250"), 1.25),
        ("1970-01-01T01:00:01+01:00", 1.0),
        ("1970-01-01T00:00:01.000001Z", 1.000001),
    ],
)
def test_timestamps_have_any_offset_or_are_utc(line, timestamp, at):
    got = parse_sample(line(timestamp=timestamp))
    assert (got.at, got.timestamp) == (at, timestamp)


@pytest.mark.parametrize("volume", [0, -1.5, 0.1 + 0.2, 1e300, 2**53])
def test_a_sample_survives_writing_and_parsing(line, volume):
    got = parse_sample(line(volume=volume, unit="°", metadata={"a": [1, None, {"b": "ü"}]}))
    assert parse_sample(to_line(got)) == got


def test_a_line_that_is_written_is_one_line(line):
    written = to_line(parse_sample(line(metadata={"text": "a\nb\u2028c"})))
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert json.loads(written)["metadata"] == {"text": "a\nb\u2028c"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": ""}, "id: string should have at least 1 character"),
        ({"id": 7}, "id: input should be a valid string"),
        ({"name": None}, "name: input should be a valid string"),
        ({"volume": "1"}, "volume: input should be a valid number"),
        ({"volume": True}, "volume: input should be a valid number"),
        ({"volume": float("nan")}, "volume: input should be a finite number"),
        ({"volume": float("inf")}, "volume: input should be a finite number"),
        ({"type": "counter"}, "type: input should be 'gauge', 'delta' or 'cumulative'"),
        ({"timestamp": "yesterday"}, "timestamp: expected an ISO 8601 time, got 'yesterday'"),
        ({"timestamp": 1700000000}, "timestamp: input should be a valid string"),
        ({"timestamp": "0001-01-01T00:00:00+23:59Z"}, "timestamp: "),
        ({"metadata": [1]}, "metadata: input should be an object"),
    ],
)
def test_a_bad_line_is_refused_with_the_reason(line, fields, said):
    with pytest.raises(CorruptLine) as refused:
        parse_sample(line(**fields))
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"id": "\\ud800"}', b"{}"])
def test_what_is_no_sample_at_all_is_corrupt(text):
    with pytest.raises(CorruptLine) as refused:
        parse_sample(text)
    assert "\n" not in str(refused.value)


def test_a_missing_field_is_named(line):
    got = json.loads(line())
    del got["resource_id"]
    with pytest.raises(CorruptLine, match=r"^resource_id: field required$"):
        parse_sample(json.dumps(got).encode())
