from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from ownship.errors import UserError
from ownship.surfaces.jobs import Full, Job, Jobs


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs(waiting=3, each=2)
    yield made
    made.close()


def _held(go: threading.Event) -> object:
    def work(job: Job) -> str:
        job.note({"line": "begun"})
        while not go.wait(0.01):
            job.note({"line": "still"})
        return "result"

    return work


def test_a_job_tells_how_far_it_is_and_leaves_a_result(jobs: Jobs) -> None:
    def work(job: Job) -> int:
        for number in range(5):
            job.note({"line": str(number)})
        return 7

    async def follow(job: Job) -> list[str]:
        return [event["line"] async for event in job.follow() if event is not None and "line" in event]

    job = jobs.put(work)
    assert asyncio.run(follow(job)) == list("01234") and job.state == "done" and job.result == 7
    assert asyncio.run(follow(job)) == list("01234")  # also for who comes late


def test_the_queue_is_bounded_for_all_and_for_each(jobs: Jobs) -> None:
    go = threading.Event()
    one = [jobs.put(_held(go), "one") for _ in range(2)]  # type: ignore[arg-type]
    with pytest.raises(Full):
        jobs.put(_held(go), "one")  # type: ignore[arg-type]
    while one[0].state != "running":
        pass
    other = [jobs.put(_held(go), who) for who in ("two", "three")]  # type: ignore[arg-type]
    assert [jobs.place(job) for job in (*one, *other)] == [0, 0, 1, 2]
    with pytest.raises(Full):
        jobs.put(_held(go), "four")  # type: ignore[arg-type]
    go.set()
    assert all(job.wait(10) and job.result == "result" for job in (*one, *other))


def test_cancelling_ends_what_runs_and_what_waits(jobs: Jobs) -> None:
    go = threading.Event()
    running, waiting = (jobs.put(_held(go), who) for who in ("one", "two"))  # type: ignore[arg-type]
    jobs.cancel(waiting)
    assert waiting.state == "cancelled"
    jobs.cancel(running)
    assert running.wait(10) and running.state == "cancelled"
    go.set()
    assert jobs.put(_held(go)).wait(10)  # type: ignore[arg-type]


def test_who_fails_says_why_and_the_queue_goes_on(jobs: Jobs) -> None:
    def mistaken(job: Job) -> None:
        raise UserError("there is no such model")

    def broken(job: Job) -> None:
        raise ZeroDivisionError("secret")

    for work, why in ((mistaken, "there is no such model"), (broken, "ZeroDivisionError")):
        job = jobs.put(work)
        assert job.wait(10) and job.state == "failed" and why in job.error and "secret" not in job.error


def test_only_its_owner_finds_a_job(jobs: Jobs) -> None:
    job = jobs.put(lambda job: None, "anna")
    assert jobs.get(job.id, "anna") is job and jobs.get(job.id) is None and jobs.get(job.id, "otto") is None
