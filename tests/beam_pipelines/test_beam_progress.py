import io

from beam_pipelines import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_workers_add_up_and_report_anew(tmp_path):
    assert progress.total(tmp_path) == 0
    for worker, done in (("00000", 5), ("00001", 7), ("00000", 9)):
        progress.report(tmp_path, worker, done)
    assert progress.total(tmp_path) == 16


def test_a_pipe_gets_a_line_a_stage(tmp_path):
    stream = io.StringIO()
    with progress.stage("read", folder=tmp_path, unit="rows", stream=stream):
        progress.report(tmp_path, "0", 1234)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("read ")
    assert "1,234 rows" in line
    assert line.endswith(" s")


def test_a_terminal_line_is_rewritten(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_TTY_SECONDS", 0.001)
    stream = Terminal()
    with progress.stage("read", folder=tmp_path, unit="rows", stream=stream):
        while stream.getvalue().count("\r") < 2:
            pass
    assert stream.getvalue().count("\n") == 1


def test_a_failed_stage_is_not_reported_as_done(tmp_path):
    stream = io.StringIO()
    try:
        with progress.stage("read", folder=tmp_path, unit="rows", stream=stream):
            raise ValueError
    except ValueError:
        assert stream.getvalue() == ""
