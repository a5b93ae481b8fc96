"""The contract of a device finder."""

from __future__ import annotations

import threading
import time

import pytest

from hwbench.files import decode, encode
from hwbench.protocols import DeviceFinder
from hwbench.records.device import Found
from hwbench.testing.basics import assert_explained, assert_name, assert_support


class DeviceFinderContract:
    """What every device finder must do, whether or not it finds anything here."""

    longest_s = 2.0  # a tenth of a second is meant; the rest is for a busy machine

    def make(self) -> DeviceFinder:
        """Return the finder under test."""
        raise NotImplementedError("override make()")

    @pytest.fixture
    def found(self) -> Found:
        """What it finds here."""
        return self.make().find()

    def test_name(self) -> None:
        """A name that can be typed."""
        assert_name(self.make().name)

    def test_devices_or_reasons(self, found: Found) -> None:
        """Devices, or why there are none."""
        assert_support(found.absent)
        assert found.devices or found.absent.reasons, "it found nothing and does not say why"

    def test_devices_can_be_named(self, found: Found) -> None:
        """Each device has a name of its own, a title and a fingerprint."""
        names = [device.name for device in found.devices]
        assert len(names) == len(set(names)), f"two devices go by one name: {names}"
        for device in found.devices:
            assert_name(device.name)
            assert device.title.strip()
            assert device.fingerprint.strip()
            if not isinstance(device.profile, str):
                assert_explained(device.profile)

    def test_devices_can_be_saved(self, found: Found) -> None:
        """What was found is the same after it was written and read."""
        assert decode(encode(found), Found, what="what was found") == found

    def test_finding_changes_nothing(self, found: Found) -> None:
        """A second look finds the same devices: nothing in a fingerprint varies, and no thread is left running."""
        threads = set(threading.enumerate())
        again = self.make().find()
        assert [(d.name, d.fingerprint) for d in again.devices] == [(d.name, d.fingerprint) for d in found.devices]
        assert set(threading.enumerate()) <= threads

    def test_is_quick(self) -> None:
        """``hwbench devices`` asks every finder."""
        finder = self.make()
        finder.find()
        start = time.perf_counter()
        finder.find()
        assert time.perf_counter() - start < self.longest_s
