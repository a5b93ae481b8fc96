import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import fixtures_results
import msgspec
import pytest

from hwbench import files
from hwbench.errors import StorageError
from hwbench.files import decode, encode, parse_record, read_record, write_bytes, write_record
from hwbench.records.base import Missing, Record
from hwbench.records.measurement import PROFILE_RESULT_SCHEMA, ProfileResult, StopRule


class Note(Record, frozen=True, kw_only=True):
    schema_version: int
    text: str
    size_bytes: int | Missing = 0


NOTE = Note(schema_version=3, text="µ", size_bytes=Missing(code="hidden", why="it is"))


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWrite:
    def test_round_trip(self, tmp_path):
        path = tmp_path / "new" / "folder" / "note.json"
        write_record(path, NOTE)
        assert read_record(path, Note, schema=3) == NOTE
        assert path.read_bytes().endswith(b"}\n")
        assert left_behind(path.parent) == ["note.json"]

    def test_mode_follows_the_umask(self, tmp_path):
        before = os.umask(0o027)
        try:
            write_bytes(tmp_path / "a", b"x")
        finally:
            os.umask(before)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.chmod"])
    @pytest.mark.parametrize(
        "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "^C"]
    )
    def test_a_failure_on_the_way_leaves_the_old_content_alone(self, tmp_path, monkeypatch, step, failure):
        path = tmp_path / "a.json"
        path.write_bytes(b"old")

        def fail(*_, **__):
            raise failure

        monkeypatch.setattr(step, fail)
        expected = StorageError if isinstance(failure, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            write_bytes(path, b"new")
        monkeypatch.undo()
        assert path.read_bytes() == b"old"
        assert left_behind(tmp_path) == ["a.json"]

    def test_a_crash_on_the_way_leaves_the_old_content(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_bytes(b"old")
        code = f"""
            import os
            from pathlib import Path
            from hwbench.files import write_bytes
            Path.replace = lambda *_: os._exit(9)
            write_bytes(Path({str(path)!r}), b"new" * 1000)
        """
        assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 9
        assert path.read_bytes() == b"old"

    def test_the_data_is_on_disk_before_it_takes_the_name(self, tmp_path, monkeypatch):
        steps = []
        real_fsync, real_replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("fsync"), real_fsync(handle)))
        monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("replace"), real_replace(self, to)))
        write_bytes(tmp_path / "a", b"x")
        assert steps == ["fsync", "replace"]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_a_full_device(self):
        with pytest.raises(StorageError, match="cannot write /dev/full: No space left on device"):
            write_bytes(Path("/dev/full"), b"x")

    def test_a_file_size_limit(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_bytes(b"old")
        code = f"""
            import resource
            from pathlib import Path
            from hwbench.errors import StorageError
            from hwbench.files import write_bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
            try:
                write_bytes(Path({str(path)!r}), b"new" * 10_000)
            except StorageError as error:
                print(error)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        assert "File too large" in done.stdout
        assert path.read_bytes() == b"old"
        assert left_behind(tmp_path) == ["a.json"]

    def test_a_pipe_is_written_directly(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_bytes(pipe, b"through")
        assert os.read(reader, 100) == b"through"
        os.close(reader)
        assert pipe.is_fifo()

    def test_standard_output(self, tmp_path):
        code = (
            "from pathlib import Path; from hwbench.files import write_bytes; write_bytes(Path('/dev/stdout'), b'out')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=tmp_path)
        assert done.stdout == b"out"

    def test_where_it_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match=r"cannot write .*file/inside.json: "):
            write_bytes(tmp_path / "file" / "inside.json", b"x")
        (tmp_path / "folder").mkdir()
        with pytest.raises(StorageError, match=r"cannot write .*/folder: Is a directory"):
            write_bytes(tmp_path / "folder", b"x")

    def test_text_that_is_no_unicode(self, tmp_path):
        name = b"caf\xe9.onnx".decode("utf-8", "surrogateescape")
        with pytest.raises(StorageError, match=r"Note cannot be written as JSON: .*caf") as refused:
            write_record(tmp_path / "a", Note(schema_version=3, text=name))
        str(refused.value).encode()  # the message itself can be printed


class TestRead:
    def note(self, text, **keywords):
        return parse_record(text.encode(), Note, schema=3, what="note.json", **keywords)

    def test_newer_is_refused_with_the_remedy(self):
        with pytest.raises(StorageError, match=r"newer hwbench \(format 4; this one reads up to 3\)") as refused:
            self.note('{"schema_version": 4, "text": "x", "field of the future": 1}')
        assert refused.value.hint == "upgrade hwbench to read it"

    def test_migrations_run_in_order(self):
        steps = []

        def first(raw):
            steps.append((1, raw["schema_version"]))
            return {"schema_version": 1, "texts": [raw["t"]]}

        def second(raw):
            steps.append((2, raw["schema_version"]))
            return {"text": raw["texts"][0]}

        note = self.note('{"schema_version": 1, "t": "x"}', migrations={2: second, 1: first})
        assert note == Note(schema_version=3, text="x")
        assert steps == [(1, 1), (2, 2)]

    @pytest.mark.parametrize("migrations", [None, {}, {1: dict}])
    def test_a_missing_migration(self, migrations):
        with pytest.raises(StorageError, match="has format 2, and there is no upgrade from it to 3"):
            self.note('{"schema_version": 2, "text": "x"}', migrations=migrations)

    def test_a_file_that_its_migration_cannot_read(self):
        with pytest.raises(StorageError, match=r"not a valid file of format 2: KeyError: 't'"):
            self.note('{"schema_version": 2}', migrations={2: lambda raw: {"text": raw["t"]}})

    @pytest.mark.parametrize(
        "text",
        ["", "not json", "{", "[" * 100_000, '{"schema_version": 3, "text": "x", "size_bytes": NaN}', "{'text': 1}"],
        ids=["empty", "words", "cut", "deep", "NaN", "python"],
    )
    def test_what_is_not_json(self, text):
        with pytest.raises(StorageError, match=r"note.json is not JSON"):
            self.note(text)

    def test_not_utf8(self):
        with pytest.raises(StorageError, match="is not JSON"):
            parse_record(b'{"schema_version": 3, "text": "\xff"}', Note, schema=3, what="note.json")

    @pytest.mark.parametrize(
        "text",
        ["[]", "3", "null", "{}", *(f'{{"schema_version": {v}}}' for v in ("0", "-1", "true", '"3"', "3.0", "null"))],
    )
    def test_without_a_version_it_is_not_ours(self, text):
        with pytest.raises(StorageError, match="has no schema_version: it is not a Note file"):
            self.note(text)

    @pytest.mark.parametrize(
        ("text", "where"),
        [
            ('{"schema_version": 3}', "missing required field `text`"),
            ('{"schema_version": 3, "text": 1}', r"\$\.text"),
            ('{"schema_version": 3, "text": "x", "sise": 1}', "unknown field `sise`"),
            (
                '{"schema_version": 3, "text": "x", "size_bytes": {"kind": "missing", "code": 1}}',
                r"\$\.size_bytes\.code",
            ),
            ('{"schema_version": 3, "text": "x", "size_bytes": null}', r"\$\.size_bytes"),
        ],
    )
    def test_what_does_not_fit_is_named(self, text, where):
        with pytest.raises(StorageError, match=where):
            self.note(text)

    def test_the_path_into_a_result(self):
        raw = msgspec.to_builtins(fixtures_results.full_result())
        raw["measurements"][0]["built"] = 7
        data = msgspec.json.encode(raw)
        with pytest.raises(StorageError, match=r"`\$\.measurements\[0\]\.built`"):
            parse_record(data, ProfileResult, schema=PROFILE_RESULT_SCHEMA, what="result.json")

    def test_a_check_of_the_record_has_the_path_too(self):
        raw = msgspec.to_builtins(fixtures_results.full_result())
        raw["measurements"][1]["samples_ns"] = []
        with pytest.raises(StorageError, match=r"a run needs samples - at `\$\.measurements\[1\]`"):
            parse_record(msgspec.json.encode(raw), ProfileResult, schema=PROFILE_RESULT_SCHEMA, what="result.json")

    @pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e400", "-1e400"])
    def test_numbers_beyond_measure(self, number):
        raw = encode(fixtures_results.full_result()).replace(b'"memory_bytes": 17179869184', b'"memory_bytes": N')
        assert b": N" in raw
        data = raw.replace(b": N", f": {number}".encode())
        with pytest.raises(StorageError, match=r"result.json is not"):
            parse_record(data, ProfileResult, schema=PROFILE_RESULT_SCHEMA, what="result.json")

    def test_missing_file_and_folder(self, tmp_path):
        with pytest.raises(StorageError, match="No such file"):
            read_record(tmp_path / "no.json", Note, schema=3)
        with pytest.raises(StorageError, match="Is a directory"):
            read_record(tmp_path, Note, schema=3)

    def test_a_record_without_a_version(self):
        rule = StopRule(name="count", settings={"count": 3.0})
        assert decode(encode(rule), StopRule, what="a rule") == rule
        with pytest.raises(StorageError, match=r"a rule is not a valid StopRule: .*settings"):
            decode(b'{"name": "count", "settings": 3}', StopRule, what="a rule")
        with pytest.raises(StorageError, match="a rule is not a valid StopRule"):
            decode(b"[" * 100_000, StopRule, what="a rule")


def test_names_of_the_files_in_a_run():
    assert (files.RESULT, files.REQUEST) == ("result.json", "request.json")


def test_a_missing_file_names_those_that_are_near(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(StorageError) as caught:
        files.read_bytes(tmp_path / "results.json")
    assert caught.value.hint == f"did you mean {tmp_path / 'result.json'}?"
    with pytest.raises(StorageError) as caught:
        files.read_bytes(tmp_path / "nowhere" / "results.json")
    assert caught.value.hint is None
