"""Every registered device finder keeps the contract of a finder, on whatever machine this is."""

import pytest

from hwbench import plugins
from hwbench.testing import DeviceFinderContract


@pytest.fixture(params=list(plugins.available("devices")), autouse=True)
def finder(request):
    return request.param


class TestRegisteredFinders(DeviceFinderContract):
    @pytest.fixture(autouse=True)
    def _choose(self, finder):
        self.chosen = finder

    def make(self):
        return plugins.load("devices", self.chosen)

    def test_its_name_is_its_entry_point(self, finder):
        assert self.make().name == finder
