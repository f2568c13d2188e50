"""deploy/kuberay: valid by the fields of the CRDs that it uses, and in agreement with itself and with the package."""

import copy
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

import jobs.deploy
import jobs.pipelines.__main__
import jobs.poll.__main__
import jobs.record
import partition_actor
from partition_actor.settings import Settings

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
FILES = sorted(KUBERAY.rglob("*.yaml"))
DOCUMENTS = {
    f"{path.relative_to(KUBERAY)}:{document['kind']}": document
    for path in FILES
    for document in yaml.safe_load_all(path.read_text())
}
SCHEMAS = yaml.safe_load((Path(__file__).parent / "kubernetes_schemas.yaml").read_text())
(CLUSTER,) = (each for each in DOCUMENTS.values() if each["kind"] == "RayCluster")
(WORKERS,) = CLUSTER["spec"]["workerGroupSpecs"]
WORKER_POD = WORKERS["template"]["spec"]
(HEAD,), (WORKER,) = CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]["containers"], WORKER_POD["containers"]
KUSTOMIZATION = DOCUMENTS["kustomization.yaml:Kustomization"]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
DOCKERFILE = (KUBERAY / "Dockerfile").read_text()
WORKDIR = re.search(r"^WORKDIR (.+)$", DOCKERFILE, re.MULTILINE).group(1)
PARSERS = {
    "jobs.deploy": jobs.deploy._parser,
    "jobs.poll": jobs.poll.__main__._parser,
    "jobs.pipelines": jobs.pipelines.__main__._parser,
    "jobs.record": jobs.record._parser,
}


def of_kind(kind):
    return [each for each in DOCUMENTS.values() if each["kind"] == kind]


