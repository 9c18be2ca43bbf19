"""A confined process loads no code: what an import would have done without a word, it does not do."""

from __future__ import annotations

import pytest

from common.messages import (
    CollectionOptions,
    DetectionTask,
    ErrorCode,
    HashCheck,
    ProcessFilter,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)
from tests.support.daemons import Procmond

# An import that finds nothing is not told apart from a library that is not installed; so all are told.
WATCH = """
import os, sys
from procmond import main

class Late:
    def find_spec(self, name, path=None, target=None):
        os.write(2, f"LATE IMPORT {name}\\n".encode())
        return None

original = main.supervise
watch = lambda: sys.meta_path.insert(0, Late())
main.supervise = lambda *given, **named: original(*given, **named, when_confined=watch)
sys.exit(main.main())
"""


class Watched(Procmond):
    program = ("-c", WATCH)


@pytest.mark.parametrize("collector", ["procfs", "psutil"])
def test_nothing_is_imported_once_a_process_is_confined(collector: str) -> None:
    with Watched("--collector", collector) as procmond:
        with procmond.connect() as client:
            assert client.ask(DetectionTask(task_id="n", task_type=TaskType.NEGOTIATE_CAPABILITIES))[
                0
            ].success
            assert client.ask(new_enumerate_task("e", stream=True, options=CollectionOptions()))[-1].success
            tree = DetectionTask(
                task_id="t",
                task_type=TaskType.MONITOR_PROCESS_TREE,
                process_filter=ProcessFilter(pids=(1,)),
                stream=True,
            )
            assert client.ask(tree)[-1].success
            assert client.ask(new_hash_check_task("h", HashCheck(executable_path="/bin/true")))[0].success
            refused = new_hash_check_task("r", HashCheck(executable_path="/etc/passwd"))
            assert client.ask(refused)[0].error_code is ErrorCode.REFUSED
            client.sock.sendall(bytes(8))
            assert client.receive() is not None
        assert procmond.stop() == 0
        assert procmond.log("peer_broke_contract")
        assert "LATE IMPORT" not in procmond.log_text()
        assert not procmond.log("child_ended")
