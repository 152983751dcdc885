"""The launch files, whose loops run with replacements of the clusters' programs that record their arguments."""

import os
import pathlib
import re
import shlex
import signal
import subprocess

import pytest
import yaml

from experiments.run.preemption import STOPS, UNFINISHED
from tests.clusters import Cluster
from tests.conftest import ROOT
from tests.schemas import CLAIM, JOBSET, SKYPILOT, find_faults

SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))
FLAGS = ["--config=configs/unet_pets.py", "--config.data.image_size=(96, 96)", "--config.wandb.tags=('a b',)"]
STOPPED, FAILED = UNFINISHED, 1


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def run_on_tpu(cluster: Cluster, **environment: str) -> subprocess.CompletedProcess:
    own = {"NAME": "pets", "ZONE": "us-west4-a", "TYPE": "v5litepod-16", "VERSION": "v2-alpha-tpuv5-lite"}
    script = str(ROOT / "launch/tpu_pod.sh")
    return cluster.run(script, *FLAGS, **own | {"SHARE": "10.0.0.2:/share"} | environment)


def run_on_slurm(cluster: Cluster, **environment: str) -> subprocess.CompletedProcess:
    own = {"SLURM_GPUS_ON_NODE": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_ID": "7"}
    return cluster.run("bash", str(ROOT / "launch/slurm.sh"), *FLAGS, **own | environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_executable_bash(script):
    path = ROOT / "launch" / script
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "launch").iterdir()))
def test_the_command_of_a_header_is_in_the_docs(name):
    header = "".join(re.findall(r"^#     (.*\n)", (ROOT / "launch" / name).read_text(), flags=re.MULTILINE))
    assert f"launch/{name}" in header
    words = shlex.split(header.replace("\\\n", " "))
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/pods.md").read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert words in [shlex.split(line, comments=True) for line in lines]


def test_a_stopped_run_on_a_tpu_starts_again_until_it_has_finished(cluster):
    cluster.answer(states=["READY"], code0=[STOPPED, 0], code1=[STOPPED, 0])
    done = run_on_tpu(cluster)
    assert done.returncode == 0, done.stderr
    first, second = cluster.calls("gcloud", "ssh")
    assert first[:7] == ["compute", "tpus", "tpu-vm", "ssh", "pets", "--zone=us-west4-a", "--worker=all"]
    assert first[-2:] == second[-2:] == ["--", "-tt"]
    assert cluster.flags() == FLAGS  # quoted through two shells
    assert "tpu-vm delete pets" in done.stdout and not cluster.calls("gcloud", "create")


def test_restarts_on_a_tpu_are_limited(cluster):
    cluster.answer(states=["READY"], code0=[STOPPED])
    done = run_on_tpu(cluster, RESTARTS="3")
    assert done.returncode == STOPPED and "not finished after 3 restarts" in done.stdout
    assert len(cluster.calls("gcloud", "ssh")) == 4


def test_a_failure_on_one_worker_ends_the_loop(cluster):
    cluster.answer(states=["READY"], code0=[STOPPED], code1=[FAILED], code2=[137])
    done = run_on_tpu(cluster)
    assert done.returncode == FAILED
    assert len(cluster.calls("gcloud", "ssh")) == 1


def test_a_killed_worker_is_not_a_failure(cluster):
    cluster.answer(states=["READY"], code0=[137, 0], code1=[STOPPED, 0])
    assert run_on_tpu(cluster).returncode == 0
    assert len(cluster.calls("gcloud", "ssh")) == 2


def test_a_missing_folder_is_a_failure(cluster):
    cluster.answer(states=["READY"], code0=[0])
    done = run_on_tpu(cluster, FOLDER=str(cluster.place / "nowhere"))
    assert done.returncode == FAILED and "nowhere" in done.stdout


def test_a_preempted_slice_is_made_again(cluster):
    cluster.answer(states=["NOT_FOUND", "READY", "PREEMPTED", "NOT_FOUND", "READY"], code0=[STOPPED, 0])
    assert run_on_tpu(cluster).returncode == 0
    verbs = [call[3] for call in cluster.calls("gcloud")]
    there = ["describe", "create", "describe", "ssh"]
    assert verbs == [*there, "describe", "delete", *there]
    first, second = cluster.calls("gcloud", "create")
    wanted = ["--zone=us-west4-a", "--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"]
    assert first == second == ["compute", "tpus", "tpu-vm", "create", "pets", *wanted]
    assert cluster.calls("gcloud", "delete")[0][-1] == "--quiet"


