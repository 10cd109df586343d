"""Where DVC keeps files: remotes, ways of linking the cache, branches of others, and experiments."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc_repository import Repository, jobs, md5, stages_run

pytestmark = pytest.mark.slow

NOTHING = "Nothing to be done"
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def assert_nothing_to_do(repository: Repository) -> None:
    """Neither engine has anything to do."""
    assert NOTHING in repository.snakemake("-n")
    said = repository.dvc("repro")
    assert stages_run(said) == [], said


# ----------------------------------------------------------------------------------------------------------- ssh


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run a real sshd of the calling user's with keys of its own; yield host:port and the client's private key."""
    sshd = shutil.which("sshd", path=SBIN)
    keygen = shutil.which("ssh-keygen")
    if sshd is None or keygen is None:
        pytest.skip("no sshd or ssh-keygen: apt-get install openssh-server openssh-client")
    folder.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd shuts itself in, if it is root's
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder / 'host'}", f"PidFile {folder / 'pid'}",
        f"AuthorizedKeysFile {folder / 'user.pub'}", "PubkeyAuthentication yes", "PasswordAuthentication no",
        "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "UsePAM no", "StrictModes no",
        "Subsystem sftp internal-sftp", "MaxStartups 100", "MaxSessions 100",
    ]  # fmt: skip
    (folder / "config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", folder / "user"
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_remote_over_ssh(pulled: Repository, published: Repository, tmp_path: Path) -> None:
    """What one pushes over ssh, another pulls over ssh, to the same bytes, and has nothing to do."""
    with ssh_server(tmp_path / "ssh") as (address, key):
        for repository in (pulled, published.clone_to(tmp_path / "second")):
            url = f"ssh://{getpass.getuser()}@{address}{tmp_path / 'remote'}"
            repository.dvc("remote", "add", "--local", "--default", "far", url)
            repository.dvc("remote", "modify", "--local", "far", "keyfile", str(key))
            if repository is pulled:
                assert "files pushed" in repository.dvc("push")
            else:
                repository.dvc("pull")
                assert repository.digests() == pulled.digests()
                assert_nothing_to_do(repository)
    assert any((tmp_path / "remote/files/md5").iterdir())


# --------------------------------------------------------------------------------------------------- kinds of links


def assert_cache_is_whole(repository: Repository) -> None:
    """Every file of DVC's cache still has the content that names it."""
    files = [path for path in repository.path(".dvc/cache/files/md5").glob("??/*") if path.is_file()]
    assert len(files) > 40
    wrong = [path for path in files if md5(path) != path.parent.name + path.name.removesuffix(".dir")]
    assert not wrong


@pytest.mark.parametrize("kind", ["reflink,copy", "symlink", "hardlink"])
def test_no_write_reaches_into_the_cache(pulled: Repository, kind: str) -> None:
    """However the cache is linked, what both engines write anew leaves the cache's own files as they were."""
    if kind == "hardlink" and os.getuid() != 0:
        pytest.skip("refused for ordinary users, see below")
    pulled.dvc("config", "--local", "cache.type", kind)
    pulled.dvc("checkout", "--relink")
    assert_nothing_to_do(pulled)
    whole = pulled.digests("data/dynamics")
    pulled.path(pulled.shards()[0]).unlink()
    pulled.edit(lambda params: params["paper"].update(example_curves=2))
    assert jobs(pulled.snakemake()) == {"train_runs": 1, "write_figure": 1, "write_report": 1}
    assert pulled.digests("data/dynamics") == whole
    assert_cache_is_whole(pulled)
    pulled.edit(lambda params: params["paper"].update(figure_width_in=5.5))
    assert set(stages_run(pulled.dvc("repro"))) >= {"plan", "figures@figure_2", "figures@figure_6"}
    assert_cache_is_whole(pulled)
    assert_nothing_to_do(pulled)


@pytest.fixture
def ordinary(pulled: Repository) -> Repository:
    """A clone with all data pulled, whose user is bound by write protection."""
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv to take root's rights away")
        # Still root, who may be the only one to whom the interpreter is readable, but without root's way past modes.
        pulled.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
    locked = pulled.path("locked")
    locked.touch(mode=0o444)
    assert pulled.call("bash", "-c", "echo > locked").returncode != 0, "this user writes where it is forbidden"
    locked.unlink()
    return pulled


def test_hard_links_are_refused_with_a_remedy_that_works(ordinary: Repository) -> None:
    """For an ordinary user, Snakemake refuses write-protected hard links by name before any job; the remedy works.

    `dvc repro` works without it: DVC itself puts a writable copy in the place of each output of a stage that it runs.
    """
    ordinary.dvc("config", "cache.type", "hardlink")
    ordinary.dvc("checkout", "--relink")
    assert_nothing_to_do(ordinary)
    ordinary.edit(lambda params: params["paper"].update(example_curves=2))
    said = ordinary.snakemake(code=1)
    assert "results/figures/figure_2." in said and "hard link" in said and "Traceback" not in said, said
    assert "dvc config cache.type reflink,copy" in said and "dvc checkout --relink" in said, said
    assert jobs(ordinary.dvc("repro")) == {"write_figure": 1, "write_report": 1}
    assert_cache_is_whole(ordinary)

    ordinary.edit(lambda params: params["paper"].update(example_curves=1))
    assert "hard link" in ordinary.snakemake(code=1)
    ordinary.dvc("config", "cache.type", "reflink,copy")
    ordinary.dvc("checkout", "--relink")
    assert jobs(ordinary.snakemake()) == {"write_figure": 1, "write_report": 1}
    assert jobs(ordinary.dvc("repro")) == {}
    assert_nothing_to_do(ordinary)
    assert_cache_is_whole(ordinary)


# -------------------------------------------------------------------------------------------------------- merges


def test_merged_branches_train_nothing_that_either_had(slim: Repository) -> None:
    """Two branches that added different runs: merge, mend params.yaml, keep one dvc.lock, adopt the other's files."""
    few = slim.params()["scales"]["tiny"]["scenarios"]["fine_tuning"]["runs"]
    slim.git("checkout", "--quiet", "-b", "mine")
    slim.edit(lambda params: params["scales"]["tiny"]["scenarios"]["fine_tuning"].update(runs=few | {"held_out": 2}))
    slim.dvc("repro")
    slim.commit("one run more of fine-tuning")
    mine = slim.shards()
    other = slim.git("show", "origin/other:params.yaml")

    said = slim.git("merge", "origin/other", code=1)
    assert "CONFLICT" in said and "dvc.lock" in said, said
    slim.path("params.yaml").write_text(other, encoding="utf-8")
    slim.edit(lambda params: params["scales"]["tiny"]["scenarios"]["fine_tuning"].update(runs=few | {"held_out": 2}))
    slim.git("checkout", "--ours", "dvc.lock")
    said = slim.gptfluence("adopt", "origin/other")
    assert "files adopted from origin/other" in said
    assert len(slim.shards()) == len(mine) + 1
    said = slim.dvc("repro")
    assert "train_runs" not in said and " to train now" not in said.replace(" 0 to train now", ""), said
    assert not re.search(r"\bfit_simulator\b", said), said
    slim.commit("merged")
    assert len(slim.shards()) == len(mine) + 1
    assert_nothing_to_do(slim)


# --------------------------------------------------------------------------------------------------- experiments


def test_experiments_and_what_differs(slim: Repository) -> None:
    """`dvc exp run -S` fits what the setting asks for, here or in a folder of its own; the diffs name what changed."""
    key = "simulators.methods.simfluence.strengths"
    said = slim.dvc("exp", "run", "--name", "weak", "--set-param", f"{key}=[0.001]")
    assert slim.params()["simulators"]["methods"]["simfluence"]["strengths"] == [0.001]
    assert said.count("fit_simulator") and "train_runs" not in said, said
    assert_nothing_to_do(slim)
    made = slim.digests()
    slim.dvc("exp", "run", "--temp", "--name", "strong", "--set-param", f"{key}=[1000.0]")
    assert slim.digests() == made, "an experiment in a folder of its own wrote here"

    shown = json.loads(slim.dvc("exp", "show", "--json"))
    rows = [row for revision in shown for experiment in revision["experiments"] or [] for row in experiment["revs"]]
    assert {row["name"] for row in rows} == {"weak", "strong"}, rows
    for row in rows:
        params = row["data"]["params"]["params.yaml"]["data"]
        expected = {"weak": [0.001], "strong": [1000.0]}[row["name"]]
        assert params["simulators"]["methods"]["simfluence"]["strengths"] == expected
        metrics = row["data"]["metrics"]["results/scores/metrics.json"]["data"]
        assert isinstance(metrics["fine_tuning"]["tiny"]["loss"]["simfluence"]["all_steps_mse"], float)

    changed = json.loads(slim.dvc("params", "diff", "--json", "main", "strong"))["params.yaml"]
    assert set(changed) == {key}, changed
    changed = json.loads(slim.dvc("metrics", "diff", "--json", "main", "strong"))["results/scores/metrics.json"]
    assert {".simfluence." in name for name in changed} == {True}, changed
    assert changed["fine_tuning.tiny.loss.simfluence.all_steps_mse"]["diff"] != 0
    slim.dvc("plots", "diff", "main", "strong", "--out", "compared")
    images = {f"compared/static/{rev}_results_figures_figure_6.png" for rev in ("main", "strong")}
    assert {file for file in slim.made("compared") if file.endswith(".png")} == images
    assert "all_steps_mse" in slim.path("compared/index.html").read_text(encoding="utf-8")
