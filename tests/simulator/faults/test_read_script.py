from simulator.faults.read_script import ReadScript, ScriptedRead


def test_each_step_is_used_once() -> None:
    """Steps are used for the next reads of one connection, in order."""
    script = ReadScript()
    script.add("c", [ScriptedRead(status=500), ScriptedRead(cut=True)])

    steps = [script.pop("d"), script.pop("c"), script.pop("c"), script.pop("c")]

    assert steps == [None, ScriptedRead(status=500), ScriptedRead(cut=True), None]