def test_a_slice_on_demand_is_not_spot(cluster):
    cluster.answer(states=["NOT_FOUND", "READY"], code0=[0])
    assert run_on_tpu(cluster, SPOT="").returncode == 0
    assert cluster.calls("gcloud", "create")[0][-1] == "--version=v2-alpha-tpuv5-lite"


def test_a_slice_without_capacity_is_requested_again_and_a_wrong_one_is_not(cluster):
    cluster.answer(states=["NOT_FOUND", "NOT_FOUND", "READY"], refusals=["RESOURCE_EXHAUSTED", ""], code0=[0])
    assert run_on_tpu(cluster).returncode == 0
    assert len(cluster.calls("gcloud", "create")) == 2
    cluster.answer(states=["NOT_FOUND"], refusals=["INVALID_ARGUMENT: accelerator type"])
    done = run_on_tpu(cluster)
    assert done.returncode == 1 and "accelerator type" in done.stdout
    cluster.answer(states=["ERROR: you have no account"])
    done = run_on_tpu(cluster)
    assert done.returncode == 1 and "no account" in done.stderr


def test_a_command_repeated_by_gcloud_starts_no_second_process(cluster):
    cluster.answer(states=["READY"], code0=[STOPPED, 0], broken=[])
    assert run_on_tpu(cluster, RESTARTS="0").returncode == STOPPED
    assert len(cluster.calls("python")) == 1


@pytest.mark.parametrize(
    ("codes", "requeued", "expected"),
    [
        ([0, 0], False, 0),
        ([STOPPED, STOPPED], True, STOPPED),
        ([STOPPED, 137], True, STOPPED),  # a process was killed
        ([STOPPED, FAILED], False, FAILED),  # srun would return 75
        ([137, FAILED], False, FAILED),
        ([FAILED, FAILED], False, FAILED),
        ([STOPPED, 2], False, FAILED),
    ],
)
def test_a_slurm_job_is_requeued_only_after_a_stop(cluster, codes, requeued, expected):
    cluster.answer(**{f"code{rank}": [code] for rank, code in enumerate(codes)})
    assert run_on_slurm(cluster).returncode == expected
    assert cluster.calls("scontrol") == ([["requeue", "7"]] if requeued else [])
    assert cluster.flags() == FLAGS
    (step,) = cluster.calls("srun")
    # A task sees all GPUs, of which jax takes that of SLURM_LOCALID. The end of a task must not kill the others.
    assert step[:4] == ["--gpu-bind=none", "--cpus-per-task=8", "--kill-on-bad-exit=0", "--wait=0"]


def test_requeues_of_a_slurm_job_are_limited(cluster):
    cluster.answer(code0=[STOPPED])
    assert run_on_slurm(cluster, RESTARTS="3", SLURM_RESTART_COUNT="2").returncode == STOPPED
    assert len(cluster.calls("scontrol")) == 1
    done = run_on_slurm(cluster, RESTARTS="3", SLURM_RESTART_COUNT="3")
    assert done.returncode == STOPPED and "after 3 restarts" in done.stderr
    assert len(cluster.calls("scontrol")) == 1


def test_the_signal_of_slurm_reaches_the_run_and_its_shell_survives(cluster):
    cluster.answer(code0=[-1], notice=[])
    assert run_on_slurm(cluster).returncode == STOPPED
    assert (cluster.place / "ended").read_text() == f"[{STOPPED}]"  # of the task, which is that shell
    assert cluster.calls("scontrol") == [["requeue", "7"]]


def test_different_numbers_of_tasks_and_gpus_are_refused(cluster):
    done = run_on_slurm(cluster, SLURM_NTASKS_PER_NODE="1")
    assert done.returncode == 1 and "set both to the same number" in done.stderr


def test_the_options_of_slurm_allow_a_requeue():
    options = re.findall(r"^#SBATCH (.*)$", (ROOT / "launch/slurm.sh").read_text(), flags=re.MULTILINE)
    assert {"--signal=USR1@180", "--requeue", "--open-mode=append", "--gpus-per-node=1"} <= set(options)
    assert signal.SIGUSR1 in STOPS


