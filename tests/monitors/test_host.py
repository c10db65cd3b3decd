"""The host monitor on files that the test writes, and on this machine."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from streamspec.monitors.gpu import GpuMonitor
from streamspec.monitors.host import HostMonitor
from streamspec.monitors.sockets import SocketMonitor, socket_use
from streamspec.testing.clock import ManualClock
from streamspec.testing.nvml import Device, StandInNvml

TICKS = os.sysconf("SC_CLK_TCK")
MEMINFO = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 250 kB\n" + "".join(
    f"{name}: 1 kB\n" for name in ("Buffers", "Cached", "Shmem", "Active", "Inactive", "Slab")
)
NET = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes ...\n"


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _proc(root: Path, *, busy: int, steal: int, own: int, network: int, pressure_us: int) -> None:
    """Counters of two cores: core 0 is busy and loses to the hypervisor what is given, core 2 is idle."""
    idle = 1000 - busy - steal
    _write(
        root,
        {
            "stat": f"cpu  0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu2 0 0 0 1000 0 0 0 0 0 0\nbtime 1\n",
            "meminfo": MEMINFO,
            "loadavg": "1.50 1.00 0.50 2/100 999\n",
            "77/stat": f"77 (a b) c) S 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0 1 0 5 0 0\n",
            "pressure/cpu": f"some avg10=1.00 avg60=0.00 avg300=0.00 total={pressure_us}\n",
            "net/dev": NET + f"  eth0: {network} {network} 1 {network} 0 0 0 0 {network} 2 0 0 0 0 0 0\n"
            "    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n",
            "net/softnet_stat": f"00000010 {network:08x} 00000002 0 0 0 0 0 0 0 0\n",
        },
    )


def test_ratios_are_over_the_time_between_two_samples(tmp_path: Path) -> None:
    proc, sys, clock = tmp_path / "proc", tmp_path / "sys", ManualClock()
    _write(sys, {"devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n"})
    _proc(proc, busy=0, steal=0, own=0, network=0, pressure_us=0)
    monitor = HostMonitor(proc=proc, sys=sys, usable=frozenset({0, 2}), clock=clock)
    first = monitor.sample([77])
    assert (first.busy_ratio, first.network, first.memory_available_bytes) == (0.0, {}, 250 * 1024)
    text = (proc / "stat").read_text().replace("cpu2 0 0 0 1000", "cpu2 0 0 0 2000")
    clock.advance(2.0)
    _proc(proc, busy=600, steal=200, own=TICKS, network=1000, pressure_us=500_000)
    (proc / "stat").write_text(text.replace("cpu0 0 0 0 1000 0 0 0 0", "cpu0 600 0 0 1200 0 0 0 200"))
    sample = monitor.sample([77, 78])
    assert sample.interval_seconds == 2.0
    assert sample.core_busy == {0: 0.6, 2: 0.0}
    assert sample.busy_ratio == pytest.approx(0.3)
    assert sample.steal_ratio == pytest.approx(0.1)
    assert sample.own_busy_ratio == pytest.approx(0.25)  # one second of two cores in two
    assert sample.pressure == {"cpu": 0.25}
    assert sample.frequency_hertz == {0: 2.4e9}
    assert set(sample.network) == {"eth0"}
    assert sample.network["eth0"].received_bytes == 500
    assert sample.network["eth0"].received_drops == 500
    assert sample.backlog_drops == 500
    assert sample.load == 1.5
    state = sample.state
    assert state.cpu_busy_ratio == pytest.approx(0.3)
    assert state.others_busy_ratio == pytest.approx(0.05)
    assert (state.pressure_ratio, state.memory_available_ratio) == (0.25, 0.25)


def test_psutil_reads_the_real_root_again_afterwards(tmp_path: Path) -> None:
    import psutil

    _proc(tmp_path, busy=0, steal=0, own=0, network=0, pressure_us=0)
    HostMonitor(proc=tmp_path, usable=frozenset({0})).sample()
    assert psutil.virtual_memory().total > 1 << 20


def test_this_machine_within_the_budget_of_an_event_loop() -> None:
    monitor, sockets = HostMonitor(), SocketMonitor()
    monitor.sample([os.getpid()])
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    sample = monitor.sample([os.getpid()])
    assert 0 < sample.busy_ratio <= 1
    assert 0 < sample.own_busy_ratio <= 1
    assert set(sample.core_busy) == os.sched_getaffinity(0)
    assert 0 < sample.memory_available_bytes < sample.memory_total_bytes
    costs = []
    for _ in range(10):
        begun = time.thread_time()
        monitor.sample([os.getpid()])
        sockets.sample()
        costs.append(time.thread_time() - begun)
    assert min(costs) < 0.002


def test_drops_of_a_socket_are_seen_and_so_are_the_hosts() -> None:
    monitor = SocketMonitor()
    monitor.sample()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(200):
            sender.sendto(b"x" * 1000, receiver.getsockname())
        use = socket_use(receiver.fileno())
        assert use is not None
        assert use.drops > 100
        assert 0 < use.receive_queue_bytes <= use.receive_limit_bytes + 4096
        assert monitor.sample()["Udp.RcvbufErrors"] >= use.drops
        assert monitor.sample()["Udp.RcvbufErrors"] >= 0
    assert socket_use(receiver.fileno()) is None


def test_gpus_and_mig_instances_are_listed_and_a_lost_one_is_left_out() -> None:
    mig = Device(instances=[Device(total=5, used=1, uuid="MIG-x")])
    devices = [
        Device(total=10, used=4, processes={7: 4, 8: None}, gpu_percent=80, temperature=61),
        mig,
        Device(broken=True),
    ]
    library = StandInNvml(devices)
    monitor = GpuMonitor(library)
    first, instance = monitor.sample()
    assert (first.place, first.busy_ratio, first.used_bytes, first.temperature_celsius) == ("0", 0.8, 4, 61.0)
    assert first.power_watts == 50.0
    assert (first.clock_hertz, first.memory_clock_hertz, first.by_pid) == (1.5e9, 2.6e9, {"7": 4})
    assert (instance.place, instance.total_bytes) == ("MIG-x", 5)
    monitor.close()
    assert library.sessions == 0


def test_a_host_without_a_gpu_says_why_once() -> None:
    monitor = GpuMonitor(StandInNvml([], driver=False))
    assert monitor.sample() == ()
    assert monitor.reason == "Driver Not Loaded"
    real = GpuMonitor()
    assert real.sample() or real.reason
    real.close()
