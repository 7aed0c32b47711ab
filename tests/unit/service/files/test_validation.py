"""Validating a dataset: every bad row, with its line, its field and what to do."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.files.errors import InvalidDataset
from service.files.reading import read_examples
from service.files.validation import MAX_REPORTED_ERRORS, MIN_ROWS, Report, validate
from watermark.errors import RowError
from watermark.lines import MAX_LINE_BYTES

Check = Callable[..., Report]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Validate these bytes."""

    def run(content: bytes, filename: str = "data.jsonl") -> Report:
        path = tmp_path / "blob"
        path.write_bytes(content)
        return validate(path, filename)

    return run


def row(number: int) -> dict[str, Any]:
    """One good row."""
    return {"prompt": f"Say {number}.", "completion": f"It is {number}."}


def jsonl(*values: object, good: int = 0) -> bytes:
    """These values after ``good`` good rows."""
    rows = [row(number) for number in range(good)] + list(values)
    return b"".join(json.dumps(value).encode() + b"\n" for value in rows)


class TestGoodFiles:
    def test_three_shapes_may_be_mixed(self, check: Check) -> None:
        """A file may mix the shapes; the report counts each."""
        alpaca = [{"instruction": f"i{n}", "input": "", "output": "o"} for n in range(4)]
        chat = [
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": f"u{n}"},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "u"},
                    {"role": "assistant", "content": "a"},
                ]
            }
            for n in range(3)
        ]
        report = check(jsonl(*alpaca, *chat, good=5))
        assert report.valid
        assert report.rows == 12
        assert report.format == "mixed"
        assert report.stats["formats"] == {"alpaca": 4, "chat": 3, "prompt": 5}
        assert report.stats["rows_with_system"] == 3
        assert report.stats["rows_with_several_answers"] == 3

    def test_statistics(self, check: Check) -> None:
        report = check(jsonl(row(0), row(0), row(0), good=MIN_ROWS))
        assert report.format == "prompt"
        assert report.stats["duplicate_rows"] == 3
        assert report.stats["characters"] == 13 * (len("Say 0.") + len("It is 0."))
        assert report.stats["answer_characters"] == 13 * len("It is 0.")
        assert report.stats["longest_row_characters"] == len("Say 0.") + len("It is 0.")

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n\n", b""])
    def test_line_endings_and_blank_lines_do_not_matter(self, check: Check, ending: bytes) -> None:
        content = (ending or b"\n").join(json.dumps(row(n)).encode() for n in range(MIN_ROWS)) + ending
        report = check(content)
        assert report.valid
        assert report.rows == MIN_ROWS

    def test_a_wrong_name_is_forgiven_when_the_content_is_right(self, check: Check) -> None:
        assert check(jsonl(good=MIN_ROWS), "data.json").valid

    def test_what_was_validated_is_what_the_worker_reads(self, check: Check, tmp_path: Path) -> None:
        report = check(jsonl(good=25) + b"\n")
        assert len(list(read_examples(tmp_path / "blob"))) == report.rows == 25


