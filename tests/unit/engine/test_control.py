"""The pipe between the parent and its children, when one end dies in the middle of a word."""

import asyncio
import os
import socket

from app.engine.control import BlockingControl, Control


def test_lines_go_both_ways() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        here, there = await Control.open(ours), await Control.open(theirs)
        here.send({"kind": "a"})
        there.send({"kind": "b"})
        assert await anext(there.lines()) == {"kind": "a"}
        assert await anext(here.lines()) == {"kind": "b"}
        here.close()
        there.close()

    asyncio.run(scenario())


def test_a_path_that_is_not_utf8_arrives_as_it_was() -> None:
    line = {"path": os.fsdecode(b"/models/caf\xe9")}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        BlockingControl(ours).send(line)
        control = BlockingControl(theirs)
        assert control.receive() == line
        control._file.close()


def test_a_line_that_was_cut_short_is_the_end() -> None:
    async def scenario() -> list[dict[str, object]]:
        ours, theirs = socket.socketpair()
        theirs.sendall(b'{"kind": "a"}\n{"kind": "b')
        theirs.close()
        here = await Control.open(ours)
        lines = [line async for line in here.lines()]
        here.close()
        return lines

    assert asyncio.run(scenario()) == [{"kind": "a"}]


def test_a_blocking_end_reads_whole_lines_alone_and_forgives_a_parent_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b'{"kind": "a"}\n{"kind": "b')
    theirs.close()
    control = BlockingControl(ours)
    assert list(control.lines()) == [{"kind": "a"}]
    control.send({"kind": "c"})
    control._file.close()
    ours.close()
