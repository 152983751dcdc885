"""A replacement of SLURM's commands on this machine, `python fake_slurm.py sbatch|srun|squeue|scontrol ...`.

Each task of a job is a folder $FAKE_SLURM/ID with its state in `state`. sbatch starts a process that runs the script of each task
of a job, one after another. A requeued task runs again.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(os.environ.get("FAKE_SLURM", "/nowhere"))


def sbatch(script: str) -> None:
    number = 101 + len(list(ROOT.glob("*.sh")))
    shutil.copy(script, ROOT / f"{number}.sh")
    text = pathlib.Path(script).read_text()
    array = re.search(r"--array=0-(\d+)", text)
    for task in task_ids(number, array):
        (ROOT / task).mkdir()
        write(task, "PENDING")
    command = [sys.executable, __file__, "controller", str(number)]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(command, start_new_session=True, **silent)
    print(f"Submitted batch job {number}")


def task_ids(number: int, array: re.Match | None) -> list[str]:
    return [f"{number}_{task}" for task in range(int(array[1]) + 1)] if array else [str(number)]


def write(task: str, state: str) -> None:
    (ROOT / f"{task}.tmp").write_text(state)
    (ROOT / f"{task}.tmp").rename(ROOT / task / "state")


def read(task: str) -> str:
    return (ROOT / task / "state").read_text()


def controller(number: str) -> None:
    """Run the tasks of a job, as slurmctld does."""
    text = (ROOT / f"{number}.sh").read_text()
    after = re.search(r"--dependency=afterok:(\S+)", text)
    tasks = task_ids(int(number), re.search(r"--array=0-(\d+)", text))
    while (after and read(after[1]) in ("PENDING", "RUNNING")) or (ROOT / "hold").exists():
        time.sleep(0.05)
    for task in tasks:
        if after and read(after[1]) != "COMPLETED":
            write(task, "CANCELLED")
            continue
        code, requeued = 0, ROOT / task / "requeued"
        while code == 0 or requeued.exists():
            requeued.unlink(missing_ok=True)
            write(task, "RUNNING")
            with open(ROOT / task / "starts", "a") as starts:
                starts.write("x")
            _, _, index = task.partition("_")
            own = {"SLURM_JOB_ID": task, "SLURM_PROCID": "0"}
            own |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index} if index else {}
            code = subprocess.run(["bash", str(ROOT / f"{number}.sh")], env=os.environ | own).returncode
            if code == 0:
                break
        write(task, "FAILED" if code else "COMPLETED")


def srun(*arguments: str) -> None:
    flags, command = [], list(arguments)
    while command[0].startswith("--"):
        flags.append(command.pop(0))
        if flags[-1] in ("--output", "--error"):
            command.pop(0)
    os.execvp(command[0], command)


def squeue(*_: str) -> None:
    folders = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "bin"]
    print("\n".join(task for task in folders if read(task) in ("PENDING", "RUNNING")))


def scontrol(what: str, task: str) -> None:
    assert what == "requeue"
    (ROOT / task / "requeued").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
