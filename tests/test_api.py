"""The endpoints of a served app, asked as a program asks them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import picture
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import ui
import vtprune
from ui.api import Calls
from ui.handlers import Handlers
from vtprune.types import Run

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "what is in the picture"


@pytest.fixture(scope="module")
def address(engine):
    page = ui.build(engine, bundled=False, recorded=[])
    mcp = find_spec("mcp") is not None
    _, address, _ = ui.serve(page, "tiny", port=None, prevent_thread_lock=True, quiet=True, mcp_server=mcp)
    yield address
    page.close()


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "house.png"
    picture(1).save(path)
    return str(path)


def post(address, name, data):
    """What a program without gradio_client gets: the last event of a call."""
    body = json.dumps({"data": data}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}gradio_api/call/{name}", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/{name}/{event}", timeout=60) as answer:
        return answer.read().decode()


def test_only_the_named_endpoints_are_public_and_each_is_described(client):
    info = client.view_api(return_format="dict")
    assert set(info["named_endpoints"]) == {"/run", "/select", "/methods", "/models"}
    assert not info["unnamed_endpoints"]
    assert all(len(endpoint["description"]) > 20 for endpoint in info["named_endpoints"].values())
    run = {p["parameter_name"]: p for p in info["named_endpoints"]["/run"]["parameters"]}
    assert run["images"]["python_type"]["type"] == "list[filepath]"
    assert run["keep"]["parameter_default"] == 0.25 and run["question"]["python_type"]["type"] == "str"


def test_run_answers_as_the_library_does(client, engine, file):
    told = client.predict([handle_file(file)], QUESTION, "atp", 0.4, {"alpha": 1.0}, 4, api_name="/run")
    run = Run.from_json(json.dumps(told))
    same = engine.run([file], QUESTION, "atp", 0.4, 4, {"alpha": 1.0}, repeats=0)
    assert (run.answer, run.full.answer) == (same.answer, same.full.answer)
    assert [stage.keep for stage in run.stages] == [stage.keep for stage in same.stages]
    assert run.params == {"alpha": 1.0} and run.full.timings and run.images[0].name == "house.png"


def test_a_number_above_one_counts_tokens_and_one_is_everything(client, file):
    count = client.predict([handle_file(file)], QUESTION, "random", 7, api_name="/select")
    assert len(count["stages"][0]["keep"]) == 7
    assert client.predict([handle_file(file)], QUESTION, "random", 1, api_name="/select")["stages"] == []


def test_select_tells_what_is_kept_and_where_it_lies(client, engine, file):
    told = client.predict([handle_file(file)], QUESTION, "divprune", 0.2, api_name="/select")
    same = engine.run([file], QUESTION, "divprune", 0.2, 4, repeats=0)
    assert told["tokens"] == same.tokens == len(told["boxes"])
    assert told["stages"][0]["keep"] == same.stages[0].keep
    assert told["boxes"][3] == {"image": 0, "box": same.segments[0].boxes[3].tolist()}
    assert "full" not in told


def test_methods_and_models_are_listed(client):
    methods = {entry["name"]: entry for entry in client.predict(api_name="/methods")}
    assert set(methods) == set(vtprune.list_methods())
    assert methods["atp"]["params"]["alpha"] == vtprune.list_methods()["atp"].params["alpha"]
    assert all(entry["title"] and entry["summary"] for entry in methods.values())
    models = client.predict(api_name="/models")
    assert models[0]["id"] is None and all(model["name"] and model["licence"] for model in models)


def test_methods_are_listed_while_another_model_takes_the_place_of_this_one(engine):
    handlers = Handlers(engine, [], bundled=False)
    handlers.models.engine = SimpleNamespace(name="gone", supports=None)  # what a closed one can tell
    listed = {entry["name"]: entry["obstacle"] for entry in Calls(handlers).methods()}
    assert listed == handlers.models.reasons


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": "  "}, "the question is empty"),
        ({"method": "atpp"}, "atpp"),
        ({"keep": 1.5}, "keep=1.5 is not a budget"),
        ({"keep": 0}, "keep=0.0 is not a budget"),
        ({"params": {"alpha": 7}}, "alpha=7"),
        ({"params": {"bogus": 1}}, "bogus"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"images": []}, "no picture"),
    ],
)
def test_a_bad_request_is_one_sentence_and_the_next_one_works(client, file, changes, sentence):
    good = {"images": [handle_file(file)], "question": QUESTION, "max_new_tokens": 2}
    with pytest.raises(AppError) as caught:
        client.predict(**{**good, **changes}, api_name="/run")
    words = str(caught.value)
    assert sentence in words and "Traceback" not in words and "\n" not in words.strip()
    assert client.predict(**good, api_name="/run")["full"]["tokens"]


def test_files_pass_the_checks_of_uploads(client, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    with pytest.raises(AppError, match=r"broken\.png"):
        client.predict([handle_file(str(broken))], QUESTION, api_name="/run")
    drawing = tmp_path / "drawing.svg"
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(AppError, match="drawing"):
        client.predict([handle_file(str(drawing))], QUESTION, api_name="/select")


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_path_on_the_server_is_not_opened(address, file, meta):
    readme = os.fspath(ROOT / "README.md")
    elsewhere = f"{address}gradio_api/file={readme}"
    for given in ([{"path": file, **meta}], [{"path": readme, **meta}], [file], [elsewhere], file, 7):
        try:
            answer = post(address, "select", [given, QUESTION, "random", 0.5, None])
        except urllib.error.HTTPError as error:
            answer = error.read().decode()
        assert "event: complete" not in answer and "stages" not in answer


def test_a_picture_may_come_as_text_as_mcp_clients_send_it(address, file, client):
    data = base64.b64encode(Path(file).read_bytes()).decode()
    text = f"data:image/png;base64,{data}"
    answer = post(address, "select", [[text], QUESTION, "divprune", 0.2, None])
    told = json.loads(answer.split("data: ")[-1])[0]
    same = client.predict([handle_file(file)], QUESTION, "divprune", 0.2, api_name="/select")
    assert told["stages"][0]["keep"] == same["stages"][0]["keep"]
    for bad in ("data:image/png;base64,%%%", "https://nowhere.invalid/a.png", "http://127.0.0.1:1/a.png"):
        assert "stages" not in post(address, "select", [[bad], QUESTION, "divprune", 0.2, None])


def test_readme_shows_a_call_that_works(address, file):
    text = (ROOT / "README.md").read_text("utf-8")
    block = text.split("from gradio_client import")[1].split("```")[0]
    code = "from gradio_client import" + block
    code = code.replace("http://127.0.0.1:7860", address).replace('"a.png"', repr(file))
    names: dict = {}
    exec(code, names)
    assert len(code.strip().splitlines()) <= 4 and names["run"]["full"]["answer"] is not None


@pytest.mark.skipif(find_spec("mcp") is not None, reason="the extra is installed")
def test_mcp_without_its_package_is_one_sentence():
    for command in (["app.py", "--mcp"], ["-m", "vtprune.cli", "app", "--mcp"]):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert "pip install 'vtprune[mcp]'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(find_spec("mcp") is None, reason="the mcp extra is not installed")
def test_the_endpoints_are_mcp_tools(address, file):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    image = "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()

    async def ask():
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            name = next(name for name in tools if name.endswith("select"))
            given = {"images": [image], "question": QUESTION, "method": "random", "keep": 0.2}
            return tools, await session.call_tool(name, given)

    tools, result = asyncio.run(ask())
    assert {name.rsplit("_", 1)[-1] for name in tools} == {"run", "select", "methods", "models"}
    tool = next(tool for name, tool in tools.items() if name.endswith("run"))
    assert "visual tokens" in tool.description
    assert "share of the visual tokens" in json.dumps(tool.inputSchema)
    assert not result.isError and '"stages"' in result.content[0].text.replace("'", '"')
