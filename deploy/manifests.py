"""What the schemas cannot know about the manifests and the image: that they mean what deploy/README.md says.

Usage: manifests.py BASE_DIRECTORY RENDERED_FILE_OR_ABSENT
"""

import pathlib
import sys
import tomllib

import yaml

CRON_JOB = {
    "schedule": "0 2 * * *",
    "timeZone": "Africa/Douala",
    "concurrencyPolicy": "Forbid",
    "startingDeadlineSeconds": 1800,
    "successfulJobsHistoryLimit": 3,
    "failedJobsHistoryLimit": 1,
}
JOB = {"activeDeadlineSeconds": 600, "backoffLimit": 3}
faults = []


def hold(condition, message):
    if not condition:
        faults.append(message)


def documents(path):
    return [doc for doc in yaml.safe_load_all(path.read_text()) if doc]


def check_kustomization(base):
    listed = yaml.safe_load((base / "kustomization.yaml").read_text())
    files = set(listed["resources"])
    for generator in listed.get("configMapGenerator", []):
        files |= set(generator.get("files", []))
    present = {path.name for path in base.iterdir()} - {"kustomization.yaml"}
    hold(files == present, f"kustomization.yaml lists {sorted(files)}, the directory has {sorted(present)}")


def pod_specs(docs):
    for doc in docs:
        if doc["kind"] == "StatefulSet":
            yield doc, doc["spec"]["template"]
        if doc["kind"] == "CronJob":
            yield doc, doc["spec"]["jobTemplate"]["spec"]["template"]


def check_pod(doc, template):
    name, pod = doc["metadata"]["name"], template["spec"]
    hold(pod["securityContext"]["runAsNonRoot"], f"{name}: may run as root")
    hold(pod["automountServiceAccountToken"] is False, f"{name}: gets a service account's token")
    hold(pod["enableServiceLinks"] is False, f"{name}: service links look like the relay's own variables")
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in doc["spec"].get("volumeClaimTemplates", [])}
    for container in pod["containers"]:
        context = container["securityContext"]
        hold(context["readOnlyRootFilesystem"], f"{name}: writable root file system")
        hold(context["allowPrivilegeEscalation"] is False, f"{name}: may gain privileges")
        hold(context["capabilities"] == {"drop": ["ALL"]}, f"{name}: keeps capabilities")
        ports = {port["name"] for port in container.get("ports", [])}
        for mount in container["volumeMounts"]:
            hold(mount["name"] in volumes, f"{name}: no volume {mount['name']}")
            hold("subPath" not in mount, f"{name}: {mount['name']} by subPath, edits would not arrive")
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            if doc["kind"] == "StatefulSet":
                get = container[probe]["httpGet"]
                hold(get["path"] == path and get["port"] in ports, f"{name}: {probe} asks for {get}")


def check_services(docs):
    relay = next(doc for doc in docs if doc["kind"] == "StatefulSet")
    labels = relay["spec"]["template"]["metadata"]["labels"]
    ports = {p["name"] for c in relay["spec"]["template"]["spec"]["containers"] for p in c["ports"]}
    services = [doc for doc in docs if doc["kind"] == "Service"]
    names = {service["metadata"]["name"] for service in services}
    hold(relay["spec"]["serviceName"] in names, "the StatefulSet's service does not exist")
    hold(relay["spec"]["replicas"] == 1, "the backlog has one writer")
    for service in services:
        hold(service["spec"]["selector"].items() <= labels.items(), f"{service['metadata']['name']}: selects nothing")
        hold({p["targetPort"] for p in service["spec"]["ports"]} <= ports, f"{service['metadata']['name']}: unknown port")


def check_cron_job(docs):
    cron = next(doc for doc in docs if doc["kind"] == "CronJob")["spec"]
    for key, value in CRON_JOB.items():
        hold(cron.get(key) == value, f"CronJob {key}: {cron.get(key)!r}, not {value!r}")
    job = cron["jobTemplate"]["spec"]
    for key, value in JOB.items():
        hold(job.get(key) == value, f"Job {key}: {job.get(key)!r}, not {value!r}")
    arguments = job["template"]["spec"]["containers"][0]["args"]
    hold(arguments[:3] == ["drain", "--admin", "http://edge-relay:9883"], f"the job runs {arguments}")
    hold("--token-file" in arguments, "the job has no token")


def check_toolchain():
    pinned = tomllib.loads(pathlib.Path("rust-toolchain.toml").read_text())["toolchain"]["channel"]
    dockerfile = pathlib.Path("deploy/Dockerfile").read_text()
    hold(f"FROM rust:{pinned}-" in dockerfile, f"the Dockerfile builds with another toolchain than {pinned}")
    hold(f"RUSTUP_TOOLCHAIN={pinned}\n" in dockerfile, "RUSTUP_TOOLCHAIN is another than rust-toolchain.toml's")


def main():
    check_toolchain()
    base, rendered = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    check_kustomization(base)
    sources = [base / "statefulset.yaml", base / "service.yaml", base / "cronjob.yaml"]
    checked = [[doc for path in sources for doc in documents(path)]]
    if rendered.exists():
        checked.append(documents(rendered))
    for docs in checked:
        for doc, template in pod_specs(docs):
            check_pod(doc, template)
        check_services(docs)
        check_cron_job(docs)
    for fault in faults:
        print(fault)
    print(f"{sum(map(len, checked))} documents, {len(faults)} faults")
    sys.exit(1 if faults else 0)


main()
