"""The playground's endpoints through `gradio_client`, on a real server with the real models."""

import json

import pytest
from gradio_client import Client

from diffuspec import Settings, Trace


@pytest.fixture(scope="module")
def client(embedded_pair):
    from diffuspec.ui.page import build, launch_options
    from diffuspec.ui.shell.host import Host

    host = Host(load=lambda dtype, progress: embedded_pair)
    demo = build(host)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield Client(url, verbose=False)
    demo.close()


def test_run_returns_the_figures(client, embedded_pair):
    settings = {"k_max": 5, "max_new_tokens": 12, "M_max": 6}
    report = client.predict("Name a fruit that is red.", json.dumps(settings), "float32", True, api_name="/run")
    assert set(report) == {
        "text",
        "token_ids",
        "new_tokens",
        "steps",
        "accepted_per_step",
        "tokens_per_step",
        "wall_s",
        "ar_wall_s",
        "speedup",
        "identical_to_ar",
    }
    assert report["identical_to_ar"] is True
    assert 0 < report["new_tokens"] == len(report["token_ids"]) <= 12
    assert report["steps"] <= report["new_tokens"]
    assert report["text"] == embedded_pair.tokenizer.decode(report["token_ids"], skip_special_tokens=True)


def test_run_without_comparison_leaves_ar_out(client):
    report = client.predict("Say hello.", '{"max_new_tokens": 4}', "float32", False, api_name="/run")
    assert report["ar_wall_s"] is report["speedup"] is report["identical_to_ar"] is None


def test_trace_is_a_file_that_loads(client):
    path = client.predict("Say hello.", '{"max_new_tokens": 6, "beam": 2}', "float32", True, api_name="/trace")
    trace = Trace.load(path)
    assert trace.settings == Settings(max_new_tokens=6, beam=2)
    assert trace.identical_to_ar is True


@pytest.mark.parametrize(
    "prompt, settings, says",
    [
        ("   ", "{}", "prompt is empty"),
        ("x", '{"beam": 0}', "between 1 and 32"),
        ("x", '{"k_min": 9, "k_max": 2}', "larger than k_max"),
        ("x", '{"nonesuch": 1}', "no setting 'nonesuch'"),
        ("x", "not json", "not JSON"),
        ("x", "[1]", "must be a JSON object"),
        ("word " * 9000, "{}", "Shorten the prompt"),
    ],
)
def test_bad_input_is_said_clearly(client, prompt, settings, says):
    with pytest.raises(Exception, match=says):
        client.predict(prompt, settings, "float32", False, api_name="/run")


def test_only_run_trace_and_search_are_public(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/run", "/trace", "/search"}


def test_every_parameter_and_result_is_described(client):
    for name, endpoint in client.view_api(return_format="dict")["named_endpoints"].items():
        assert endpoint["description"], name
        for part in (*endpoint["parameters"], *endpoint["returns"]):
            assert len(part["python_type"]["description"]) > 12, (name, part)


def test_a_given_lattice_is_searched_without_a_model(client):
    ids = [[5, 7, 9], [7, 5, 9], [9, 7, 5]]
    logq = [[-0.2, -2.0, -4.0], [-0.9, -1.0, -3.0], [-0.1, -3.0, -5.0]]
    settings = json.dumps({"proxy": "none", "lam": 1.0, "tau": 0.9, "beam": 3})
    found = client.predict(ids, logq, settings, [1, 5], [2], api_name="/search")
    assert found["path"] == [5, 7, 9] and found["ranks"] == [0, 0, 0]
    assert found["kept"] == [[True, True, False], [True, True, True], [True, False, False]]
    assert found["scores"] == pytest.approx([-0.2, -1.1, -1.2], abs=1e-5)
    for bad in ([], [[5]], [[5, 7, "x"]] * 3, [[-1, 7, 9]] * 3):
        with pytest.raises(Exception, match="tables of one shape|token ids"):
            client.predict(bad, logq, settings, [], [], api_name="/search")
