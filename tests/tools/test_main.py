from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys

import pytest
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import InputError, UsageError
from delf_tf.tools import command_line, main

FLAGS = command_line.Flags()
FLAGS.add_count("num", "how many", 3)
FLAGS.add_text("raise_error", "which error", "")

_ERRORS = {
    "input": InputError("Bad\ninput."),
    "usage": UsageError("Bad usage."),
    "os": FileNotFoundError(2, "No such file", "x.jpg"),
    "interrupt": KeyboardInterrupt(),
}


def _tool(flags, *arguments):
    """Echoes."""
    if flags.raise_error:
        raise _ERRORS[flags.raise_error]
    command_line.write_result(f"{flags.num} {' '.join(arguments)}")


def _run(*argv):
    return command_line.run(_tool, FLAGS, ["delf_tf echo", *argv])


def test_flags_and_positional_arguments_mix(capsys):
    assert _run("a.jpg", "--num=5", "b.jpg") == 0
    assert capsys.readouterr().out == "5 a.jpg b.jpg\n"
    assert _run() == 0
    assert capsys.readouterr().out == "3 \n"


@pytest.mark.parametrize(
    ("argv", "code", "line"),
    [
        (["--raise_error=input"], 1, "delf_tf echo: Bad input."),
        (["--raise_error=usage"], 2, "delf_tf echo: Bad usage."),
        (["--raise_error=os"], 1, "No such file"),
        (["--raise_error=interrupt"], 130, "run the same command again"),
        (["--nmu=5"], 2, "nmu"),
        (["--num=five"], 2, "num"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(capsys, argv, code, line):
    assert _run(*argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert line in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "named", "told"),
    [
        # The system names a file when it is opened, not when it is written to.
        (errno.ENOSPC, False, ("room on the disk of {}", "free some space")),
        (errno.EDQUOT, False, ("room on the disk of {}", "free some space")),
        (errno.EROFS, True, ("{} must be readable and writable", "choose another place")),
        (errno.EACCES, True, ("{} must be readable and writable", "change its permissions")),
        (errno.EMFILE, True, ("{} must not be one open file too many", "ulimit -n")),
    ],
)
def test_what_a_disk_refuses_names_the_path(capsys, tmp_path, code, named, told):
    path = tmp_path / "out.bin"

    def tool(flags):
        """Writes."""
        with artifacts.atomic_write(path):
            raise OSError(code, os.strerror(code), str(path) if named else None)

    assert command_line.run(tool, FLAGS, ["delf_tf write"]) == 1
    line = capsys.readouterr().err
    for words in (*told, "run the same command again"):
        assert words.format(path) in line
    assert line.count("\n") == 1


def test_what_a_name_does_to_a_terminal_is_escaped(capsys):
    name = "a\x1b[2J\x9b\u202eb\udcff.jpg"

    def tool(flags):
        """Logs, prints, fails."""
        logging.warning("%s\nnot a line of ours", name)
        command_line.write_result(f"first\n{name}")
        raise InputError(f"Bad {name}")

    assert command_line.run(tool, FLAGS, ["delf_tf echo"]) == 1
    shown = capsys.readouterr()
    escaped = r"a\x1b[2J\x9b\u202eb\udcff.jpg"
    assert shown.out == f"first\n{escaped}\n"
    assert shown.err.splitlines() == [
        rf"{escaped}\nnot a line of ours",
        f"delf_tf echo: Bad {escaped}",
    ]


def test_numbers_out_of_range_are_usage_errors_of_every_tool(capsys):
    for name in main.TOOLS:
        tool = importlib.import_module(f"delf_tf.tools.{name}")
        for flag in ("num_threads", "num_workers", "num_processes", "num_shards", "batch_size"):
            if flag in tool.FLAGS:
                assert main.main(["delf_tf", name, f"--{flag}=0"]) == 2
                assert f"--{flag}=0" in capsys.readouterr().err
    assert main.main(["delf_tf", "serve", "--port=99999"]) == 2
    assert "--port=99999" in capsys.readouterr().err


def test_help_lists_the_flags(capsys):
    assert _run("--help") == 0
    assert "--num: how many (default: '3')" in capsys.readouterr().out


def test_a_tool_of_flags_alone_takes_nothing_else(capsys):
    def tool(flags):
        """Has flags alone."""

    assert command_line.run(tool, FLAGS, ["delf_tf tool"]) == 0
    assert command_line.run(tool, FLAGS, ["delf_tf tool", "a", "b"]) == 2
    assert "'a b'" in capsys.readouterr().err


def test_main_lists_and_suggests(capsys):
    assert main.main(["delf_tf"]) == 0
    assert "retrieve" in capsys.readouterr().out
    assert main.main(["delf_tf", "retreive"]) == 2
    assert "Did you mean 'retrieve'?" in capsys.readouterr().err
    assert main.main(["delf_tf", "quantize"]) == 2
    assert "Did you mean 'export'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", main.TOOLS)
def test_every_tool_has_flags_main_and_help(name, capsys):
    tool = importlib.import_module(f"delf_tf.tools.{name}")
    # What reads the flags is not hidden by one of that name.
    assert not [flag for flag in tool.FLAGS if hasattr(command_line.Flags, flag)]
    assert main.main(["delf_tf", name, "--help"]) == 0
    assert tool.__doc__.splitlines()[0] in capsys.readouterr().out


def test_runs_as_a_module(repository):
    argv = [sys.executable, "-m", "delf_tf.tools.visualize", "--no_such_flag"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 2
    assert done.stderr.startswith("delf_tf visualize: ")
