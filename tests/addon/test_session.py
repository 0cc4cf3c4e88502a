"""Job records: found, updated, adopted from the server's list, never made older than they are."""

from blender_addon.client_errors import Offline
from blender_addon.session import JobRecord, Session
from blender_addon.wire import Job


def job(number: int, state: str = "queued", **more) -> Job:
    return Job(id=f"{number:032x}", title=f"{number}.png", state=state, **more)


def ids(session):
    return [int(record.id, 16) if record.id else None for record in session]


def test_a_record_from_click_to_end():
    session = Session()
    record = session.add(JobRecord(ticket=4, title="mug"))
    assert record.state == "sending" and not record.finished and session.active == [record]
    assert session.by_ticket(4) is record and session.by_ticket(0) is None
    assert session.find(record.key) is record and session.find("") is None
    record.id = job(1).id
    assert session.update(job(1, "running", last_event=3)) is record
    assert session.find(record.id) is record and record.title == "mug" and record.state == "running"
    session.update(job(1, "succeeded", last_event=9))
    assert record.finished and session.counts.finished == 1 and session.counts.total == 1
    session.remove(record)
    assert len(session) == 0 and session.update(job(1)) is None


def test_a_record_that_was_not_taken_is_finished():
    record = JobRecord(error=Offline("Nobody is there"))
    assert record.finished and record.state == "failed"


def test_answers_that_were_overtaken_change_nothing():
    session = Session()
    session.adopt([job(1, "running", attempt=1, last_event=9)])
    session.update(job(1, "running", attempt=1, last_event=4))
    assert session.find(job(1).id).job.last_event == 9
    session.update(job(1, "running", attempt=2, last_event=12))
    session.update(job(1, "succeeded", attempt=2, last_event=20))
    session.update(job(1, "running", attempt=2, last_event=20))
    assert session.find(job(1).id).state == "succeeded"


def test_adopting_keeps_what_is_wanted_and_the_servers_order():
    session = Session()
    old = session.add(JobRecord(id=job(1).id, purpose="replace", wanted=True))
    unsent = session.add(JobRecord(ticket=7))
    new = session.adopt([job(3), job(2, "succeeded"), job(1, "running")])
    assert [int(record.id, 16) for record in new] == [3, 2]
    assert ids(session) == [None, 3, 2, 1]
    assert old.purpose == "replace" and old.wanted and old.state == "running" and not new[0].wanted
    assert session.adopt([job(3), job(2, "succeeded"), job(1, "running")]) == []
    assert ids(session) == [None, 3, 2, 1] and session.by_ticket(7) is unsent


def test_walking_while_removing():
    session = Session()
    session.adopt([job(number) for number in range(1, 6)])
    for record in session:
        session.remove(record)
    assert len(session) == 0
