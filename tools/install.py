"""Set up a virtual environment with gluon_convpool in it: what the Makefile's targets call.

Run by any Python 3.8 or newer with nothing installed; it makes the environment and goes on inside
it. The package is installed in place (editable), so a changed Python file needs no new
installation; a changed C++ file, compiler or list of dependencies is noticed and acted upon.
Everything that is installed stands in pyproject.toml.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'gluon_convpool'

# NumPy below 2, which MXNet's metadata asks for, has no ready-made build from this Python on, and
# our aliases make MXNet run with NumPy 2.
FIRST_PYTHON_WITHOUT_NUMPY_1 = (3, 13)
# Older ones know neither editable installations without setup.py nor today's wheel tags.
OLDEST_PIP = '21.3'


def stop(sentence: str) -> None:
    raise SystemExit(f'error: {sentence}')


def call(*command: str | os.PathLike[str]) -> None:
    status = subprocess.call([str(part) for part in command], cwd=ROOT)
    if status != 0:
        raise SystemExit(status)


def make_environment(folder: Path) -> Path:
    """Return the interpreter of the environment in `folder`, which is made where it is missing."""
    python = folder / 'bin' / 'python'
    wanted = f'{sys.version_info[0]}.{sys.version_info[1]}'
    if python.exists():
        probe = [str(python), '-c', "import pip, sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            found = subprocess.run(probe, stdout=subprocess.PIPE, text=True).stdout
        except OSError:
            found = ''
        if found.strip() == wanted:
            return python
        print(f'making {folder} anew for Python {wanted}', flush=True)
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop(f'Python {wanted} cannot make virtual environments here: apt install python3-venv')
    call(sys.executable, '-m', 'venv', '--clear', folder)
    return python


# From here on everything runs inside the environment, where pip brings the parsers along.


def read_project() -> dict:
    try:
        import tomllib
    except ImportError:
        from pip._vendor import tomli as tomllib  # type: ignore[no-redef]
    return tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def upgrade_old_pip() -> None:
    import pip
    from pip._vendor.packaging.version import Version

    if Version(pip.__version__) < Version(OLDEST_PIP):
        call(sys.executable, '-m', 'pip', 'install', '--quiet', '--upgrade', 'pip')
        os.execv(sys.executable, [sys.executable, *sys.argv])


def with_extras(project: dict, extras: list[str]) -> list[str]:
    """List the requirements of the package and of its extras, which may name one another."""
    from pip._vendor.packaging.requirements import Requirement

    own = project['name']
    offered = project['optional-dependencies']
    requirements = list(project['dependencies'])
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        if extra not in offered:
            stop(f'unknown extra {extra!r}: pyproject.toml has {", ".join(sorted(offered))}')
        seen.add(extra)
        for requirement in offered[extra]:
            parsed = Requirement(requirement)
            if parsed.name == own:
                waiting.extend(parsed.extras)
            else:
                requirements.append(requirement)
    return requirements


def requirements_of_mxnet(numpy: str) -> list[str]:
    """List what the installed MXNet requires, its pin on NumPy only where that can be kept."""
    from importlib import metadata

    from pip._vendor.packaging.requirements import Requirement

    keep_pin = not numpy and sys.version_info < FIRST_PYTHON_WITHOUT_NUMPY_1
    required = [Requirement(text) for text in metadata.requires('mxnet') or []]
    return [str(one) for one in required if keep_pin or one.name != 'numpy']


def fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def native_sources() -> list[tuple[str, bytes]]:
    paths = [ROOT / 'pyproject.toml', ROOT / 'setup.py', PACKAGE / 'geometry.py']
    paths += sorted((PACKAGE / 'native').rglob('*'))
    return [(str(path), path.read_bytes()) for path in paths if path.is_file()]


def build_result() -> tuple[str, bool]:
    """Tell what the last build left in the package, whichever environment it was for."""
    report = PACKAGE / '_build.json'
    text = report.read_text(encoding='utf-8') if report.exists() else ''
    return text, (PACKAGE / 'libconvpool.so').exists()


def install(extras: list[str], numpy: str) -> None:
    upgrade_old_pip()
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    config = read_project()
    project = config['project']
    stamp = Path(sys.prefix) / 'gluon_convpool.json'
    state = json.loads(stamp.read_text()) if stamp.exists() else {}
    if state.get('numpy', numpy) != numpy:
        state = {}
    extras = sorted({*extras, *state.get('extras', [])})
    requirements = with_extras(project, extras)
    build_requirements = config['build-system']['requires']

    dependencies = fingerprint(requirements, build_requirements, numpy)
    if state.get('dependencies') != dependencies:
        print(f'installing what {", ".join(["gluon_convpool", *extras])} needs', flush=True)
        mxnet = [one for one in requirements if one.startswith('mxnet')]
        others = [one for one in requirements if not one.startswith('mxnet')]
        call(*pip, '--no-deps', *mxnet)
        others += [*build_requirements, *requirements_of_mxnet(numpy), *filter(None, [numpy])]
        # Where MXNet's pin is dropped on purpose, pip need not complain about it.
        call(*pip, '--no-warn-conflicts', *others)

    compiler = os.environ.get('CXX') or 'g++'
    settings = [compiler, shutil.which(compiler), os.environ.get('CONVPOOL_WERROR')]
    if state.get('package') != fingerprint(native_sources(), settings, build_result()):
        print('building and installing gluon_convpool', flush=True)
        # The build requirements are installed above: a rebuild needs no package index.
        call(*pip, '--no-deps', '--no-build-isolation', '--editable', ROOT)
        call(sys.executable, '-m', 'gluon_convpool', 'info')

    state = {
        'numpy': numpy,
        'extras': extras,
        'dependencies': dependencies,
        'package': fingerprint(native_sources(), settings, build_result()),
    }
    stamp.write_text(json.dumps(state))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument(
        '--venv', type=Path, default=ROOT / '.venv', help='folder of the environment'
    )
    parser.add_argument('--extras', default='', help='comma-separated extras of pyproject.toml')
    parser.add_argument('--numpy', default='', help="NumPy to install, such as 'numpy>=2'")
    parser.add_argument('--inside', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if sys.version_info < (3, 8):  # noqa: UP036 (this file runs before pip reads requires-python)
        stop('Python 3.8 or newer is needed (make PYTHON=/path/to/python3 …)')
    if options.inside:
        install([extra for extra in options.extras.split(',') if extra], options.numpy)
    else:
        python = make_environment(options.venv.resolve())
        call(python, Path(__file__).resolve(), '--inside', *sys.argv[1:])


if __name__ == '__main__':
    main()
