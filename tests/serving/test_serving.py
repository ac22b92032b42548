"""A server answers many at once as it answers one, within its limits, and nothing that is sent stops it."""

import http.client
import json
import logging
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Timer

import pandas as pd
import pytest
import requests

from batchnorm.serving import Limits, serve_run, server
from batchnorm.serving.application import _DROPPED
from batchnorm.tables import TableRun
from served_runs import SECONDS, Held, Serving
from table_cases import TABLES


@pytest.fixture(scope="module")
def serving(weather_run):
    with Serving(serve_run(weather_run, Limits())) as serving:
        yield serving


@pytest.fixture
def held(weather_run, monkeypatch):
    """A model that answers when it is let, whose server stops soon."""
    monkeypatch.setattr(server, "_REST", 0.0)
    model = Held(weather_run, Limits())
    yield model
    model.let.set()


ROW = {"date": "2014-05-06", "precipitation": 0.5, "temp_max": 12.0, "temp_min": 4, "wind": 3.1}


def weather_rows(n):
    frame = TABLES["weather"][0]().head(n).drop(columns="weather")
    return frame.assign(date=frame["date"].str.replace("/", "-")).to_dict("records")


def raw(serving, *parts, pause=0.0):
    """Send bytes as they are, with pauses between them; return what comes back until the connection is closed."""
    with socket.create_connection(serving.address, SECONDS) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def headers(*lines, host="127.0.0.1"):
    return "\r\n".join(["POST /predict HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


JSON = "Content-Type: application/json"


def refused(response, status, said):
    assert response.status_code == status, response.text
    message = response.json()["error"]
    assert re.search(said, message), message
    assert len(message.splitlines()) == 1
    assert len(message) <= 500


def test_64_clients_at_once_get_what_predict_writes(serving, weather_run, command, tmp_path):
    rows = weather_rows(256)
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command("predict", weather_run, lines, "-o", "out.jsonl", "--quiet") == (0, "", "")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    parts = [slice(4 * i, 4 * i + 1 + i % 4) for i in range(64)]

    def client(part):
        with requests.Session() as session:
            url = f"{serving.url}/predict"
            return [session.post(url, json={"rows": rows[part]}, timeout=SECONDS) for _ in range(4)]

    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(client, parts))
    alone = [serving.post(rows[part]).content for part in parts]
    for part, several, one in zip(parts, answers, alone, strict=True):
        assert {response.content for response in several} == {one}  # to the bit, however many ask
        for answer, row in zip(json.loads(one)["predictions"], written[part], strict=True):
            assert answer.pop("prediction") == row.pop("prediction")
            assert answer == pytest.approx(row, rel=1e-5, abs=1e-7)


def test_an_answer_is_sent_at_once(serving):
    """Head and body are two packets; by default the second waits until the first is acknowledged, for 40 ms."""
    with socket.create_connection(serving.address, SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1 << 16)
        own = connection.getsockname()
        (theirs,) = (one for one in serving.server.server_state.connections if one.client == own)
        assert theirs.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_health_and_the_pages(serving):
    assert serving.get("/health").json() == {"status": "ok"}
    document = serving.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    rows = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert rows["rows"]["items"]["required"] == list(ROW)
    for path in ("/", "/docs", "/page.css", "/asking.css", "/answer.js", "/table.js", "/image.js", "/array.js"):
        response = serving.get(path)
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert not re.search(r"(src|href|url)\W{1,3}(https?:|//)", response.text)  # nothing from elsewhere
    assert requests.head(serving.url, timeout=SECONDS).status_code == 200


def test_the_example_of_the_documentation_is_answered(serving):
    text = re.search(r'<pre id="example">(.*?)</pre>', serving.get("/docs").text, re.DOTALL)[1]
    rows = json.loads(text.replace("&#34;", '"'))["rows"]
    assert set(rows[0]) == set(ROW)
    assert serving.post(rows).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/predict/", "/../etc/passwd", "/base.html", "/%00"])
def test_an_unknown_address(serving, path):
    refused(serving.get(path), 404, "nothing here")


def test_another_method(serving):
    refused(serving.get("/predict"), 405, "GET is not for this address")
    refused(requests.post(f"{serving.url}/health", timeout=SECONDS), 405, "POST is not")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_of_another_site_may_send_is_refused(serving, kind):
    body = json.dumps({"rows": [ROW]})
    response = requests.post(f"{serving.url}/predict", body, headers={"Content-Type": kind}, timeout=SECONDS)
    refused(response, 415, "expected Content-Type: application/json")
    assert not [name for name in response.headers if name.lower().startswith("access-control")]
    options = requests.options(f"{serving.url}/predict", headers={"Origin": "http://evil.example"}, timeout=SECONDS)
    assert options.status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "[", "[::1", "a b", "@"])