class TestBadRows:
    @pytest.mark.parametrize(
        ("bad", "path", "code"),
        [
            ({"messages": [{"role": "user", "content": "q"}]}, "messages[0].role", "no_answer"),
            (
                {"messages": [{"role": "robot", "content": "q"}]},
                "messages[0].role",
                "unknown_role",
            ),
            ({"prompt": "q"}, "completion", "missing_field"),
            ({"prompt": 1, "completion": "a"}, "prompt", "wrong_type"),
            ({"instruction": "i", "output": " "}, "output", "empty"),
            ({"instruction": "i", "output": "o", "extra": 1}, "extra", "unknown_field"),
            ({"question": "q"}, "", "unknown_shape"),
            (["q", "a"], "", "not_an_object"),
        ],
    )
    def test_line_field_code_and_hint(self, check: Check, bad: object, path: str, code: str) -> None:
        report = check(jsonl(bad, good=12))
        (problem,) = report.problems
        assert (problem.line, problem.path, problem.code) == (13, path, code)
        assert problem.message
        assert problem.hint
        assert not report.valid

    def test_all_bad_rows_are_reported_not_only_the_first(self, check: Check) -> None:
        rows = [row(n) if n % 3 else {"prompt": n} for n in range(30)]
        report = check(jsonl(*rows))
        assert [problem.line for problem in report.problems] == list(range(1, 31, 3))
        assert report.problem_count == 10
        assert report.rows == 20
        assert sum(report.stats["error_codes"].values()) == 10

    def test_the_list_is_capped_and_the_count_is_not(self, check: Check) -> None:
        report = check(jsonl(*[{"x": n} for n in range(250)], good=12))
        assert len(report.problems) == MAX_REPORTED_ERRORS == 100
        assert report.problem_count == 250
        assert report.problems[-1].line == 112

    def test_a_line_too_long_is_skipped_and_the_next_is_read(self, check: Check) -> None:
        long = json.dumps({"prompt": "q", "completion": "x" * (2 * MAX_LINE_BYTES)}).encode()
        report = check(jsonl(good=6) + long + b"\n" + jsonl({"x": 1}, good=6))
        assert [(p.line, p.code) for p in report.problems] == [(7, "line_too_long"), (14, "unknown_shape")]
        assert report.rows == 12

    def test_the_longest_allowed_line_is_allowed(self, check: Check) -> None:
        frame = len(json.dumps({"prompt": "q", "completion": ""}))
        line = json.dumps({"prompt": "q", "completion": "x" * (MAX_LINE_BYTES - frame)}).encode()
        assert len(line) == MAX_LINE_BYTES
        assert check(jsonl(good=12) + line + b"\r\n").valid
        assert not check(jsonl(good=12) + line + b" x\n").valid

    def test_one_wrong_byte_is_located(self, check: Check) -> None:
        content = jsonl(good=12) + b'{"prompt": "caf\xe9", "completion": "a"}\n'
        (problem,) = check(content).problems
        assert (problem.line, problem.code) == (13, "not_utf8")
        assert "0xe9 at position 16" in problem.message

    def test_the_envelope_names_the_first_and_carries_all(self, check: Check) -> None:
        error = InvalidDataset(check(jsonl({"prompt": "q"}, {"x": 1}, good=12)))
        assert error.message.startswith("Line 13, completion: the field 'completion' is missing.")
        assert "(1 more)" in error.message
        assert error.extra()["error_count"] == 2


class TestNoDatasetAtAll:
    @pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
    def test_empty(self, check: Check, content: bytes) -> None:
        (problem,) = check(content).problems
        assert (problem.line, problem.code) == (0, "empty_file")

    @pytest.mark.parametrize("rows", [1, MIN_ROWS - 1])
    def test_too_small(self, check: Check, rows: int) -> None:
        (problem,) = check(jsonl(good=rows)).problems
        assert problem.code == "dataset_too_small"
        assert f"{rows} rows" in problem.message
        assert str(MIN_ROWS) in problem.message

    @pytest.mark.parametrize(
        ("content", "filename", "code", "hint"),
        [
            (gzip.compress(b"{}", mtime=0), "data.jsonl.gz", "not_jsonl", "gunzip"),
            (b"PK\x03\x04rest", "data.xlsx", "not_jsonl", "JSONL"),
            (b"PAR1rest", "data.parquet", "not_jsonl", "JSONL"),
            (b'[\n  {"prompt": "q"}\n]', "data.json", "json_array", "jq -c '.[]'"),
            (b'{\n  "prompt": "q"\n}', "data.json", "pretty_printed", "jq -c ."),
            (b"prompt,completion\nq,a\n", "data.csv", "not_jsonl", "JSON object"),
            (b"\xef\xbb\xbf" + b'{"prompt": "q", "completion": "a"}', "data.jsonl", "byte_order_mark", "BOM"),
            ('{"prompt": "q"}'.encode("utf-16"), "data.jsonl", "not_utf8", "UTF-8"),
            ('{"prompt": "q"}'.encode("utf-16-le"), "data.jsonl", "not_utf8", "UTF-8"),
        ],
    )
    def test_other_files_get_one_clear_answer(
        self, check: Check, content: bytes, filename: str, code: str, hint: str
    ) -> None:
        (problem,) = check(content, filename).problems
        assert (problem.line, problem.code) == (1, code)
        assert hint in problem.hint

    def test_a_wrong_extension_is_mentioned_with_bad_content(self, check: Check) -> None:
        (problem,) = check(b"[]", "data.json").problems
        assert ".jsonl" in problem.hint
        assert "ends in .json" in problem.hint


def test_reading_stops_at_a_row_that_was_changed_after_validation(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(jsonl({"x": 1}, good=2))
    reader = read_examples(path)
    assert next(reader).answer == "It is 0."
    next(reader)
    with pytest.raises(RowError):
        next(reader)


@pytest.mark.slow
def test_an_alpaca_size_file_is_validated_in_five_seconds(check: Check) -> None:
    """52,002 rows of Alpaca's average length."""
    rows = [
        {"instruction": f"Question {n}: " + "q" * 60, "input": "i" * 20, "output": "a" * 270}
        for n in range(52_002)
    ]
    content = jsonl(*rows)
    started = time.process_time()
    assert check(content).valid
    assert time.process_time() - started < 5
