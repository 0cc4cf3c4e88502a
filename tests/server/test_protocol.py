"""What server and worker say to each other: every message comes back whole, and nothing else is taken for one."""

import dataclasses
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.worker import protocol
from server.worker.protocol import MESSAGES, Memory, ProtocolError, decode, encode

UNTIMED = settings(deadline=None, database=None)
MEMORY = Memory(used_bytes=1, free_bytes=2**40, total_bytes=2**41)
EXAMPLES = [
    protocol.Run(
        job_id="a" * 32, title="größe\n✓", source="/d/source", folder="/d", options={"seed": 2**63 - 1}, max_bytes=2**31
    ),
    protocol.Cancel(job_id="a"),
    protocol.Exit(),
    protocol.Ready(device="cuda:0", device_title="NVIDIA H100", dtype="bfloat16", memory=MEMORY),
    protocol.StartFailed(message="there is no device 'cuda:9'"),
    protocol.Progress(job_id="a", stage="detail 64", step=3, steps=13),
    protocol.ArtifactWritten(job_id="a", name="mesh.glb", bytes=10, sha256="0f"),
    protocol.Note(job_id="a", message='a "note"'),
    protocol.Done(job_id="a", result={"vertices": 3, "tokens": {"detail 64": 7}, "watertight": True, "none": None}),
    protocol.Failed(job_id="a", kind="internal", message="It broke.", advice="Mend it.", fatal=True),
    protocol.Failed(job_id="a", kind="internal", message="It broke."),
    protocol.Cancelled(job_id="a"),
    protocol.Heartbeat(preset=None, memory=MEMORY),
    protocol.Heartbeat(preset="starter", memory=MEMORY),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def strategy(cls: type) -> st.SearchStrategy:
    """Any message of a class."""
    hints = typing.get_type_hints(cls)
    kinds = {
        str: st.text(),
        int: st.integers(),
        bool: st.booleans(),
        dict: st.dictionaries(st.text(), JSON, max_size=3),
        Memory: st.builds(Memory, used_bytes=st.integers(), free_bytes=st.integers(), total_bytes=st.integers()),
        str | None: st.none() | st.text(),
    }
    return st.builds(cls, **{field.name: kinds[hints[field.name]] for field in dataclasses.fields(cls)})


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_one_line(message):
    line = encode(message)
    assert decode(line) == message and type(decode(line)) is type(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii()


def test_the_examples_leave_no_message_out():
    assert {type(message) for message in EXAMPLES} == set(MESSAGES.values())
    assert set(MESSAGES.values()) == set(typing.get_args(protocol.Command) + typing.get_args(protocol.Event))


@UNTIMED
@given(st.one_of([strategy(cls) for cls in MESSAGES.values()]))
def test_any_content_comes_back(message):
    line = encode(message)
    assert decode(line) == message and line.count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b"Segmentation fault (core dumped)\n",
        b'{"type":"exit"',
        b'{"type":"exit"}{"type":"exit"}\n',
        b'{"type":"exit"}garbage\n',
        b'["type","exit"]\n',
        b'"exit"\n',
        b"null\n",
        b"7\n",
        b"\xff\xfe\x00\n",
        b"\x80\x04\x95pickle\n",
        b'{"type":"exit","job_id":"a"}\n',
        b'{"type":"EXIT"}\n',
        b'{"type":"shutdown"}\n',
        b'{"type":["exit"]}\n',
        b'{"type":{"a":1}}\n',
        b'{"type":null}\n',
        b'{"type":"cancel"}\n',
        b'{"type":"cancel","job_id":7}\n',
        b'{"type":"cancel","job_id":null}\n',
        b'{"type":"cancel","job_id":["a"]}\n',
        b'{"type":"progress","job_id":"a","stage":"load","step":true,"steps":3}\n',
        b'{"type":"progress","job_id":"a","stage":"load","step":1.0,"steps":3}\n',
        b'{"type":"progress","job_id":"a","stage":"load","step":"1","steps":3}\n',
        b'{"type":"done","job_id":"a","result":[]}\n',
        b'{"type":"done","job_id":"a","result":{"seconds":NaN}}\n',
        b'{"type":"done","job_id":"a","result":{"seconds":-Infinity}}\n',
        b'{"type":"failed","job_id":"a","kind":"internal","message":"x","fatal":1}\n',
        b'{"type":"heartbeat","preset":7,"memory":{"used_bytes":1,"free_bytes":1,"total_bytes":1}}\n',
        b'{"type":"heartbeat","preset":null,"memory":null}\n',
        b'{"type":"heartbeat","preset":null,"memory":{"used_bytes":1}}\n',
        b'{"type":"heartbeat","preset":null,"memory":{"used_bytes":1,"free_bytes":1,"total_bytes":1,"x":1}}\n',
        b"[" * 100_000 + b"\n",
        b'{"a":' * 100_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b'{"type":"cancel","job_id":"' + b"x" * 1000,
    ],
    ids=lambda line: repr(line[:60]),
)
def test_garbage_is_no_message(line):
    with pytest.raises(ProtocolError, match="is no message") as caught:
        decode(line)
    assert len(str(caught.value)) < 700, "only the start of it is quoted"


@UNTIMED
@given(st.binary(max_size=60))
def test_random_bytes_are_no_message(line):
    with pytest.raises(ProtocolError):
        decode(line)


@UNTIMED
@given(JSON)
def test_random_json_is_no_message(content):
    with pytest.raises(ProtocolError):
        decode(json.dumps(content).encode())


@UNTIMED
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_line_that_was_cut_short_is_no_message(message, data):
    line = encode(message).rstrip()
    end = data.draw(st.integers(0, len(line) - 1))
    with pytest.raises(ProtocolError):
        decode(line[:end])


@UNTIMED
@given(st.sampled_from([message for message in EXAMPLES if dataclasses.fields(message)]), st.data())
def test_a_message_without_one_of_its_fields_is_none(message, data):
    content = json.loads(encode(message))
    needed = [f.name for f in dataclasses.fields(message) if f.default is dataclasses.MISSING]
    del content[data.draw(st.sampled_from(needed))]
    with pytest.raises(ProtocolError):
        decode(json.dumps(content).encode())


def test_what_is_no_number_is_not_sent():
    with pytest.raises(ValueError, match="JSON"):
        encode(protocol.Done(job_id="a", result={"seconds": float("nan")}))
