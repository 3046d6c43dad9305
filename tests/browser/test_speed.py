"""How fast the page is there, follows a slider, and leaves the models alone; with bounds that a busy machine keeps."""

from __future__ import annotations

from diffuspec.trace.gallery import gallery

SEEN = """(() => {
  const look = () => {
    const cell = document.querySelector("#lattice [data-col]");
    if (cell && cell.getBoundingClientRect().width) window.seenAt = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()"""


def meter(page):
    """meter(page)() -> seconds that the page's own thread has computed: what else the machine does is not counted."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    return read


def test_the_recorded_lattice_is_there_before_plotly_is_fetched(browser, site):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(SEEN)
    spent = []
    for _ in range(4):
        page = context.new_page()
        read = meter(page)
        page.goto(site.url, wait_until="commit")
        page.wait_for_function("window.seenAt")
        spent.append(read())
        page.wait_for_selector("#adl .plot-container")
        fetched = page.evaluate(
            "performance.getEntriesByType('resource').find(one => one.name.endsWith('plotly.min.js')).startTime"
        )
        assert fetched > page.evaluate("window.seenAt")
        page.close()
    context.close()
    # The first load fills the browser's cache.
    assert min(spent[1:]) < 2.0, spent


def test_a_slider_of_the_lab_changes_the_picture_at_once(visit, serve):
    """On a recorded lattice as the gallery has them, a tenth of a second from the move to the changed drawing: the
    quickest of many moves, since whatever else the machine does only adds to it."""
    page = visit(serve(gallery().trace("1-maths")), "#lab")
    page.wait_for_selector("#lab-lattice [data-col]")
    page.wait_for_timeout(1500)
    spent = []
    for move in range(30):
        tau = (0.3, 0.5, 0.4, 0.6)[move % 4]
        page.locator("#lab-tau").evaluate(
            """async (node, tau) => {
              const lab = document.querySelector(".ds-lab");
              node.value = tau;
              node.dispatchEvent(new Event("input", {bubbles: true}));
              while (JSON.parse(lab.dataset.settings).tau !== tau) await new Promise((done) => setTimeout(done, 10));
            }""",
            tau,
        )
        spent.append(float(page.locator(".ds-lab").get_attribute("data-drawn")))
    assert min(spent) < 100, spent
