"""Starting: the fast path of `--help`, `peelbound up`, and what it leaves behind (nothing)."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from peelbound.client import Client
from peelbound.embedded import embedded
from peelbound.extras import ServerExtraMissing, require_server_extra
from peelbound.local import StartFailed, StateDirBusy, running_url
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.settings import Settings
from tests.integration.cli.conftest import PEELBOUND, STAND_IN, Run, stand_ins
from tests.waiting import DEADLINE_SECONDS, until


def test_without_the_server_packages_the_message_says_what_to_install() -> None:
    require_server_extra()
    with pytest.raises(ServerExtraMissing, match=r"no_such_package.*pip install 'peelbound\[server\]'"):
        require_server_extra(["json", "no_such_package"])


def test_a_setting_that_is_wrong_is_said_in_one_line(program: Run) -> None:
    done = program("up", "--port", "0", "--allow", "ftp://models")
    assert done.returncode == 3
    assert "ftp://models" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoint_that_is_not_there_is_wrong_usage_and_starts_nothing(run: Run) -> None:
    done = run("audit", "nowhere", "--calibration", "neither.txt")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "started" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_loads_next_to_nothing(words: list[str]) -> None:
    program = f"""
import sys
from peelbound.cli.main import main
sys.argv = ["peelbound", *{words!r}]
try:
    main()
except SystemExit:
    print("\\n".join({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert loaded.isdisjoint({"pydantic", "pydantic_core", "httpx2", "rich", "fastapi", "sqlalchemy", "numpy", "torch"})


def test_help_names_every_command_and_the_exit_codes(run: Run) -> None:
    help_text = run("--help").stdout
    for name in ("up", "audit", "plan", "list", "show", "wait", "cancel", "delete", "report"):
        assert f"\n  {name} " in help_text
        assert run(name, "--help").returncode == 0
    assert "Exit codes" in help_text


def test_up_says_where_it_is_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (tmp_path / "models").mkdir()
    command = [PEELBOUND, "up", "--state-dir", state, "--port", "0", "--allow", "models/../models", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path) as up:
        assert up.stdout is not None
        said = json.loads(up.stdout.readline())
        token = Path(said["token_file"])
        for file in (token, state / "link-token"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert running_url(state) == said["url"]
        with Client(said["url"], token.read_text().strip()) as client:
            assert client.page().items == []
            models = str(tmp_path / "models")
            record = client.submit(AuditRequest(checkpoint=models, calibration=Calibration(uri=models)))
            client.cancel(record.id)
        children = psutil.Process(up.pid).children(recursive=True)
        assert children
        up.send_signal(signal.SIGTERM)
        assert up.wait(DEADLINE_SECONDS) == 0
    psutil.wait_procs(children, timeout=DEADLINE_SECONDS)
    assert not any(child.is_running() for child in children)
    assert running_url(state) is None


def test_what_the_state_directory_holds_is_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    with embedded(Settings(state_dir=state, port=0), controller=STAND_IN) as running:
        with Client(running.url, running.token) as client:
            client.page()
        until(lambda: len(stand_ins()) == 1)
        until(lambda: running.controller_log.stat().st_size > 0)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
        (child,) = stand_ins()
        umask = re.search(r"^Umask:\s+(\d+)$", Path(f"/proc/{child.pid}/status").read_text(), re.MULTILINE)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    private = {"peelbound.db", "peelbound.db-wal", "peelbound.db-shm", "controller.log", "token", "link-token", "lock"}
    assert {modes[name] for name in private} == {0o600}
    assert umask is not None
    assert int(umask[1], 8) == 0o077


def test_a_restart_keeps_token_and_audits(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, port=0, allow=["/data"])
    with embedded(settings, controller=None) as first, Client(first.url, first.token) as client:
        from tests.integration.client.harness import REQUEST

        audit_id = client.submit(REQUEST).id
    with embedded(settings, controller=None) as second, Client(second.url, first.token) as client:
        assert second.token == first.token
        assert client.get(audit_id).id == audit_id


def test_it_answers_under_the_address_that_it_publishes(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, host="127.0.0.2", port=0, allowed_hosts=["peelbound.example"])
    with embedded(settings, controller=None) as running, Client(running.url, running.token) as client:
        assert running.url.startswith("http://127.0.0.2:")
        assert client.page().items == []


def test_one_service_to_a_state_directory(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, port=0)
    with embedded(settings, controller=None) as running:
        with pytest.raises(StateDirBusy), embedded(settings, controller=None):
            pass
        assert running_url(tmp_path) == running.url


def test_a_taken_port_is_said_and_nothing_stays_locked(tmp_path: Path) -> None:
    with embedded(Settings(state_dir=tmp_path / "a", port=0), controller=None) as running:
        port = int(running.url.rsplit(":", 1)[1])
        with (
            pytest.raises(StartFailed, match=str(port)),
            embedded(Settings(state_dir=tmp_path / "b", port=port), controller=None),
        ):
            pass
    with embedded(Settings(state_dir=tmp_path / "b", port=port), controller=None):
        pass


def test_an_address_left_by_a_killed_service_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "url").write_text("http://127.0.0.1:1\n")
    assert running_url(tmp_path) is None


def test_a_controller_that_dies_is_started_again_and_stopped_in_the_end(tmp_path: Path) -> None:
    with embedded(Settings(state_dir=tmp_path, port=0), controller=STAND_IN):
        until(lambda: len(stand_ins()) == 1)
        (first,) = stand_ins()
        first.kill()
        until(lambda: [child.pid for child in stand_ins()] not in ([], [first.pid]))
        (second,) = stand_ins()
        assert Path(second.cwd()) == tmp_path
        assert second.environ()["PEELBOUND_STATE_DIR"] == str(tmp_path)
    assert not second.is_running()


def test_the_controller_ends_when_the_service_is_killed(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from peelbound.embedded import embedded
from peelbound.service.settings import Settings
with embedded(Settings(state_dir=Path({str(tmp_path)!r}), port=0), controller={STAND_IN!r}) as running:
    print(running.url, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        service.stdout.readline()
        until(lambda: bool(psutil.Process(service.pid).children()))
        (child,) = psutil.Process(service.pid).children()
        os.kill(service.pid, signal.SIGKILL)
    psutil.wait_procs([child], timeout=DEADLINE_SECONDS)
    assert not child.is_running()
    assert running_url(tmp_path) is None