def test_the_name_of_another_host_is_refused(serving, host):
    refused(serving.get("/health", headers={"Host": host}), 400, "the server answers to numbers, localhost")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "192.168.1.7:80"])
def test_our_own_names_are_answered(serving, host):
    assert serving.get("/health", headers={"Host": host}).status_code == 200


def test_bad_bodies(serving):
    for body, said in ((b"", "read as JSON"), (b"\xff", "read as JSON"), (b"{}", "the body has no keys")):
        response = requests.post(
            f"{serving.url}/predict", body, headers={"Content-Type": "application/json; charset=utf-8"}, timeout=SECONDS
        )
        refused(response, 422, said)
    refused(serving.post([{**ROW, "wind": "x" * 10_000}]), 422, "row 1: column 'wind' is 'xxx")
    refused(serving.post([{"x" * 100_000: 1}]), 422, "row 1 lacks the column 'date'")
    refused(serving.post([{**ROW, "wind\n\x1b[31m": 1}, 1]), 422, "row 2 is 1")
    assert serving.post([ROW]).status_code == 200


@pytest.mark.parametrize("beyond", [1, 1 << 22, _DROPPED + (1 << 20)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(weather_run, held, beyond, chunked):
    limits = Limits(bytes=1 << 16)
    with Serving(held, limits) as serving:
        held.asked.clear()
        size = limits.bytes + beyond
        pieces = (b" " * min(1 << 20, size - at) for at in range(0, size, 1 << 20))
        body = pieces if chunked else b" " * size
        try:
            response = requests.post(
                f"{serving.url}/predict", body, headers={"Content-Type": "application/json"}, timeout=SECONDS
            )
            refused(response, 413, "the body is larger than 65,536 bytes: send fewer rows, or a smaller image")
        except requests.ConnectionError:
            assert beyond > _DROPPED  # who sends so much may miss the answer
        assert serving.post([ROW]).status_code == 200
    assert len(held.asked) == 1


def test_a_body_that_trickles(weather_run, held):
    with Serving(held, Limits(seconds=0.4)) as serving:
        begin = time.monotonic()
        answer = raw(serving, headers(JSON, "Content-Length: 100"), *[b"{"] * 8, pause=0.1)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in answer.lower()
        assert b"the body was not there within 0.4 seconds" in answer
        assert time.monotonic() - begin < 5
        assert serving.post([ROW]).status_code == 200


@pytest.mark.parametrize("parts", [(), (b"POST /pre",) + (b"d",) * 30, (b"GET / HTTP/1.1\r\n",) + (b"A: b\r\n",) * 30])
def test_headers_that_do_not_come(serving, monkeypatch, parts):
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.3)
    begin = time.monotonic()
    with socket.create_connection(serving.address, SECONDS) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.05)
            assert connection.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert time.monotonic() - begin < 5
    assert serving.post([ROW]).status_code == 200


