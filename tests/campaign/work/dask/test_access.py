"""Who may be spoken to: over TLS those of the same authority, without it only this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.work.dask import members as cluster_roster
from testbed.campaign.work.dask.access import check_address, is_safe
from testbed.campaign.work.dask.pool import ClusterPool
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import TestbedError, UsageError
from tests.support.clusters import LIMITS, Campaign, Cluster

trustme = pytest.importorskip("trustme", reason="makes the certificates; part of the test extra")
KEYS = ("ca-file", "client.cert", "client.key", "scheduler.cert", "scheduler.key", "worker.cert", "worker.key")


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:8786", "127.1.2.3:8786", "tcp://localhost:1", "tcp://[::1]:8786", "tls://10.0.0.1:8786"],
)
def test_this_machine_and_tls_are_safe(address: str) -> None:
    check_address(address, insecure=False)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.0.0.1:8786",
        "10.0.0.1:8786",
        "tcp://0.0.0.0:1",
        "ws://10.0.0.1:1",
        "tcp://[fe80::1]:1",
        "tcp://",
        "",
        "tcp:",
    ],
)
def test_all_others_are_refused_unless_they_are_asked_for(address: str) -> None:
    with pytest.raises(
        UsageError, match=r"is neither tls:// nor on this machine: whoever reaches it .* with --insecure$"
    ):
        check_address(address, insecure=False)
    check_address(address, insecure=True)


def test_a_name_is_as_safe_as_every_address_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(*found: str) -> Any:
        return lambda host, port: [(2, 1, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr("socket.getaddrinfo", resolved("127.0.0.1", "::1"))
    assert is_safe("tcp://mine:1")
    monkeypatch.setattr("socket.getaddrinfo", resolved("127.0.0.1", "192.0.2.7"))
    assert not is_safe("tcp://mine:1")


def test_an_unsafe_address_is_told_before_anything_is_prepared(tiny_spec: CampaignSpec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tcp://10\.0\.0\.1:8786 is neither tls:// nor on this machine"):
        run_campaign(tiny_spec, tmp_path / "run", worker_setup=WorkerSetup(scheduler="tcp://10.0.0.1:8786"))
    assert not (tmp_path / "run").exists()


def certificates(folder: Path) -> dict[str, str]:
    """Of one authority: Dask's keys for it, as a configuration."""
    folder.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    files = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    return {f"distributed.comm.tls.{key}": str(folder / files[key.split(".")[-1]]) for key in KEYS}


def environment(keys: dict[str, str]) -> dict[str, str]:
    return {"DASK_" + key.upper().replace(".", "__").replace("-", "_"): value for key, value in keys.items()}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, ours: dict[str, str]) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(ours).items():
            patch.setenv(name, value)
        found = Cluster(tmp_path_factory.mktemp("cluster"), "--protocol", "tls")
        found.start("one")
    yield found
    found.close()


def test_a_cluster_over_tls_works_and_lets_nobody_else_in(
    cluster: Cluster, ours: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.address.startswith("tls://")
    monkeypatch.setattr(cluster_roster, "CONNECT_TIMEOUT_S", 3.0)
    campaign, theirs = Campaign(tmp_path / "run"), certificates(tmp_path / "theirs")
    cluster.start("intruder", 1, **environment(theirs))
    with dask.config.set(ours):
        assert campaign.run(cluster.address, 6).done == 6
        campaign.assert_rows_are_those_of_one_worker_here(6)
        with ClusterPool(campaign.opener(), cluster.address, campaign.folder, LIMITS) as pool:
            assert pool.workers == 1
    with (
        dask.config.set(theirs),
        pytest.raises(TestbedError, match=r"^no Dask scheduler answers at tls://\S+; .*certificate"),
    ):
        campaign.run(cluster.address, 1)


def test_tls_without_certificates_says_where_they_are_named(ours: dict[str, str], tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"^no certificates for tls://127.0.0.1:1; set DASK_DISTRIBUTED__COMM__TLS__CA_FILE"
    ):
        campaign.run("tls://127.0.0.1:1", 1)
    broken = dict.fromkeys(ours, str(tmp_path / "none.pem"))
    with dask.config.set(broken), pytest.raises(UsageError, match=r"^the certificates for tls://\S+ cannot be read \("):
        campaign.run("tls://127.0.0.1:1", 1)


def test_a_worker_elsewhere_is_not_spoken_to_though_the_scheduler_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler on this machine may listen to others, too."""

    class Client:
        status = "running"

        def __init__(self, address: str, **options: Any) -> None:
            pass

        def nthreads(self) -> dict[str, int]:
            return {"tcp://10.0.0.7:4567": 1}

        def close(self, timeout: float) -> None:
            pass

    monkeypatch.setattr(cluster_roster, "Client", Client)
    with pytest.raises(
        TestbedError, match=r"can take part: tcp://10\.0\.0\.7:4567: it is neither on this machine nor at"
    ):
        Campaign(tmp_path / "run").run("tcp://127.0.0.1:1", 1)
