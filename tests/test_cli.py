"""The command `guim`: every subcommand answers --help with examples, and errors are one line."""

import pytest

from guim_tf import cli
from guim_tf.version import __version__


def test_without_arguments_it_lists_every_command(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    positions = [out.index(f"\n  {name} ") for name in cli.COMMANDS]
    assert positions == sorted(positions)
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_an_unknown_command_is_named(capsys):
    assert cli.main(["tarin"]) == 2
    assert "unknown command 'tarin'" in capsys.readouterr().err


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_shows_an_example_of_the_command_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: guim {command}")
    assert "example" in out
    assert out.count(f"guim {command}") >= 2


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_an_unknown_flag_is_refused(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--no-such-flag"])
    assert stop.value.code == 2
    assert "usage: guim" in capsys.readouterr().err