def test_a_connection_is_used_again_after_longer_than_headers_may_take(serving, monkeypatch):
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.2)
    connection = http.client.HTTPConnection(*serving.address, timeout=SECONDS)
    connection.connect()
    first = connection.sock
    for _ in range(4):
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        time.sleep(0.15)
    assert connection.sock is first
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # who expects TLS
        headers(JSON, "Content-Length: -1"),
        headers(JSON, "Content-Length: 5", "Content-Length: 6") + b"[1]",
        headers(JSON, "Transfer-Encoding: chunked") + b"zz\r\n",
        headers(JSON, "X: " + "y" * 20_000)[:-4],
        headers("Content-Length: 2").replace(b"Host", b"Most") + b"{}",
    ],
)
def test_what_is_no_request_is_refused(serving, sent, capfd):
    assert raw(serving, sent).startswith(b"HTTP/1.1 400")
    assert serving.post([ROW]).status_code == 200
    assert capfd.readouterr() == ("", "")


def test_who_has_sent_all_and_says_so_is_answered(held):
    with Serving(held) as serving:
        body = json.dumps({"rows": [ROW]}).encode()
        held.let.clear()
        Timer(0.2, held.let.set).start()
        answer = raw(serving, headers(JSON, f"Content-Length: {len(body)}"), body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"probability_sun" in answer


@pytest.mark.parametrize("sent", [b"", headers(JSON, "Content-Length: 100") + b"{", headers(JSON)[:20]])
def test_who_goes_away_is_forgotten(serving, sent, capfd):
    for _ in range(3):
        with socket.create_connection(serving.address, SECONDS) as connection:
            connection.sendall(sent)
    assert serving.post([ROW]).status_code == 200
    assert capfd.readouterr() == ("", "")


def test_too_many_at_once_are_refused_and_the_others_answered(held):
    with Serving(held, Limits(waiting=3)) as serving, ThreadPoolExecutor(3) as clients:
        held.let.clear()
        under_way = [clients.submit(serving.post, [ROW]) for _ in range(3)]
        serving.wait_for(3)
        response = serving.post([ROW])
        refused(response, 503, "3 requests are under way already: try again later")
        assert response.headers["Retry-After"] == "1"
        assert serving.get("/health").status_code == 200  # in the middle of a prediction
        held.let.set()
        assert [one.result().status_code for one in under_way] == [200] * 3
        assert serving.post([ROW]).status_code == 200


def test_an_answer_that_takes_too_long_keeps_its_place_until_it_ends(held):
    with Serving(held, Limits(seconds=0.3, waiting=1)) as serving:
        held.let.clear()
        refused(serving.post([ROW]), 503, "the answer was not there within 0.3 seconds")
        refused(serving.post([ROW]), 503, "1 requests are under way already")
        held.let.set()
        serving.wait_for(0)
        assert serving.post([ROW]).status_code == 200


def test_what_is_given_up_before_its_turn_is_not_computed(held):
    with Serving(held, Limits(seconds=0.3, waiting=2)) as serving, ThreadPoolExecutor(2) as clients:
        held.let.clear()
        held.asked.clear()
        assert [one.status_code for one in clients.map(serving.post, [[ROW], [ROW]])] == [503, 503]
        held.let.set()
        serving.wait_for(0)
    assert len(held.asked) == 1


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(ZeroDivisionError("a\nb"), 500, "the answer failed"), (MemoryError(), 503, "memory ran out: send less")],
)
def test_what_fails_within_is_said_without_its_words(held, monkeypatch, capfd, error, status, said):
    with Serving(held) as serving:
        monkeypatch.setattr(held, "_rows", lambda _: (_ for _ in ()).throw(error))
        monkeypatch.setattr(logging.root, "handlers", [])  # which other tests' libraries have set up
        refused(serving.post([ROW]), status, said)
        monkeypatch.undo()
        assert serving.post([ROW]).status_code == 200
    line = "batchnorm: a request could not be answered: ZeroDivisionError: a b\n"
    assert capfd.readouterr().err == line * (status == 500)


def test_a_frame_of_the_same_rows_is_predicted_alike(serving, weather_run):
    rows = weather_rows(50)
    frame = pd.DataFrame(rows).assign(date=lambda f: pd.to_datetime(f["date"]))
    answers = serving.post(rows).json()["predictions"]
    assert [answer["prediction"] for answer in answers] == TableRun.load(weather_run).predict(frame).tolist()
