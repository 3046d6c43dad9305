"""The endpoints as tools of an MCP server, called by a client of that protocol over streamable HTTP."""

import asyncio
import json

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from diffuspec import Trace

SETTINGS = {"proxy": "context", "k_min": 2, "k_max": 6, "max_new_tokens": 12}
LATTICE = {
    "ids": [[5, 7, 9], [7, 5, 9], [9, 7, 5]],
    "logq": [[-0.2, -2.0, -4.0], [-0.9, -1.0, -3.0], [-0.1, -3.0, -5.0]],
}


@pytest.fixture(scope="module")
def ask(tiny_pair):
    """ask(act) -> what act(session), a coroutine, gives on a client's open session."""
    from diffuspec.ui.page import build, launch_options
    from diffuspec.ui.shell.host import Host

    demo = build(Host(load=lambda dtype, progress: tiny_pair))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())

    async def on_a_session(act):
        async with streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return await act(session)

    yield lambda act: asyncio.run(on_a_session(act))
    demo.close()


@pytest.fixture(scope="module")
def call(ask):
    """call(tool, **arguments) -> (the text that came back, whether it is an error)"""

    def call(tool, **arguments):
        made = ask(lambda session: session.call_tool(tool, arguments))
        assert len(made.content) == 1
        return made.content[0].text, made.isError

    return call


def test_tools_are_described_with_their_parameters_and_results(ask):
    tools = {tool.name: tool for tool in ask(lambda session: session.list_tools()).tools}
    assert set(tools) == {"run", "trace", "search"}
    assert tools["run"].description.endswith("speedup, identical_to_ar; the last three are null without comparison.")
    for name, tool in tools.items():
        assert " Returns: " in tool.description and ",," not in tool.description, name
        for parameter, schema in tool.inputSchema["properties"].items():
            assert len(schema["description"]) > 12, (name, parameter)
    assert tools["run"].inputSchema["required"] == ["prompt"]
    assert set(tools["search"].inputSchema["properties"]) == {"ids", "logq", "settings", "context", "stop_ids"}


def test_run_answers_in_json_and_tells_how_far_it_is(ask):
    heard = []

    async def hear(done, total, said):
        heard.append(said)

    async def run(session):
        arguments = {"prompt": "What is red?", "settings": SETTINGS}
        return await session.call_tool("run", arguments, progress_callback=hear)

    made = ask(run)
    report = json.loads(made.content[0].text)
    assert not made.isError and report["identical_to_ar"] is True
    assert 0 < report["new_tokens"] == len(report["token_ids"]) <= 12
    assert heard


def test_settings_are_taken_as_an_object_or_as_its_text(call):
    answers = [
        json.loads(call("run", prompt="What is red?", settings=given, compare=False)[0])["token_ids"]
        for given in (SETTINGS, json.dumps(SETTINGS))
    ]
    assert answers[0] == answers[1]


def test_trace_gives_the_address_of_a_file_that_loads(call, tmp_path):
    address, failed = call("trace", prompt="Say hello.", settings=SETTINGS)
    assert not failed and address.startswith("http://127.0.0.1")
    (tmp_path / "run.jsonl.gz").write_bytes(httpx.get(address).raise_for_status().content)
    assert Trace.load(tmp_path / "run.jsonl.gz").settings.k_max == 6


def test_search_takes_a_lattice(call):
    settings = {"proxy": "none", "lam": 1.0, "tau": 0.9, "beam": 3}
    found = json.loads(call("search", **LATTICE, settings=settings, context=[1, 5], stop_ids=[2])[0])
    assert found["path"] == [5, 7, 9] and found["kept"][1] == [True, True, True]
    tree = json.loads(call("search", **LATTICE, settings={"proxy": "none", "search": "tree"})[0])
    assert tree["nodes"][0] == {"id": 5, "parent": -1, "depth": 0, "score": pytest.approx(-0.2, abs=1e-6)}


@pytest.mark.parametrize(
    "tool, arguments, says",
    [
        ("run", {"prompt": "  "}, "The prompt is empty"),
        ("run", {"prompt": "x", "settings": {"beam": 0}}, "beam = 0 is out of bounds"),
        ("trace", {"prompt": "x", "settings": "[1]"}, "The settings must be a JSON object"),
        ("search", {"ids": [[5]], "logq": [[-1.0, -2.0]]}, "ids and logq must be tables of one shape"),
    ],
)
def test_bad_input_is_said_clearly(call, tool, arguments, says):
    said, failed = call(tool, **arguments)
    assert failed and said.startswith(says)
