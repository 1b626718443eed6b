"""infra/compose.yaml: the specification's schema, and the rules that a schema does not know."""

from __future__ import annotations

import re

import pytest

from tests.infra.reading import COMPOSE, INFRA, check, example, filled, interpolated, services, tool, variables

SERVICES = sorted(services())
SECRET = re.compile(r"(PASSWORD|SECRET_KEY|AUTH_STRING)$")


def test_schema_of_the_specification() -> None:
    check(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_example_names_exactly_the_variables_that_compose_uses() -> None:
    assert set(example()) == set(variables(COMPOSE.read_text(encoding="utf-8")))


def test_secrets_are_required_and_have_no_default() -> None:
    used = variables(COMPOSE.read_text(encoding="utf-8"))
    secrets = {name for name in used if SECRET.search(name)}
    assert len(secrets) == 9
    assert {name: used[name] for name in secrets} == {name: {"?"} for name in secrets}
    assert {name: example()[name] for name in secrets} == dict.fromkeys(secrets, "")
    # and nothing but secrets is left open, so that one command configures everything
    assert all("?" not in how for name, how in used.items() if name not in secrets)


@pytest.mark.parametrize("name", sorted(name for name in example() if SECRET.search(name)))
def test_refuses_to_start_without_a_secret(name: str) -> None:
    interpolated(filled())
    with pytest.raises(LookupError, match=name):
        interpolated({**filled(), name: ""})


def test_no_secret_is_written_out() -> None:
    # An assignment of a secret whose value is no variable.
    written = re.findall(
        r"^\s*\w*(?:PASSWORD|SECRET_KEY|SECRET_ACCESS_KEY|AUTH_STRING):\s*(?!\$\{)\S.*$",
        COMPOSE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert written == []


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_on_a_command_line(name: str) -> None:
    service = interpolated({key: "planted" if SECRET.search(key) else value for key, value in filled().items()})[
        "services"
    ][name]
    shown = [service.get("command"), service.get("entrypoint"), service.get("healthcheck"), service.get("build")]
    assert "planted" not in str(shown)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_loopback(name: str) -> None:
    ports = services()[name].get("ports", [])
    assert bool(ports) == (name == "gate")
    for port in ports:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


@pytest.mark.parametrize("name", SERVICES)
def test_images_carry_an_exact_version(name: str) -> None:
    repository, _, tag = services()[name]["image"].partition(":")
    assert re.match(r"\d+\.\d+", tag), f"{repository}:{tag}"


@pytest.mark.parametrize("name", SERVICES)
def test_health_check_or_a_stated_reason(name: str) -> None:
    health = services()[name]["healthcheck"]
    if not health.get("disable"):
        assert health["test"][0] == "CMD"
        assert {"interval", "timeout", "retries", "start_period"} <= set(health)
        return
    lines = COMPOSE.read_text(encoding="utf-8").splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.strip() == "healthcheck: {disable: true}"]
    assert lines[at - 1].strip().startswith("# "), f"{name}: say why it has no health check"


@pytest.mark.parametrize("name", SERVICES)
def test_rights_are_few(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert "network_mode" not in service
    if "build" in service:
        dockerfile = (INFRA.parent / service["build"]["dockerfile"]).read_text(encoding="utf-8")
        stage = re.split(r"^FROM \S+ AS ", dockerfile, flags=re.MULTILINE)
        (text,) = [part for part in stage if part.startswith(service["build"]["target"] + "\n")]
        user = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)[-1]
    else:
        user = service["user"].split(":")[0]
    assert int(user) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_limits_restarts_and_order(name: str) -> None:
    service = services()[name]
    assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    assert service["restart"] == "unless-stopped" or service["restart"].startswith("on-failure:")
    others = service.get("depends_on", {})
    for other, how in others.items():
        expected = "service_completed_successfully" if other == "buckets" else "service_healthy"
        assert how == {"condition": expected}, other


def test_volumes_are_named_and_files_of_the_host_read_only() -> None:
    document = interpolated(filled())
    for name, service in document["services"].items():
        for volume in service.get("volumes", []):
            source, target, *rest = volume.split(":")
            if source.startswith("."):
                assert rest == ["ro"], f"{name}: {volume}"
                assert (INFRA / source).is_file(), source
            else:
                assert source in document["volumes"], f"{name}: {volume}"
            assert target.startswith("/")


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_workers_take_variables_from_a_file_that_need_not_be_there(name: str) -> None:
    assert services()[name]["env_file"] == [{"path": "./worker.env", "required": False}]


def test_nothing_is_generated_into_a_read_only_container() -> None:
    # Compose copies a config with `content`, or a secret from the environment, into the container's file system, and cannot
    # where that is read-only (docker/compose#12031). Files that are mounted are fine.
    document = interpolated(filled())
    generated = {
        entry
        for kind in ("configs", "secrets")
        for entry, how in document.get(kind, {}).items()
        if "content" in how or "environment" in how
    }
    for service in document["services"].values():
        assert not generated.intersection(service.get("configs", []))
        assert not generated.intersection(service.get("secrets", []))


def test_the_gate_is_the_only_way_in() -> None:
    document = interpolated(filled())
    assert document["networks"]["data"] == {"internal": True}
    both = {name: set(service["networks"]) for name, service in document["services"].items()}
    assert {name for name, networks in both.items() if networks == {"data", "front"}} == {"gate"}
    assert {name for name, networks in both.items() if networks == {"front"}} == {"worker", "worker-gpu"}
    for name in ("worker", "worker-gpu"):
        environment = dict(document["services"][name]["environment"])
        assert environment.pop("INKWELL_MLFLOW_PAGE").startswith("http://127.0.0.1:"), "for a person's browser"
        text = str(environment)
        assert set(re.findall(r"https?://([\w.-]+)", text)) == {"gate"}


def test_gpu_worker_only_on_demand() -> None:
    found = services()
    assert found["worker-gpu"]["profiles"] == ["gpu"]
    assert found["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert [name for name, service in found.items() if "profiles" in service] == ["worker-gpu"]


def test_flags_of_mlflow_exist() -> None:
    from mlflow.cli import server

    known = {option for parameter in server.params for option in parameter.opts}
    used = [part.split("=")[0] for part in services()["mlflow"]["command"] if part.startswith("--")]
    assert set(used) <= known


def test_databases_of_the_servers_are_those_that_are_made_and_saved() -> None:
    made = set(
        re.findall(r"^database (\w+) ", (INFRA / "postgres/create-databases.sh").read_text(encoding="utf-8"), re.M)
    )
    text = COMPOSE.read_text(encoding="utf-8") + (INFRA / "mlflow/basic_auth.ini").read_text(encoding="utf-8")
    assert set(re.findall(r"postgresql\+\w+://\w+@postgres:5432/(\w+)", text)) == made
    backup = (INFRA / "backup.sh").read_text(encoding="utf-8")
    assert set(re.search(r"INKWELL_DATABASES-([\w ]+)", backup)[1].split()) == made  # type: ignore[index]
    buckets = services()["buckets"]["command"][1:]
    assert re.search(r"INKWELL_BUCKETS-([\w -]+)", backup)[1].split() == buckets  # type: ignore[index]
