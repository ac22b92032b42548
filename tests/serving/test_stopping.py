"""The command serves until it is told to stop, and loses no request then."""

import http.client
import json
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from batchnorm.serving import server
from processes import SECONDS, Copied, command_line
from served_runs import serve_slowly
from test_serving import ROW

BODY = json.dumps({"rows": [ROW] * 20})


def wait_until_it_serves(process):
    deadline = time.monotonic() + SECONDS
    while not process.printed().endswith("\n"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process.printed()


@pytest.fixture
def start(weather_run, tmp_path):
    processes = []

    def begin(*options):
        words = ["serve", weather_run, "--port", 0, "--threads", 1, *options]
        processes.append(command_line(words, folder=tmp_path))
        return processes[-1]

    yield begin
    for process in processes:
        process.send_signal(signal.SIGKILL)


def client(address, keeps):
    """Ask until nobody takes connections any more; return how many answers came."""
    n = 0
    while True:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=SECONDS)
        try:
            connection.connect()
        except ConnectionRefusedError:
            return n
        while True:
            connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200
            closes = response.will_close
            assert len(json.loads(response.read())["predictions"]) == 20
            n += 1
            if closes or not keeps:
                break
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_stop_in_the_middle_loses_no_request(start, weather_run, number):
    process = start()
    said = wait_until_it_serves(process)
    address = urlsplit(said.split()[-1])
    assert said == f"{weather_run} is served on http://127.0.0.1:{address.port}\n"
    with ThreadPoolExecutor(64) as clients:
        answers = [clients.submit(client, address, keeps=i % 2 == 0) for i in range(64)]
        time.sleep(0.5)
        process.send_signal(number)
        assert all(answer.result() > 0 for answer in answers)
    assert process.communicate() == (said.encode(), b"")
    assert process.poll() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such filter")
def test_who_is_turned_away_does_not_cost_others_their_connection():
    """Stopped in the middle, without this, some two of thirty servers lose a request."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as made:
        server._turn_away(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.2)
        made.sendall(b"hello")
        with listener.accept()[0] as taken_up:
            assert taken_up.recv(9) == b"hello"


def test_what_waits_is_answered_before_the_end(weather_run, tmp_path):
    process = Copied(serve_slowly, weather_run, 0.3, folder=tmp_path)
    url = wait_until_it_serves(process).strip()
    with ThreadPoolExecutor(4) as clients:
        options = {"data": BODY, "headers": {"Content-Type": "application/json"}, "timeout": SECONDS}
        answers = [clients.submit(requests.post, f"{url}/predict", **options) for _ in range(4)]
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        responses = [answer.result() for answer in answers]
    assert [response.status_code for response in responses] == [200] * 4
    assert responses[-1].headers["Connection"] == "close"
    process.communicate()
    assert process.poll() == 0


def test_a_second_signal_ends_at_once(weather_run, tmp_path):
    process = Copied(serve_slowly, weather_run, SECONDS, folder=tmp_path)
    url = urlsplit(wait_until_it_serves(process).strip())
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=SECONDS)
    connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    process.communicate()
    assert time.monotonic() - begin < SECONDS / 2
    assert process.poll() == -signal.SIGTERM
    connection.close()


def test_who_sends_nothing_does_not_delay_the_end(start):
    process = start("--json")
    url = urlsplit(json.loads(wait_until_it_serves(process))["url"])
    with socket.create_connection((url.hostname, url.port)), requests.Session() as session:
        assert session.get(f"{url.geturl()}/health", timeout=SECONDS).status_code == 200
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert time.monotonic() - begin < 10
    assert process.poll() == 0


def test_who_is_answered_from_elsewhere_is_warned_of(start):
    process = start("--host", "0.0.0.0")
    url = wait_until_it_serves(process).split()[-1]
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1].decode() == (
        f"batchnorm: warning: whoever reaches {url} is answered: there is no password\n"
    )
    assert url.startswith("http://0.0.0.0:")


def test_what_cannot_be_served_ends_in_one_line(command, weather_run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, said in (
            ((weather_run, "--port", port), f"127.0.0.1, port {port}, cannot be listened on (Address already in use)"),
            ((weather_run, "--host", "a..b"), "cannot be listened on"),
            ((weather_run, "--host", "a" * 300), "cannot be listened on"),
            ((weather_run, "--host", "192.0.2.1", "--port", 0), "Cannot assign requested address"),
            ((weather_run, "--host", ""), "it is empty, expected a name or number of this machine"),
            ((weather_run, "--port", 65536), "65535"),
            ((weather_run, "--max-seconds", "nan"), "86400"),
            ((tmp_path, "--port", 0), "is not"),
            ((weather_run, "--weights", "--port", 0), "there is nothing to draw"),
        ):
            code, out, err = command("serve", *words)
            assert (code, out, len(err.splitlines())) == (2, "", 1), words
            assert said in err
