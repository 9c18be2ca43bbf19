"""Control group paths as the container runtimes lay them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmond.collect.cgroups import cgroup_path, container_id

ID = "0123456789abcdef" * 4
POD = "pod2b5f6a7c_1111_2222_3333_444455556666"

CONTAINERS = {
    "docker, v1": f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n",
    "docker, v2": f"0::/system.slice/docker-{ID}.scope\n",
    "docker, v2 cgroupfs": f"0::/docker/{ID}\n",
    "docker, below": f"0::/system.slice/docker-{ID}.scope/init.scope\n",
    "containerd, v1": f"4:memory:/kubepods/burstable/{POD}/{ID}\n",
    "containerd, v2": f"0::/kubepods.slice/kubepods-{POD}.slice/cri-containerd-{ID}.scope\n",
    "containerd, colons": f"0::/system.slice/containerd.service/kubepods-{POD}.slice:cri-containerd:{ID}\n",
    "nerdctl, v2": f"0::/system.slice/nerdctl-{ID}.scope\n",
    "cri-o, v1": f"9:cpu,cpuacct:/kubepods.slice/kubepods-{POD}.slice/crio-{ID}.scope\n",
    "cri-o, v2": f"0::/kubepods.slice/kubepods-{POD}.slice/crio-{ID}.scope/container\n",
    "podman, v1": f"1:name=systemd:/machine.slice/libpod-{ID}.scope\n",
    "podman, v2": f"0::/machine.slice/libpod-{ID}.scope/container\n",
    "podman, cgroupfs": f"0::/libpod_parent/libpod-{ID}\n",
    "podman, rootless": f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope\n",
    "in another": f"0::/docker/{'f' * 64}/kubelet/kubepods/{POD}/{ID}\n",
    "hybrid": f"4:memory:/docker/{ID}\n0::/\n",
}
MACHINES = {
    "0::/machine.slice/systemd-nspawn@web.service/payload/system.slice/a.service\n": "web",
    "1:name=systemd:/machine.slice/systemd-nspawn@my-web.service/payload\n": "my-web",
    "0::/machine.slice/machine-my\\x2dweb.scope/init.scope\n": "my-web",
    "0::/machine.slice/systemd-nspawn@web.service/supervisor\n": "",
    "0::/machine.slice/machine-web.scope/supervisor\n": "",
    "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt\n": "",
}
NONE = [
    "",
    "0::/\n",
    "0::/user.slice/user-1000.slice/session-3.scope\n",
    f"0::/system.slice/docker-{ID[:-1]}.scope\n",
    f"0::/system.slice/docker-{ID.upper()}.scope\n",
    f"0::/kubepods.slice/crio-conmon-{ID}.scope\n",
    f"0::/machine.slice/libpod-conmon-{ID}.scope\n",
    "0::/system.slice/docker.service\n",
    "nonsense",
]


@pytest.mark.parametrize("raw", CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_is_known_by_its_cgroup(raw: str) -> None:
    assert container_id(raw.encode()) == ID


@pytest.mark.parametrize("raw", MACHINES)
def test_a_machine_of_nspawn_is_known_by_its_name(raw: str) -> None:
    assert container_id(raw.encode()) == MACHINES[raw]


@pytest.mark.parametrize("raw", NONE)
def test_what_looks_similar_is_no_container(raw: str) -> None:
    assert container_id(raw.encode()) == ""


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("", ""),
        ("0::/\n", "/"),
        ("0::/a:b\n", "/a:b"),
        ("4:memory:/m\n1:name=systemd:/s\n0::/u\n", "/u"),
        ("4:memory:/m\n1:name=systemd:/s\n0::/\n", "/s"),
        ("4:memory:/m\n1:name=systemd:/\n0::/\n", "/m"),
        ("4:memory:/\n", "/"),
    ],
)
def test_the_path_that_says_most_is_taken(raw: str, path: str) -> None:
    assert cgroup_path(raw.encode()) == path


@given(st.binary())
def test_hostile_text_raises_nothing(raw: bytes) -> None:
    container_id(raw)
    cgroup_path(raw)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n:"), max_size=20))
def test_hostile_machine_names_raise_nothing(name: str) -> None:
    container_id(f"0::/machine-{name}\\x.scope".encode())
    container_id(f"0::/machine-{name}\\xzz{name}.scope".encode())
