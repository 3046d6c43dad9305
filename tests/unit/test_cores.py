"""Cores that a container leaves a process, from described files."""

import pytest

from diffuspec import cores

V1 = "4:memory:/a\n3:cpu,cpuacct:/pod/box\n"


def described(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cores.cpu_quota(root)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "200000 100000\n", "proc/self/cgroup": "0::/\n"}, 2.0),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
                "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/pod/cpu.max": "400000 100000\n",
            },
            1.0,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/pod/box/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/pod/box/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (  # the path is the host's, the folder the container's
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"sys/fs/cgroup/cpu.max": "nonsense\n", "proc/self/cgroup": "\n::\n0\n"}, None),
    ],
)
def test_the_quota_of_described_groups(tmp_path, files, quota):
    assert described(tmp_path, files) == quota


@pytest.mark.parametrize(("quota", "used"), [(None, 8), (0.5, 1), (2.5, 2), (64.0, 8)])
def test_threads_are_as_many_as_affinity_and_quota_allow(monkeypatch, quota, used):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda _: quota)
    assert cores.usable_cores.__wrapped__() == used
