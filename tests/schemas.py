"""Schemas of launch/*.yaml and their check, for the parts of OpenAPI's schemas that a Kubernetes definition uses.

The schemas have only the fields of our files. Any other field is an error, like a misspelt one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "number": (int, float)}
STRING, INTEGER, BOOLEAN = ({"type": name} for name in ("string", "integer", "boolean"))
STRINGS = {"type": "array", "items": STRING}
BY_NAME = {"type": "object", "additionalProperties": STRING}
QUANTITIES = {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": True}}


def describe(required: str = "", **properties: Mapping[str, Any]) -> dict:
    """Return the schema of an object with these properties and required fields."""
    return {"type": "object", "required": required.split(), "properties": properties}


def list_of(**properties: Mapping[str, Any]) -> dict:
    """Return the schema of a list of objects that need a name, or an action in failure policies."""
    return {"type": "array", "items": describe("name" if "name" in properties else "action", **properties)}


POD = describe(
    "containers",
    restartPolicy={"enum": ["Never"]},  # a podFailurePolicy accepts no other
    terminationGracePeriodSeconds=INTEGER,
    nodeSelector=BY_NAME,
    containers=list_of(
        name=STRING,
        image=STRING,
        workingDir=STRING,
        command=STRINGS,
        args=STRINGS,
        resources=describe(limits=QUANTITIES),
        volumeMounts=list_of(name=STRING, mountPath=STRING),
    ),
    volumes=list_of(name=STRING, persistentVolumeClaim=describe("claimName", claimName=STRING)),
)
ON_EXIT_CODES = describe(
    "operator values",
    containerName=STRING,
    operator={"enum": ["In", "NotIn"]},
    values={"type": "array", "items": INTEGER},
)
JOB = describe(
    "template",
    parallelism=INTEGER,
    completions=INTEGER,
    backoffLimit=INTEGER,
    podFailurePolicy=describe(
        "rules",
        rules=list_of(action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]}, onExitCodes=ON_EXIT_CODES),
    ),
    template=describe(spec=POD),
)
# JobSet v1alpha2, https://github.com/kubernetes-sigs/jobset/blob/01078527ec4383c3d7289b5af3e0a788324e14ec/
# config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml
JOBSET = describe(
    "apiVersion kind metadata spec",
    apiVersion={"enum": ["jobset.x-k8s.io/v1alpha2"]},
    kind={"enum": ["JobSet"]},
    metadata=describe("name", name=STRING, annotations=BY_NAME),
    spec=describe(
        failurePolicy=describe(
            maxRestarts=INTEGER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={
                "type": "array",
                "items": describe(
                    "action name",
                    name=STRING,
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    onJobFailureReasons={
                        "type": "array",
                        "items": {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"]},
                    },
                ),
            },
        ),
        replicatedJobs=list_of(name=STRING, replicas=INTEGER, template=describe(spec=JOB)),
    ),
)
CLAIM = describe(  # https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/persistent-volume-claim-v1/
    "apiVersion kind metadata spec",
    apiVersion={"enum": ["v1"]},
    kind={"enum": ["PersistentVolumeClaim"]},
    metadata=describe("name", name=STRING),
    spec=describe(
        accessModes={"type": "array", "items": {"enum": ["ReadWriteMany"]}},
        storageClassName=STRING,
        resources=describe(requests=QUANTITIES),
    ),
)
CODE = {"type": "integer", "minimum": 0, "maximum": 255}
SKYPILOT = (
    describe(  # SkyPilot 0.14.1, sky/utils/schemas.py; https://docs.skypilot.co/en/latest/reference/yaml-spec.html
        name=STRING,
        num_nodes={"type": "integer", "minimum": 1},
        resources=describe(
            infra=STRING,
            accelerators=STRING,
            use_spot=BOOLEAN,
            job_recovery=describe(recover_on_exit_codes={"type": "array", "items": CODE}),
        ),
        envs={"type": "object", "additionalProperties": STRING | {"nullable": True}},
        setup=STRING,
        run=STRING,
    )
)


def find_faults(value: Any, schema: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Yield the places in `value` that do not follow the schema, each with the fault."""
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema = schema | {"type": "string" if isinstance(value, str) else "integer"}
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "boolean")):
        yield f"{place}: {value!r} is not of type {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is not one of {schema['enum']}"
    if kind in ("integer", "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{place}: {value} is out of range"
    if kind == "array":
        for index, item in enumerate(value):
            yield from find_faults(item, schema.get("items", {}), f"{place}[{index}]")
    if kind == "object":
        yield from (f"{place}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        is_open = schema.get("x-kubernetes-preserve-unknown-fields") or not known  # metadata of a definition
        for name, item in value.items():
            if name not in known and others is None and not is_open:
                yield f"{place}.{name} is not a field"
            yield from find_faults(item, known.get(name) or others or {}, f"{place}.{name}")
