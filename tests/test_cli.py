"""The command line: what each command prints, its exit status, and what it leaves behind."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from gluon_convpool import _program, cli

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = [*cli.COMMANDS, 'bench']


def program(*words, start=('-m', 'gluon_convpool'), **options):
    return subprocess.run(
        [sys.executable, *start, *words], capture_output=True, text=True, timeout=300, **options
    )


def explained(capsys, *words):
    assert cli.main(['explain', *words, '--json', '-']) == 0
    return json.loads(capsys.readouterr().out)


# --------------------------------------------------------------------------- explain


def test_explain_of_a_padded_8x8_image(capsys):
    results = explained(capsys, '8,8', '--kernel', '3', '--stride', '2', '--padding', '1')
    assert results['output'] == [1, 1, 4, 4]  # floor((8 + 2 - 3) / 2) + 1
    assert results['receptive_field'] == [3, 3]
    assert results['parameters'] == 3 * 3 + 1
    assert results['multiply_adds'] == 4 * 4 * 9
    assert results['bytes'] == {'input': 256, 'parameters': 40, 'output': 64, 'total': 360}


def test_explain_of_a_rectangular_dilated_convolution_in_groups(capsys):
    words = ['2,8,10,12', '--kernel', '3,2', '--stride', '1,2', '--padding', '2,0']
    words += ['--dilation', '2,3', '--channels', '6', '--groups', '2', '--no-bias']
    results = explained(capsys, *words)
    assert results['receptive_field'] == [5, 4]
    assert results['output'] == [2, 6, 10, 5]  # (10 + 4 - 5) + 1, floor((12 - 4) / 2) + 1
    assert results['parameters'] == 6 * 4 * 3 * 2
    assert results['multiply_adds'] == 2 * 6 * 10 * 5 * (4 * 3 * 2)


def test_explain_of_a_pooling(capsys):
    words = ['3,8,8', '--pool', 'avg', '--kernel', '3', '--stride', '2']
    assert explained(capsys, *words)['output'] == [1, 3, 3, 3]
    results = explained(capsys, *words, '--ceil-mode')
    assert results['output'] == [1, 3, 4, 4]
    assert results['elements_read'] == 3 * 4 * 4 * 9
    assert results['parameters'] == 0
    assert explained(capsys, '8,8', '--pool', 'max', '--kernel', '2')['strides'] == [2, 2]


def test_explain_writes_the_arithmetic_and_draws_the_windows(capsys):
    assert cli.main(['explain', '3,4', '--kernel', '2', '--padding', '1,0', '--channels', '5']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert '  height: ⌊(3 + 2·1 - 2) / 1⌋ + 1 = ⌊3 / 1⌋ + 1 = 4' in lines
    assert '  width:  ⌊(4 + 2·0 - 2) / 1⌋ + 1 = ⌊2 / 1⌋ + 1 = 3' in lines
    drawn = lines.index('  1 * 2 .')
    assert lines[drawn : drawn + 5] == [
        '  1 * 2 .',
        '  1 * 2 o',
        '  o o o o',
        '  o o o o',
        '  . . . .',
    ]
    assert any(re.match(r'parameters +25 +weight 5·1·2·2 \+ 5$', line) for line in lines)
    assert any(re.match(r'multiply-adds +240 +1·5·4·3 outputs · 1·2·2$', line) for line in lines)


def test_explain_says_what_no_window_covers_and_what_reaches_over(capsys):
    cli.main(['explain', '8,8', '--kernel', '3', '--stride', '2'])
    assert 'at the end, 1 of 8 under no window' in capsys.readouterr().out
    cli.main(['explain', '8,8', '--kernel', '3', '--stride', '2', '--pool', 'max', '--ceil-mode'])
    assert 'the last window reaches 1 over the edge' in capsys.readouterr().out


@pytest.mark.parametrize(
    'words, sentence',
    [
        (['eight'], 'SIZE=eight: must be whole numbers'),
        (['8'], 'SIZE=8: must be two to four numbers'),
        (['1,2,3,4,5'], 'must be two to four numbers'),
        (['0,8'], 'SIZE=0,8: must be two to four numbers of at least 1'),
        (['8,8', '--kernel', '9'], 'a window of size (9, 9) with dilation=(1, 1) covers (9, 9)'),
        (['8,8', '--kernel', '0'], 'kernel_size=0, but every value must be at least 1'),
        (['8,8', '--kernel', 'x'], '--kernel=x: must be whole numbers'),
        (['8,8', '--padding=-1'], 'padding=-1, but every value must be at least 0'),
        (['8,8', '--kernel', '1,2,3'], 'kernel_size=(1, 2, 3) must be one integer or a tuple of 2'),
        (['8,8,8', '--groups', '3'], '(groups=3): channels=8 is not divisible by groups'),
        (['8,8', '--pool', 'max', '--groups', '2'], '--groups=2: a pooling has none'),
        (['8,8', '--pool', 'max', '--padding', '3'], 'padding=(3, 3) must be smaller than'),
        (['8,8', '--ceil-mode'], '--ceil-mode: is for a pooling'),
        (['8,8', '--json', '/nowhere/x.json'], '--json=/nowhere/x.json: there is no folder'),
    ],
    ids=str,
)
def test_explain_refuses_what_cannot_be(words, sentence, capsys):
    assert cli.main(['explain', *words]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.startswith('gluon-convpool explain')
    assert printed.out == ''


# --------------------------------------------------------------------------- all commands


@pytest.mark.parametrize('command', COMMANDS)
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, '--help'])
    assert stop.value.code == 0
    text = ' '.join(capsys.readouterr().out.split())
    assert 'Example' in text and f'gluon-convpool {command}' in text
    assert 'Exit status: 0' in text and '--json' in text


def test_the_program_without_a_command_says_which_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 2
    with pytest.raises(SystemExit):
        cli.main(['--help'])
    text = capsys.readouterr().out
    assert all(f'\n    {command} ' in text for command in COMMANDS)


def test_json_goes_to_a_file_beside_the_text(tmp_path, capsys):
    path = tmp_path / 'info.json'
    assert cli.main(['info', '--json', str(path)]) == 0
    assert json.loads(path.read_text())['mxnet'] == '1.9.1'
    assert 'MXNet 1.9.1' in capsys.readouterr().out
    assert os.listdir(tmp_path) == ['info.json']


def test_the_demo_writes_json_and_says_that_one_epoch_is_too_little(tmp_path):
    picture, path = tmp_path / 'demo.png', tmp_path / 'demo.json'
    done = program('demo', '--epochs', '1', '--output', picture, '--json', path)
    results = json.loads(path.read_text())
    low = results['accuracy']['ours'] < 0.97
    assert done.returncode == (1 if low else 0), done.stderr
    assert ('is below the 97%' in done.stderr) == low
    assert len(results['losses']['ours']) == len(results['losses']['mxnet']) == 1
    assert results['outputs']['largest'] <= 1e-5 * results['outputs']['scale']
    assert '\x1b' not in done.stdout + done.stderr
    assert sorted(os.listdir(tmp_path)) == ['demo.json', 'demo.png']
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_console_script_is_the_module():
    assert 'gluon-convpool = "gluon_convpool.cli:run_as_program"' in (
        ROOT / 'pyproject.toml'
    ).read_text(encoding='utf-8')
    words = ['explain', '5,5', '--kernel', '3']
    script = 'import sys; sys.argv[0] = "gluon-convpool"; from gluon_convpool import cli;'
    one = program(*words)
    other = program(*words, start=('-c', script + ' cli.run_as_program()'))
    assert one.returncode == other.returncode == 0
    assert one.stdout == other.stdout and '\x1b' not in one.stdout


def hear_interrupts():
    """In a child: what runs in the background ignores them, and so do the children of that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_the_demo_cleanly(tmp_path):
    running = subprocess.Popen(
        [sys.executable, '-u', '-m', 'gluon_convpool', 'demo', '--epochs', '1000'],
        cwd=tmp_path,
        preexec_fn=hear_interrupts,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in running.stdout:
        if 'epoch' in line:
            break
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert 'stopped' in errors and 'Traceback' not in errors
    assert os.listdir(tmp_path) == []


def test_ctrl_c_is_not_lost_where_python_cannot_raise_it():
    program = """
import signal, time
from gluon_convpool import cli

class Array:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # where Python sees the signal

def main():
    Array()
    for _ in range(600):
        time.sleep(0.1)

cli.start_again_with_threads, cli.main = (lambda: None), main
cli.run_as_program()
"""
    done = subprocess.run(
        [sys.executable, '-c', program],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=hear_interrupts,
    )
    assert (done.returncode, done.stderr) == (130, 'stopped\n')


def test_a_reader_who_has_enough_is_no_error():
    command = f'{sys.executable} -m gluon_convpool explain 24,24 | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[0].startswith('Convolution over')
    assert 'Traceback' not in done.stderr


def test_a_file_takes_the_place_of_another_only_when_it_is_whole(tmp_path):
    path = tmp_path / 'result.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), _program.replacing(path) as new:
        new.write_text('half')
        raise KeyboardInterrupt
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['result.txt']
    with _program.replacing(path) as new:
        new.write_text('new')
    assert path.read_text() == 'new' and os.listdir(tmp_path) == ['result.txt']
