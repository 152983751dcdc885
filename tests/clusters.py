"""Replacements of a cluster's programs, which record their arguments and answer as a test specifies."""

import json
import os
import pathlib
import subprocess
import sys

FAKE = """#!{python}
import json, os, subprocess, sys
place, name = {place!r}, {name!r}
with open(place + "/calls", "a") as calls:
    calls.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
def take(queue):  # the next answer of a queue; the last one stays
    path = place + "/" + queue
    first, *rest = open(path).read().splitlines()
    open(path, "w").write("\\n".join(rest or [first]))
    return first
{body}
"""
PYTHON = """
rank = os.environ.get("RANK", "0")
open(place + "/flags", "w").write(json.dumps(sys.argv[2:]))
code = int(take("code" + rank))
if code < 0:  # wait for a signal and stop
    import signal
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
    open(place + "/waits", "w").close()
    signal.pause()
sys.exit(code)
"""
GCLOUD = """
if sys.argv[4] == "describe":
    state = take("states")
    if state == "NOT_FOUND" or state.startswith("ERROR"):
        sys.exit(state)
    print(state)
elif sys.argv[4] == "ssh":
    command, = [word.removeprefix("--command=") for word in sys.argv if word.startswith("--command=")]
    codes = []
    for rank in sorted(name[4:] for name in os.listdir(place) if name.startswith("code")):
        own = command.replace("mkdir /tmp/", f"mkdir {place}/{rank}-")  # each worker has its own
        for _ in range(1 + os.path.exists(place + "/broken")):  # a connection: gcloud repeats the command
            code = subprocess.run(["bash", "-c", own], env=os.environ | {"RANK": rank}).returncode
        codes.append(code)
    sys.exit(next((code for code in codes if code), 0))
elif os.path.exists(place + "/refusals"):
    refusal = take("refusals")
    sys.exit(refusal if refusal else 0)
"""
SRUN = """
words = sys.argv[sys.argv.index("bash"):]
codes = []
for rank in sorted(name[4:] for name in os.listdir(place) if name.startswith("code")):
    task = subprocess.Popen(words, env=os.environ | {"RANK": rank}, start_new_session=True)
    if os.path.exists(place + "/notice"):
        import signal, time
        while not os.path.exists(place + "/waits"):
            time.sleep(0.02)
        os.killpg(task.pid, signal.SIGUSR1)  # to all processes of the step
    code = task.wait()
    codes.append(code if code >= 0 else 128 - code)
open(place + "/ended", "w").write(json.dumps(codes))
sys.exit(max(codes))
"""


class Cluster:
    """The replacements, and a repository whose python ends with the codes that a test specifies."""

    def __init__(self, place: pathlib.Path):
        self.place, self.folder = place, place / "dense-prediction"
        (self.folder / ".venv/bin").mkdir(parents=True)
        self.fake("python", PYTHON, self.folder / ".venv/bin")
        for name, body in {"gcloud": GCLOUD, "srun": SRUN, "scontrol": "", "xpk": "", "mountpoint": ""}.items():
            self.fake(name, body, place)

    def fake(self, name: str, body: str, folder: pathlib.Path) -> None:
        path = folder / name
        path.write_text(FAKE.format(python=sys.executable, place=str(self.place), name=name, body=body))
        path.chmod(0o755)

    def answer(self, **queues: list) -> None:
        for name, answers in queues.items():
            (self.place / name).write_text("\n".join(map(str, answers)))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        own = {"PATH": f"{self.place}:{os.environ['PATH']}", "FOLDER": str(self.folder), "PAUSE": "0"} | environment
        return subprocess.run(
            command, env=os.environ | own, cwd=self.folder, capture_output=True, text=True, timeout=60
        )

    def calls(self, program: str, verb: str = "") -> list[list[str]]:
        lines = (self.place / "calls").read_text().splitlines()
        return [call[1:] for call in map(json.loads, lines) if call[0] == program and verb in ["", *call]]

    def flags(self) -> list[str]:
        """Return the flags of the last main.py."""
        return json.loads((self.place / "flags").read_text())