def test_xpk_restarts_after_a_stop(cluster):
    cluster.answer(code0=[STOPPED])
    own = {"NAME": "pets", "CLUSTER": "tpus", "TYPE": "v5litepod-16", "STORAGE": "share"}
    done = cluster.run(str(ROOT / "launch/gke_xpk.sh"), *FLAGS, **own)
    assert done.returncode == 0, done.stderr
    (call,) = cluster.calls("xpk")
    assert call[:2] == ["workload", "create"]
    options = dict(word.removeprefix("--").split("=", 1) for word in call[2:])
    command = options.pop("command")
    assert options == {  # names of XPK 1.16.0, xpk/parser/workload.py
        "workload": "pets",
        "cluster": "tpus",
        "tpu-type": "v5litepod-16",
        "num-slices": "1",
        "storage": "share",
        "docker-image": "python:3.11",
        "max-restarts": "100",
        "restart-on-exit-codes": "75",
        "termination-grace-period-seconds": "60",
    }
    assert " && exec .venv/bin/python " in command  # XPK passes SIGTERM only to the process of the command
    assert cluster.run("bash", "-c", command).returncode == STOPPED
    assert cluster.flags() == FLAGS


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / "launch" / name).read_text())


@pytest.mark.parametrize(
    ("name", "schema"), [("gke_jobset.yaml", JOBSET), ("gke_share.yaml", CLAIM), ("skypilot.yaml", SKYPILOT)]
)
def test_a_file_follows_the_schema_of_its_reader(name, schema):
    assert list(find_faults(read(name), schema)) == []


def test_a_wrong_field_type_or_value_is_found():
    jobset = read("gke_jobset.yaml")
    policy = jobset["spec"]["failurePolicy"]
    policy |= {"maxRestarts": "100", "restartStrategy": "Rebuild", "rule": []}
    del policy["rules"][0]["action"]
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] = True
    faults = list(find_faults(jobset, JOBSET))
    assert len(faults) == 5 and all(
        any(word in fault for fault in faults) for word in ("maxRestarts", "Rebuild", "rule ", "action", "completions")
    )
    task = read("skypilot.yaml")
    task["resources"]["job_recovery"]["recover_on_exit_codes"] = [256]
    assert len(list(find_faults(task, SKYPILOT))) == 1


def test_the_jobset_follows_the_definition_of_a_cluster():
    place = os.environ.get("JOBSET_CRD")
    if not place:
        pytest.skip("JOBSET_CRD does not name JobSet's config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml")
    versions = yaml.safe_load(pathlib.Path(place).read_text())["spec"]["versions"]
    (schema,) = [item["schema"]["openAPIV3Schema"] for item in versions if item["name"] == "v1alpha2"]
    assert list(find_faults(read("gke_jobset.yaml"), schema)) == []


@pytest.mark.parametrize(
    ("codes", "action"), [((STOPPED, 134, 137, 143), "RestartJobSet"), ((FAILED, 2, 126, 127), "FailJobSet")]
)
def test_a_jobset_restarts_after_a_stop_and_fails_after_a_failure(codes, action):
    """Kubernetes and JobSet take the first rule that applies. Without one a Job fails by backoffLimit=0."""
    spec = read("gke_jobset.yaml")["spec"]
    (job,) = [replicated["template"]["spec"] for replicated in spec["replicatedJobs"]]
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"] and job["backoffLimit"] == 0
    fails = rule["action"] == "FailJob" and set(codes) <= set(rule["onExitCodes"]["values"])
    assert fails or not set(codes) & set(rule["onExitCodes"]["values"])
    reason = "PodFailurePolicy" if fails else "BackoffLimitExceeded"
    actions = [rule["action"] for rule in spec["failurePolicy"]["rules"] if reason in rule["onJobFailureReasons"]]
    assert [*actions, "RestartJobSet"][0] == action
    values = rule["onExitCodes"]["values"]
    assert values == sorted(set(values)) and 0 not in values  # or Kubernetes refuses them
    assert spec["failurePolicy"]["maxRestarts"] > 0


def test_a_jobset_uses_the_whole_slice():
    (replicated,) = read("gke_jobset.yaml")["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == rows * columns // chips
    (mount,), (volume,) = pod["containers"][0]["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == read("gke_share.yaml")["metadata"]["name"]
    assert pod["containers"][0]["workingDir"].startswith(mount["mountPath"])


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (STOPPED, STOPPED), (FAILED, FAILED), (137, STOPPED)])
def test_skypilot_recovers_a_stopped_or_killed_run(cluster, code, expected):
    task = read("skypilot.yaml")
    cluster.answer(code0=[code])
    environment = {"SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    done = cluster.run("bash", "-c", task["run"], ARGS=shlex.join(FLAGS), **environment)
    assert done.returncode == expected
    assert cluster.flags() == [*FLAGS, "--coordinator=10.0.0.5:8476", "--processes=2", "--process=1"]
    recovered = task["resources"]["job_recovery"]["recover_on_exit_codes"]
    assert (expected in recovered) == (code not in (0, FAILED))
    assert subprocess.run(["bash", "-n", "-c", task["setup"]]).returncode == 0
