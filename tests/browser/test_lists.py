"""Every list of the page opens above everything: each choice is taken by a click on its words."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect


@pytest.mark.parametrize("width, height", [(1440, 900), (820, 1100)])
def test_each_word_of_each_list_can_be_clicked(site, visit, width, height):
    page = visit(site, viewport={"width": width, "height": height})
    if page.locator("#knob-length").is_hidden():
        page.locator("#settings > button").click()
    lists = page.locator("#controls .knob:has(input[role=listbox], input[role=combobox])")
    count = lists.count()
    assert count >= 4
    for number in range(count):
        field = lists.nth(number).locator("input").first
        if not field.is_enabled():
            continue
        field.click()
        choices = page.locator("ul[role=listbox] li")
        words = [choices.nth(i).get_attribute("aria-label") for i in range(choices.count())]
        page.keyboard.press("Escape")
        for word in words:
            page.locator("#title h1").click() if width > 1000 else page.keyboard.press("Escape")
            field.blur()
            field.click()
            choice = page.locator(f'ul[role=listbox] li[aria-label="{word}"]')
            box = choice.bounding_box()
            # The words themselves, with the pointer over whatever knob lies below; no help of Playwright's.
            page.mouse.move(box["x"] + 30, box["y"] + box["height"] / 2)
            page.mouse.click(box["x"] + 30, box["y"] + box["height"] / 2)
            expect(field).to_have_value(word)
        if lists.nth(number).get_attribute("id") == "knob-length":
            field.click()
            page.locator('ul[role=listbox] li[aria-label="adl"]').click()


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
      const shown = JSON.parse(JSON.stringify(window.lastPayload ?? null));
      player.data = { figures: {}, colours: {}, steps: [] };
      const drawn = player.drawFigures();
      player.data = { figures: null, colours: {}, steps: [] };
      arrive({});
      await drawn;
      player.destroy();
      box.remove();
    }""")
