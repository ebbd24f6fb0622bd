"""Positive controls: each check finds what was planted for it, and lets what is right pass."""

import pathlib
import shutil
import sys

import deployment
import pytest
import sources

ROOT = pathlib.Path(__file__).resolve().parents[2]

PLANTED = [
    ("engine/base/clock.cc", '#include "engine/model/llama.h"', "may not include"),
    ("kvcache/block_pool.cc", '#include "engine/tensor/dtype.h"', "may not include"),
    ("kvcache/block_pool.cc", '#include "server/request.h"', "may not include"),
    ("engine/model/llama.cc", '#include "engine/backend/cpu/ops.h"', "belongs in"),
    ("engine/tokenizer/bpe.cc", '#include "engine/backend/backend.h"', "may not include"),
    ("engine/prune/profile.cc", '#include "sliminfer/v1/inference.pb.h"', "belongs in"),
    ("server/scheduler.cc", '#include "grpcpp/grpcpp.h"', "belongs in"),
    ("server/worker_loop.cc", '#include "sliminfer/v1/inference.pb.h"', "belongs in"),
    ("server/worker.cc", '#include "engine/backend/cpu/cpu_backend.h"', "belongs in"),
    ("server/worker.cc", "#include <prometheus/counter.h>", "belongs in"),
    ("server/worker.cc", '#include "tools/common/lists.h"', "may not include"),
    ("tools/eval/main.cc", '#include "server/config.h"', "may not include"),
    ("engine/tokenizer/bpe.cc", "std::regex expression;", "std::regex"),
    ("server/worker.cc", "std::this_thread::sleep_for(x);", "condition"),
    ("server/worker.h", "#pragma once", "guards"),
    ("tests/server/worker_test.cc", "TEST(A, DISABLED_B) {}", "disabled"),
    ("tests/server/worker_test.cc", "  GTEST_SKIP();", "reason"),
    ("server/worker.cc", '  throw std::runtime_error("x");', "throw"),
    ("server/worker.cc", "// TODO: more", "open ends"),
    ("server/worker.cc", "x;\n" * 601, "lines"),
]


@pytest.mark.parametrize("name,text,expected", PLANTED, ids=[f"{p[0]}-{p[2]}" for p in PLANTED])
def test_a_planted_violation_is_found(name, text, expected):
    problems = sources.check_text(name, text + "\n")
    assert len(problems) == 1 and expected in problems[0], problems


@pytest.mark.parametrize("name,include", [
    ("engine/prune/block_scorer.cc", "engine/backend/backend.h"),
    ("engine/engine.cc", "kvcache/kv_manager.h"),
    ("engine/backend/create_backend.cc", "engine/backend/cpu/cpu_backend.h"),
    ("server/metrics.cc", "prometheus/counter.h"),
    ("server/rpc.h", "grpcpp/grpcpp.h"),
    ("kvcache/block_pool.cc", "absl/status/status.h"),
])
def test_what_is_right_passes(name, include):
    assert sources.check_text(name, f'#include "{include}"\n') == []


@pytest.mark.parametrize("text,expected", [
    ("def f():\n    return engine.name\n", "undefined name 'engine'"),
    ("import os\n", "'os' imported but unused"),
    ("def f(:\n", "invalid syntax"),
])
def test_python_that_cannot_work_is_found(text, expected):
    problems = sources.check_python("tests/bench/peers.py", text)
    assert problems[0].startswith("tests/bench/peers.py:")
    assert expected in problems[0]


def test_python_that_works_passes():
    assert sources.check_python("x.py", "import os\n\nprint(os.name)\n") == []


def test_the_metrics_are_read_from_the_sources():
    known = deployment.exported(ROOT)
    assert {"sliminfer_requests_total", "sliminfer_kv_cache_blocks", "process_open_fds",
            "sliminfer_time_to_first_token_seconds", "sliminfer_num_requests_running"} <= known


def test_queries_name_metrics_that_exist():
    known = {"sliminfer_requests_total", "sliminfer_step_seconds"}
    assert deployment.check_query("q", "rate(sliminfer_requests_total[1m])", known) == []
    assert deployment.check_query("q", "sliminfer_step_seconds_bucket", known) == []
    assert deployment.check_query("q", 'up{job="sliminfer_x"} == 0', known) == []
    assert "sliminfer_reqests_total" in deployment.check_query(
        "q", "rate(sliminfer_reqests_total[1m])", known)[0]
    assert len(deployment.check_query("q", "rate(sliminfer_requests_total[1m]", known)) == 1


def test_the_dockerfile_check_finds_what_is_missing():
    good = (ROOT / "docker/cpu.Dockerfile").read_text()
    assert deployment.check_dockerfile(good) == []
    for wrong, right in [("root", "65532:65532"), ("debian", "debian:bookworm-slim"),
                         ("debian:latest", "debian:bookworm-slim")]:
        assert deployment.check_dockerfile(good.replace(right, wrong))
    assert deployment.check_dockerfile(good.replace("HEALTHCHECK", "# HEALTHCHECK"))


@pytest.fixture
def copy(tmp_path):
    for name in ("deploy", "docker", "server", ".ci"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "tests").mkdir()
    for name in ("run.sh", "gpu.sh"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    return tmp_path


@pytest.mark.parametrize("name,right,wrong,expected", [
    ("deploy/compose.yaml", "stop_grace_period: 30s", "stop_grace_period: 20s", "grace"),
    ("deploy/compose.yaml", "services:", "services: [", "compose.yaml"),
    ("deploy/kubernetes/sliminfer.yaml", "terminationGracePeriodSeconds: 45",
     "terminationGracePeriodSeconds: 30", "grace"),
    ("deploy/kubernetes/sliminfer.yaml", "--drain_timeout=25s", "--drain_timeout=60s", "grace"),
    ("docker/check_image.sh", "set -euo pipefail", "cd $nowhere/x; rm -r $UNSET/*", "shellcheck"),
    ("deploy/kubernetes/sliminfer.yaml", "runAsNonRoot", "runAsNonRot", "kubernetes_validate"),
    ("deploy/haproxy/haproxy.cfg", "option httpchk", "option httpcheck", "haproxy"),
    ("deploy/prometheus/alerts.yml", "sliminfer_healthy", "sliminfer_health", "sliminfer_health"),
    ("deploy/prometheus/alerts.yml", "> 0.95", "> 9.95", "test rules"),
    ("deploy/prometheus/prometheus.yml", "scrape_configs", "scrape_config", "promtool"),
    ("deploy/grafana/dashboards/sliminfer.json", "sliminfer_kv_cache_usage_ratio",
     "sliminfer_kv_usage", "sliminfer_kv_usage"),
    ("deploy/fetch_model.sh", "set -euo pipefail", "cd $nowhere/x; rm -r $UNSET/*", "shellcheck"),
    ("docker/cpu.Dockerfile", "slim_run_packages", "some_packages", "slim_run_packages"),
    ("docker/cuda.Dockerfile", "slim_run_packages", "some_packages", "slim_run_packages"),
    ("docker/cuda.Dockerfile", "nvidia-cublas==13.1.0.3", "nvidia-cublas", "no version"),
    ("tests/gpu.sh", "set -euo pipefail", "cd $nowhere/x; rm -r $UNSET/*", "shellcheck"),
])
def test_a_spoilt_deployment_is_found(copy, name, right, wrong, expected):
    path = copy / name
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    problems = deployment.check(copy, sys.executable)
    assert any(expected in problem for problem in problems), problems


def test_an_unspoilt_deployment_passes(copy):
    assert deployment.check(copy, sys.executable) == []
