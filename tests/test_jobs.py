"""Jobs: the same table on every executor, finished work is kept, nothing half-written is read."""

import json
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest

from edittools.probing.jobs import Store, run

JOBS = {f"job {i}": i for i in range(5)}


def square(number):
    return [{"number": number, "square": number**2}, {"number": -number, "square": number**2}]


def fails_at_three(number):
    if number == 3:
        raise RuntimeError("job 3 failed")
    return square(number)


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(2)])
def test_the_table_is_the_same_on_every_executor(make):
    executor = make()
    table = run(square, JOBS, executor=executor)
    assert table.job.tolist() == [name for name in JOBS for _ in range(2)]
    assert table.square.tolist() == [i**2 for i in range(5) for _ in range(2)]
    if executor:
        executor.shutdown()


def test_an_interrupted_run_resumes_and_does_nothing_twice(tmp_path):
    store, seen = tmp_path / "run.jsonl", []
    with pytest.raises(RuntimeError, match="job 3"):
        run(fails_at_three, JOBS, store)
    assert [name for name, _ in Store(store).read()] == ["job 0", "job 1", "job 2"]
    table = run(lambda n: seen.append(n) or square(n), JOBS, store)
    assert seen == [3, 4]
    pd.testing.assert_frame_equal(table, run(square, JOBS))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A store of all jobs, its bytes and their table; nothing is synced, so that it may be written a thousand times."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    whole = run(square, JOBS, tmp_path / "run.jsonl")
    return tmp_path / "run.jsonl", (tmp_path / "run.jsonl").read_bytes(), whole


def test_a_last_line_cut_off_at_any_byte_is_dropped_and_its_job_done_again(finished):
    store, raw, whole = finished
    for end in range(raw[:-1].rfind(b"\n") + 1, len(raw)):
        store.write_bytes(raw[:end])
        seen = []
        table = run(lambda n, seen=seen: seen.append(n) or square(n), JOBS, store)
        assert seen == [4] and store.read_bytes() == raw
        assert table.equals(whole)


DAMAGES = {"invalid": lambda byte: byte ^ 0xFF, "likely": lambda byte: byte ^ 1, "a newline": lambda byte: 10}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_wrong_byte_costs_the_jobs_of_its_line_and_nothing_else(finished, damage):
    store, raw, whole = finished
    ends = [i for i, byte in enumerate(raw) if byte == 10]
    for place in {*range(ends[0] + 1, len(raw), 3), *ends[1:]} - set(ends if damage == "a newline" else ()):
        wrong = raw[:place] + bytes([DAMAGES[damage](raw[place])]) + raw[place + 1 :]
        store.write_bytes(wrong)
        seen, line = [], sum(end < place for end in ends) - 1
        table = run(lambda n, seen=seen: seen.append(n) or square(n), JOBS, store)
        lost = [line, line + 1] if place in ends else [line]  # a newline that is gone joins two lines
        assert seen == [n for n in lost if n < 5]
        assert table.equals(whole)
        kept = wrong if place < ends[-1] else raw[: ends[-2] + 1]
        assert store.read_bytes() == kept + b"".join(raw.splitlines(keepends=True)[n + 1] for n in seen)


def test_a_first_line_with_a_wrong_byte_is_that_of_another_sweep(finished):
    store, raw, _ = finished
    for place in range(raw.index(b"\n") + 1):
        wrong = raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :]
        store.write_bytes(wrong)
        with pytest.raises(ValueError, match="holds another sweep .*, expected '': give another file, or delete it"):
            run(square, JOBS, store)
        assert store.read_bytes() == wrong


def test_the_store_of_another_sweep_is_refused(tmp_path):
    run(square, JOBS, tmp_path / "run.jsonl", about="seed 0")
    with pytest.raises(ValueError, match=r"seed 0.*expected 'seed 1'"):
        run(square, JOBS, tmp_path / "run.jsonl", about="seed 1")
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("text", ["my notes", '{"about": "seed'])
def test_a_file_that_is_no_store_is_not_overwritten(tmp_path, text):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"notes.txt' is no file of a sweep: give another name"):
        run(square, JOBS, path)
    assert path.read_text() == text


def test_a_failure_in_a_pool_comes_through_and_finished_jobs_are_kept(tmp_path):
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="job 3"):
        run(fails_at_three, JOBS, tmp_path / "run.jsonl", pool)
    assert "job 0" in dict(Store(tmp_path / "run.jsonl").read())


def test_rows_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        run(lambda n: [{"value": {1, 2}}], {"a": 1}, tmp_path / "run.jsonl")
    assert json.loads((tmp_path / "run.jsonl").read_text()) == {"about": ""}
