"""The probe of the machine's peaks: every path is there, every rate is one."""

from kernels.bench import roofline

from compactnets import kernels


def test_every_path_of_the_machine_and_every_level_of_its_memory_has_a_rate():
    rates = roofline.peaks()
    paths = {name.partition(".")[0] for name in rates}
    assert paths == {*kernels.supported(), "read"} - {"reference"}
    assert {name for name in rates if name.startswith("read.")} == {
        "read.l1", "read.l2", "read.l3", "read.memory"
    }  # fmt: skip
    assert all(0.01 < rate < 1e6 for rate in rates.values()), rates


def test_a_share_is_a_fraction_of_a_known_peak():
    name, rate = next(iter(roofline.peaks().items()))
    assert roofline.share(rate / 2, name) == 0.5
    assert roofline.share(rate, "no such loop") is None
