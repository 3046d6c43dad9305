"""Every list of the page opens above everything: each choice is taken by a click on its words."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect


@pytest.mark.parametrize("width, height", [(1440, 900), (820, 1100)])
def test_each_word_of_each_list_can_be_clicked(site, visit, width, height):
    page = visit(site, viewport={"width": width, "height": height})
    page.locator("#settings[data-ready] > button").click()
    lists = page.locator("#controls .knob:has(input[role=listbox], input[role=combobox])")
    count = lists.count()
    assert count >= 4
    for number in range(count):
        field = lists.nth(number).locator("input").first
        if not field.is_enabled():
            continue
        before = field.input_value()
        words = opened(page, field)
        for word in [*words, before]:  # as it was found: what one list says greys others
            opened(page, field)
            box = page.locator(f'ul[role=listbox] li[aria-label="{word}"]').bounding_box()
            # The words themselves, with the pointer over whatever knob lies below: no forced click.
            page.mouse.click(box["x"] + 30, box["y"] + box["height"] / 2)
            expect(field).to_have_value(word)


def test_a_list_that_tab_passes_closes(site, visit):
    page = visit(site)
    page.locator("#settings[data-ready] > button").click()
    for knob in ("length", "search", "proxy"):
        field = page.locator(f"#knob-{knob} input")
        before = field.input_value()
        field.focus()
        expect(page.locator("ul[role=listbox]")).to_have_count(1)
        page.keyboard.press("Tab")
        expect(page.locator("ul[role=listbox]")).to_have_count(0)
        expect(field).not_to_be_focused()
        expect(field).to_have_value(before)


def test_the_first_stop_leads_to_the_player(site, visit):
    page = visit(site, "#race")
    expect(page.locator("#page-race-button")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to the player")
    expect(link).to_be_focused()
    assert link.bounding_box()["height"] > 20, "it is seen while it has the focus"
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_be_focused()
    expect(page.locator("#page-playground-button")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#step-label")).to_contain_text("Step")


def opened(page, field) -> list[str]:
    """Close what is open, open the list of a field, and give its words."""
    page.locator("#title h1").click()
    expect(page.locator("ul[role=listbox]")).to_have_count(0)
    field.click()
    choices = page.locator("ul[role=listbox] li")
    expect(choices.first).to_be_visible()
    page.wait_for_timeout(300)  # it slides in
    return [choices.nth(i).get_attribute("aria-label") for i in range(choices.count())]


def test_figures_of_a_run_that_began_meanwhile(site, visit):
    """A slow machine: plotly.js arrives after another run, which has no figures yet, took the page."""
    page = visit(site)
    page.evaluate("""async () => {
      const box = document.querySelector('.ds-player').cloneNode(true);
      box.querySelector('.ds-phases').replaceChildren();
      for (const bar of box.querySelectorAll('.ds-save')) bar.remove();
      box.querySelector('#text').replaceChildren();
      document.body.append(box);
      let arrive;
      const plotly = new Promise((done) => { arrive = done; });
      const player = DiffuSpecPlayer.mount(box, { plotly: () => plotly });
      player.data = { figures: {}, colours: {}, steps: [] };
      const drawn = player.drawFigures();
      player.data = { figures: null, colours: {}, steps: [] };
      arrive({});
      await drawn;
      player.destroy();
      box.remove();
    }""")