def closed(schema):
    """The schema, refusing every field that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if "properties" in result:
        result.setdefault("additionalProperties", False)
    return result


VALIDATORS = {
    kind: jsonschema.Draft202012Validator(closed({**schema, "$defs": SCHEMAS["$defs"]}))
    for kind, schema in SCHEMAS.items()
    if kind != "$defs"
}
FREE = {"matchLabels", "rayStartParams", "clusterSelector", "labels", "annotations", "selector", "requests", "limits"}
"""Fields whose keys users choose."""


def fields(value, path=()):
    """The paths of all fields in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not {*path[-1:]} & FREE or isinstance(inner, dict):
                yield (*path, key)
            yield from fields(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from fields(inner, (*path, number))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_is_valid(name):
    document = DOCUMENTS[name]
    VALIDATORS[document["kind"]].validate(document)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_misspelt_field_is_refused_wherever_it_is(name):
    document = copy.deepcopy(DOCUMENTS[name])
    validator = VALIDATORS[document["kind"]]
    for *above, key in list(fields(document)):
        inner = document
        for step in above:
            inner = inner[step]
        inner[key + "x"] = inner.pop(key)
        assert not validator.is_valid(document), (*above, key)
        inner[key] = inner.pop(key + "x")
    validator.validate(document)


def test_every_file_is_applied_by_the_kustomization_or_by_itself():
    by_itself = {path.relative_to(KUBERAY).as_posix() for path in FILES if path.parent != KUBERAY}
    assert by_itself == {
        *(f"jobs/{name}.yaml" for name in ("deploy", "pipelines", "poll")),
        *(f"monitoring/{name}.yaml" for name in ("pod-monitor", "prometheus-rule")),
    }
    top = {path.name for path in FILES if path.parent == KUBERAY}
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == top


def test_ray_python_and_the_library_have_one_version_each():
    (ray_version,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (python,) = re.findall(r"with on Python (\S+?)[;,]", (ROOT / "constraints.txt").read_text())
    (base,) = re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE)
    assert base == f"rayproject/ray:{ray_version}-py{python.replace('.', '')}"
    assert CLUSTER["spec"]["rayVersion"] == ray_version
    (image,) = KUSTOMIZATION["images"]
    assert image["newTag"] == partition_actor.__version__
    assert {HEAD["image"], WORKER["image"]} == {image["name"]}
    assert set(re.findall(r"partition-actor:(\S+?)[`\s]", DOCKERFILE)) == {image["newTag"]}


def test_the_image_has_what_pip_needs_and_the_jobs():
    copied = {
        source
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
        for source in [word for word in line.split() if not word.startswith("--")][:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    mounts = yaml.safe_load((ROOT / "cluster.yaml").read_text())["file_mounts"].values()
    assert copied == {Path(source).name for source in mounts} | {"jobs"}
    ignored = (KUBERAY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_the_alerts_are_those_of_prometheus():
    rules = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text()
    _, _, spec = (KUBERAY / "monitoring" / "prometheus-rule.yaml").read_text().partition("\nspec:\n")
    assert spec == re.sub(r"^(?=.)", "  ", rules, flags=re.MULTILINE)


def test_prometheus_finds_the_pods_and_their_port():
    (monitor,) = of_kind("PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for container in (HEAD, WORKER):
        assert {"name": endpoint["port"], "containerPort": 8080} in container["ports"]  # KubeRay's metrics-export-port
    assert [each["targetLabel"] for each in endpoint["relabelings"]] == ["ray_io_cluster"]


def test_the_redis_is_the_one_that_the_cluster_uses():
    options = CLUSTER["spec"]["gcsFaultToleranceOptions"]
    (service,), (stateful_set,) = of_kind("Service"), of_kind("StatefulSet")
    (port,) = service["spec"]["ports"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port['port']}"
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    (password,) = container["env"]
    assert password["valueFrom"] == options["redisPassword"]["valueFrom"]
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == stateful_set["spec"]["selector"]["matchLabels"] == labels


def test_a_worker_has_the_time_to_hand_its_keys_over():
    *_, command = WORKER["lifecycle"]["preStop"]["exec"]["command"]
    mounted = {mount["name"]: Path(mount["mountPath"]) for mount in WORKER["volumeMounts"]}
    (generated,), (volume,) = KUSTOMIZATION["configMapGenerator"], WORKER_POD["volumes"]
    assert volume["configMap"]["name"] == generated["name"]
    assert KUSTOMIZATION["generatorOptions"]["disableNameSuffixHash"]
    (script,) = generated["files"]
    assert (KUBERAY / script).exists()
    seconds = int(re.search(rf"{mounted[volume['name']] / script} (\d+)", command).group(1))
    assert seconds >= Settings().handoff_timeout + Settings().ttl + 20  # the longest hand-off, and to start Python
    assert WORKER_POD["terminationGracePeriodSeconds"] >= seconds + 30
    (again,) = (each["value"] for each in WORKER["env"] if each["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
    assert float(again) == 0
    assert hasattr(ray._private.ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")


def test_the_budget_lets_one_worker_go_at_a_time():
    (budget,) = of_kind("PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == WORKERS["minReplicas"] - 1
    assert WORKERS["minReplicas"] <= WORKERS["replicas"] <= WORKERS["maxReplicas"]
    assert budget["spec"]["selector"]["matchLabels"]["ray.io/cluster"] == CLUSTER["metadata"]["name"]


def test_the_jobs_exist_and_take_their_options():
    asked = []
    for job in of_kind("RayJob"):
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
        command = shlex.split(job["spec"]["entrypoint"])
        assert "\n" not in job["spec"]["entrypoint"].strip()
        for part in command[2].split("&&") if command[:2] == ["sh", "-c"] else [shlex.join(command)]:
            python, option, module, *arguments = part.split()
            assert (python, option) == ("python", "-m")
            options = vars(PARSERS[module]().parse_args(arguments))
            asked.append(module)
            if "--config" in arguments:
                assert (ROOT / Path(options["config"]).relative_to(WORKDIR)).exists()
    assert sorted(asked) == sorted(PARSERS)


def test_the_page_tells_of_what_there_is():
    for path in re.findall(r"kubectl (?:apply|delete) -[fk] ([\w./-]+)", PAGE):
        assert (ROOT / path).exists()
    *_, command = WORKER["lifecycle"]["preStop"]["exec"]["command"]
    assert f"after {re.search(r'drain.py (.+?) ', command).group(1)} s, the pod" in " ".join(PAGE.split())
    assert f"readyWorkerReplicas}}'={WORKERS['replicas']}" in PAGE
    assert f"--tag partition-actor:{partition_actor.__version__}" in PAGE


def test_the_kustomization_of_the_page_patches_what_there_is():
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    example = yaml.safe_load(block)
    VALIDATORS["Kustomization"].validate(
        {**example, "apiVersion": KUSTOMIZATION["apiVersion"], "kind": "Kustomization"}
    )
    for patch in example["patches"]:
        (document,) = of_kind(patch["target"]["kind"])
        patched = copy.deepcopy(document)
        for operation in yaml.safe_load(patch["patch"]):
            assert operation["op"] == "replace"
            *above, last = operation["path"].strip("/").split("/")
            inner = patched
            for step in above:
                inner = inner[int(step) if step.isdecimal() else step]
            assert type(inner[last]) is type(operation["value"])
            inner[last] = operation["value"]
        VALIDATORS[patch["target"]["kind"]].validate(patched)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kustomize_puts_the_image_and_the_script_in():
    built = subprocess.run(["kubectl", "kustomize", KUBERAY], capture_output=True, text=True, check=True).stdout
    made = {each["kind"]: each for each in yaml.safe_load_all(built)}
    assert made["ConfigMap"]["data"] == {"drain.py": (KUBERAY / "drain.py").read_text()}
    image = f"{KUSTOMIZATION['images'][0]['newName']}:{partition_actor.__version__}"
    (head,) = made["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["image"] == image
