"""Checks of what is deployed: metric names, dashboards, rules, YAML, container, proxy, scripts."""

import json
import re
import shutil
import subprocess

import promql_parser
import yaml

DOCKERFILES = ("docker/cpu.Dockerfile", "docker/cuda.Dockerfile")
# Series that exist without us.
FOREIGN = {"up"}


def exported(root):
    """Names of the metrics that the server's sources register."""
    text = (root / "server" / "metrics.cc").read_text()
    names = {f"sliminfer_{n}" for n in re.findall(
        r'\b(?:Counters|Histograms?|Gauge|Counter)\(\s*"([a-z0-9_]+)"', text)}
    return names | set(re.findall(r'"(process_[a-z_]+)"', text))


def series_of(query):
    """Names of the series that a PromQL expression reads; ValueError when it does not parse."""
    promql_parser.parse(query)
    bare = re.sub(r'"(?:\\.|[^"\\])*"', '""', query)
    return set(re.findall(r"\b(?:sliminfer|process)_[a-z0-9_]+", bare))


def check_query(where, query, known):
    try:
        names = series_of(query)
    except ValueError as error:
        return [f"{where}: {query}: {error}"]
    problems = []
    for name in sorted(names - known - FOREIGN):
        if re.sub(r"_(bucket|sum|count)$", "", name) not in known:
            problems.append(f"{where}: no metric is named {name}")
    return problems


def dashboard_queries(root):
    """(where, query) of every panel of every dashboard."""
    for path in sorted((root / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", target["expr"]


def rule_queries(root):
    """(where, query) of every alert."""
    rules = yaml.safe_load((root / "deploy/prometheus/alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yml: {rule.get('alert', rule.get('record'))}", rule["expr"]


def check_dockerfile(text, name="docker/cpu.Dockerfile"):
    problems = []
    for wanted in (r"^FROM \S+ AS build", r"^USER 65532", r"^HEALTHCHECK .*", r"^ENTRYPOINT \["):
        if not re.search(wanted, text, re.M):
            problems.append(f"no line matches {wanted}")
    for image in re.findall(r"^FROM (\S+)", text, re.M):
        if ":" not in image or image.endswith(":latest"):
            problems.append(f"the base image {image} has no fixed tag")
    final = text[text.rindex("\nFROM "):]
    if re.search(r"-dev\b|build-essential|cmake", final):
        problems.append("build packages in the last stage")
    for line in re.findall(r"^RUN (?:.*\\\n)*.*", text, re.M):
        if "apt-get install" in line and ("--no-install-recommends" not in line
                                          or "rm -rf /var/lib/apt/lists" not in line):
            problems.append("apt-get install without --no-install-recommends, or lists are left")
    for package in re.findall(r"\bnvidia-[a-z-]+(?![a-z-]|==\d)", text):
        problems.append(f"{package} has no version")
    return [f"{name}: {p}" for p in problems]


def check_container_packages(root):
    """The image must install the run-time libraries that packages.sh names, and nobody a third list."""
    script = 'source deploy/packages.sh; printf "%s\\n" "${slim_run_packages[@]}"'
    listed = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True,
                            check=True).stdout.split()
    return [f"{name}: does not use slim_run_packages of deploy/packages.sh" for name in DOCKERFILES
            if not listed or "slim_run_packages" not in (root / name).read_text()]


def check_drain(root):
    """Whoever stops the server must give it longer than it takes to drain."""
    seconds = re.search(r"drain_timeout = absl::Seconds\((\d+)\)",
                        (root / "server/config.h").read_text())
    drain = int(seconds.group(1))
    problems = []
    compose = yaml.safe_load((root / "deploy/compose.yaml").read_text())
    grace = int(compose["services"]["server"]["stop_grace_period"].rstrip("s"))
    if grace <= drain:
        problems.append(f"deploy/compose.yaml: stop_grace_period {grace} s, the drain takes {drain} s")
    for document in yaml.safe_load_all((root / "deploy/kubernetes/sliminfer.yaml").read_text()):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            server = pod["containers"][0]
            pause = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
            own = re.search(r"--drain_timeout=(\d+)s", " ".join(server.get("args", [])))
            if pod["terminationGracePeriodSeconds"] <= (int(own.group(1)) if own else drain) + pause:
                problems.append("deploy/kubernetes: the grace period is shorter than the drain")
    return problems


def run_tool(root, *command):
    if shutil.which(command[0]) is None:
        return [f"{command[0]} is not installed"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    return [f"{' '.join(map(str, command))}: {(done.stdout + done.stderr).strip()}"]


def check(root, python):
    problems = []
    for path in sorted([*root.glob("deploy/**/*.yml"), *root.glob("deploy/**/*.yaml")]):
        try:
            list(yaml.safe_load_all(path.read_text()))
        except yaml.YAMLError as error:
            problems.append(f"{path.relative_to(root)}: {error}")
    if problems:
        return problems  # the rest reads these files
    known = exported(root)
    boards = list(dashboard_queries(root))
    if not boards:
        problems.append("deploy/grafana: no dashboard has a query")
    for where, query in boards + list(rule_queries(root)):
        problems += check_query(where, query, known)
    for name in DOCKERFILES:
        problems += check_dockerfile((root / name).read_text(), name)
    problems += check_container_packages(root)
    problems += check_drain(root)
    problems += run_tool(root, "promtool", "check", "config", "deploy/prometheus/prometheus.yml")
    problems += run_tool(root, "promtool", "test", "rules", "deploy/prometheus/alerts_test.yml")
    problems += run_tool(root, "/usr/sbin/haproxy", "-c", "-f", "deploy/haproxy/haproxy.cfg")
    problems += run_tool(root, python, "-m", "kubernetes_validate", "--strict", "--quiet",
                         "deploy/kubernetes/sliminfer.yaml")
    scripts = [*sorted(root.glob("deploy/*.sh")), *sorted(root.glob("docker/*.sh")),
               root / "tests/run.sh", root / "tests/gpu.sh", root / ".ci/run"]
    problems += run_tool(root, "shellcheck", "--severity=warning", "--external-sources",
                         "--source-path=SCRIPTDIR", *map(str, scripts))
    return problems
