"""Other machines, as text: ``tests/data/hosts/<name>.txt`` unpacked into a folder.

A line ``@ PATH = VALUE`` is a file of one line; ``@ PATH`` begins a file that goes on to the next ``@``. ``{0-3}`` in
a path makes four files, ``{}`` in the content is then that number. ``@ PATH * 0-3`` writes the content four times into
one file, as ``/proc/cpuinfo`` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hwbench.devices.tree import cpu_list

HOSTS = Path(__file__).parents[2] / "data" / "hosts"


@pytest.fixture
def host(tmp_path: Path) -> Callable[[str], Path]:
    def unpack(name: str) -> Path:
        root = tmp_path / name
        text = (HOSTS / f"{name}.txt").read_text()
        for chunk in re.split(r"^@ ", text, flags=re.MULTILINE)[1:]:
            head, _, body = chunk.partition("\n")
            _write(root, head, body.strip("\n"))
        return root

    return unpack


def _write(root: Path, head: str, body: str) -> None:
    path, equals, value = head.partition(" = ")
    content = value if equals else body
    path, star, repeat = path.partition(" * ")
    if star:
        content = "\n\n".join(content.replace("{}", str(n)) for n in cpu_list(repeat) or ())
    match = re.search(r"\{([\d,-]+)\}", path)
    numbers = cpu_list(match[1]) if match else None
    for number in numbers or (None,):
        name = path if number is None else path.replace(match[0], str(number))
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((content if number is None else content.replace("{}", str(number))) + "\n")
