"""Plugins of other packages, installed for one process: a module and a dist-info folder on its path."""

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoints
from types import SimpleNamespace

import pytest

from hwbench import plugins
from hwbench.errors import PluginError, UsageError

GOOD = """
class Engine:
    name = "their-engine"
"""


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


class Site:
    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def install(self, package, *, module="", kind="engines", **points):
        """Install ``package`` with a module of its name, and entry points given as name=attribute."""
        self.folder.joinpath(f"{package}.py").write_text(textwrap.dedent(module))
        info = self.folder / f"{package}-1.0.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name.replace('_', '-')} = {value}\n" for name, value in points.items())
        info.joinpath("entry_points.txt").write_text(f"[hwbench.{kind}]\n{lines}")

    def run(self, code):
        """Run ``code`` where these packages are installed; returns what it prints."""
        start = f"import sys; sys.path.insert(0, {str(self.folder)!r})\n"
        done = subprocess.run(
            [sys.executable, "-c", start + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def error(self, call):
        """Return class, message and hint of what ``call`` raises there."""
        return self.run(f"""
            from hwbench import plugins
            from hwbench.errors import HwbenchError
            try:
                {call}
            except HwbenchError as error:
                print(type(error).__name__, error.message, error.hint, sep="|")
        """).split("|")


def test_ours_are_registered():
    assert {"onnxruntime", "openvino", "torch-compile", "torch-eager"} <= set(plugins.available("engines"))
    assert {"rapl", "replay"} <= set(plugins.available("meters"))
    assert {"cpu", "nvidia", "jetson", "android"} <= set(plugins.available("devices"))


@pytest.mark.parametrize("kind", plugins.GROUPS)
def test_listing_is_sorted_and_loads_by_that_name(kind):
    names = list(plugins.available(kind))
    assert names == sorted(names)
    for name in names:
        plugin = plugins.load(kind, name)
        assert kind == "compressors" or plugin.name == name  # a method goes by its entry point alone


def test_a_third_party_plugin_loads(site):
    site.install("theirs", module=GOOD, their_engine="theirs:Engine")
    assert (
        site.run("from hwbench import plugins; print(plugins.load('engines', 'their-engine').name)") == "their-engine"
    )


def test_listing_imports_nothing_and_lists_the_broken(site):
    site.install("theirs", module="raise RuntimeError('imported')", their_engine="theirs:Engine")
    listed = site.run("""
        import sys
        from hwbench import plugins
        print(*plugins.available("engines"), "theirs" in sys.modules)
    """).split()
    assert "their-engine" in listed
    assert "onnxruntime" in listed
    assert listed[-1] == "False"


VARIED = """
class Engine:
    name = "theirs"


class Varied(Engine):
    name = "theirs-slow"
    variant_of = "theirs"
"""


def test_a_variant_runs_only_where_it_is_named(site):
    site.install("theirs", module=VARIED, theirs="theirs:Engine", theirs_slow="theirs:Varied", broken="theirs:Nothing")
    code = """
        from hwbench import plugins

        known, unasked = set(plugins.available("engines")), set(plugins.default_engines())
        print(*sorted(known - unasked), "broken" in unasked)
    """
    assert site.run(code).split() == [
        *(
            "litert-builtin",
            "litert-openvino",
            "litert-webgpu",
            "theirs-slow",
            "torch-aoti",
            "torch-aoti-cuda-graph",
            "torch-compile-cuda-graph",
            "torch-cuda-graph",
            "torch-sparse24",
        ),
        "True",
    ]


@pytest.mark.parametrize(
    ("module", "value", "why"),
    [
        ("import no_such_module_anywhere", "theirs:Engine", "No module named 'no_such_module_anywhere'"),
        ("raise SystemExit('this plugin needs a licence')", "theirs:Engine", "this plugin needs a licence"),
        ("syntax error", "theirs:Engine", "invalid syntax"),
        (GOOD, "theirs:Motor", "Motor"),
        (GOOD, "their:Engine", "No module named 'their'"),
        ("class Engine:\n    def __init__(self): raise OSError('no driver')", "theirs:Engine", "no driver"),
        (GOOD, "not an entry point!", "'NoneType'"),
    ],
    ids=["import", "exit", "syntax", "attribute", "module", "constructor", "value"],
)
def test_a_broken_plugin_is_an_error_that_names_it(site, module, value, why):
    site.install("theirs", module=module, their_engine=value)
    kind, message, hint = site.error("plugins.load('engines', 'their-engine')")
    assert kind == "PluginError"
    assert f"the engine plugin 'their-engine' ({value} in theirs) does not import: " in message
    assert why in message
    assert "-v" in hint


def test_two_packages_of_one_name_are_refused(site):
    site.install("one", module=GOOD, their_engine="one:Engine")
    site.install("two", module=GOOD, their_engine="two:Engine")
    kind, message, hint = site.error("plugins.available('engines')")
    assert kind == "PluginError"
    assert "two engines plugins are called 'their-engine'" in message
    assert "one:Engine in one" in message
    assert "two:Engine in two" in message
    assert "uninstall" in hint


def test_a_plugin_cannot_take_the_name_of_ours(site):
    site.install("theirs", module=GOOD, onnxruntime="theirs:Engine")
    assert "hwbench.engines.onnxruntime:OnnxRuntime" in site.error("plugins.load('engines', 'onnxruntime')")[1]


def test_one_package_found_twice_is_one(site, tmp_path):
    site.install("theirs", module=GOOD, their_engine="theirs:Engine")
    again = Site(tmp_path / "again")
    again.install("theirs", module=GOOD, their_engine="theirs:Engine")
    code = f"sys.path.append({str(again.folder)!r}); from hwbench import plugins; print(*plugins.available('engines'))"
    assert site.run(code).split().count("their-engine") == 1


def test_the_other_kinds_are_not_touched(site):
    site.install("theirs", module="class M:\n    name = 'mine'", kind="meters", mine="theirs:M")
    assert site.run("from hwbench import plugins; print('mine' in plugins.available('engines'))") == "False"
    assert site.run("from hwbench import plugins; print(plugins.load('meters', 'mine').name)") == "mine"


def test_a_misspelt_name_lists_those_there_are():
    with pytest.raises(UsageError, match="no engine is called 'onnxrumtime'") as refused:
        plugins.load("engines", "onnxrumtime")
    assert "onnxruntime, openvino" in refused.value.hint


def test_nothing_registered_says_so(monkeypatch):
    monkeypatch.setattr(plugins, "_installed", lambda: EntryPoints(()))
    with pytest.raises(UsageError) as refused:
        plugins.find("meters", "rapl")
    assert "is hwbench installed" in refused.value.hint


def test_the_cause_is_kept(monkeypatch):
    class Broken:
        name, value, dist = "x", "x:X", None

        def load(self):
            raise ImportError("libfoo.so is missing")

    monkeypatch.setattr(plugins, "_installed", lambda: SimpleNamespace(select=lambda group: [Broken()]))
    with pytest.raises(PluginError, match=r"x:X in unknown package.*libfoo.so") as refused:
        plugins.load("meters", "x")
    assert isinstance(refused.value.__cause__, ImportError)
